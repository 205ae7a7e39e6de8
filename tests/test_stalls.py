"""quants/stalls.py: the culprit is found, in Python and in C, and nobody else."""

import asyncio
import faulthandler
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from quants.metrics import Registry
from quants.monitor import Monitor
from quants.report import stall_lines, stall_of
from quants.stalls import (
    DEPTH,
    Frame,
    Stall,
    Stalls,
    WatcherThread,
    stack_in,
    trimmed,
)
from quants.turns import gil_enabled

LIMIT = 0.05
STALL = 0.4  # seconds: time enough for the timer, on a machine with others
LOOPS = [asyncio.new_event_loop]
if sys.platform != "win32":
    import uvloop

    LOOPS.append(uvloop.new_event_loop)


def spin(seconds: float) -> None:
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        pass


def hold_the_gil(seconds: float) -> tuple[float, float]:
    """When a single call in C began that took so long, and when it ended."""
    n, began, ended = 1_000_000, 0.0, 0.0
    while ended - began < seconds:
        began = time.perf_counter()
        sum(range(n))
        ended = time.perf_counter()
        n *= 2
    return began, ended


def stalled(stalls: Stalls, culprit: Callable[[], object]) -> list[str]:
    """The functions that are blamed for a beat that came after the culprit."""
    due = time.perf_counter()
    stalls.expect(0.0)
    culprit()
    stalls.beat(time.perf_counter() - due)
    return [frame.function for frame in stalls.last[-1].stack]


def alone() -> Stalls:
    return Stalls(Registry(), LIMIT)


@pytest.mark.parametrize("new_loop", LOOPS, ids=lambda loop: loop.__module__)
def test_a_loop_that_python_code_stalls_has_its_culprit_and_who_called_it(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
):
    async def handler() -> None:
        spin(STALL)

    async def main() -> Monitor:
        with Monitor(Registry()) as monitor:
            beating = asyncio.create_task(monitor.run())
            while not monitor.lag.count:
                await asyncio.sleep(0.01)
            await asyncio.create_task(handler())
            while monitor.lag.maximum < STALL / 2:
                await asyncio.sleep(0.01)
            beating.cancel()
        return monitor

    with asyncio.Runner(loop_factory=new_loop) as runner:
        stalls = runner.run(main()).stalls
    stacks = [tuple(frame.function for frame in stall.stack) for stall in stalls.last]
    found = stacks.index(("spin", "handler")[: len(stacks[-1])])
    assert stalls.count == len(stacks)  # others, where the machine is busy
    assert stalls.last[found].seconds >= STALL - 0.1
    assert stalls.last[found].stack[0].file == "tests/test_stalls.py"


def test_the_culprit_is_found_while_a_call_in_c_holds_the_gil():
    with alone() as stalls, WatcherThread(threading.get_ident()):
        blamed = stalled(stalls, lambda: hold_the_gil(STALL))
    assert blamed[0] == "hold_the_gil"
    assert stalls.last[0].seconds >= STALL


@pytest.mark.skipif(not gil_enabled(), reason="without a GIL nobody is kept out")
def test_a_watching_thread_sees_nothing_of_a_call_that_holds_the_gil():
    looks: list[float] = []

    class Noting(WatcherThread):
        def note(self, function: str) -> None:
            looks.append(time.perf_counter())

    with Noting(threading.get_ident()) as watcher:
        began, ended = hold_the_gil(STALL)
    due = (ended - began) / watcher.interval
    inside = [look for look in looks if began < look < ended]
    # One may have had the GIL when the call began.
    assert len(inside) <= 1 < due / 10


async def test_a_loop_that_is_busy_in_small_steps_does_not_stall():
    with Monitor(Registry()) as monitor, WatcherThread(threading.get_ident()) as seer:
        beating = asyncio.create_task(monitor.run())
        began, worked = time.perf_counter(), 0.0
        while (passed := time.perf_counter() - began) < 1.0:
            since = time.perf_counter()
            spin(0.0002)
            worked += time.perf_counter() - since
            await asyncio.sleep(0)
        beating.cancel()
    # The histogram tells the truth: no stall, unless the machine made one.
    assert monitor.lag.count >= passed / 0.05 - 2
    limit = monitor.stalls.limit_seconds
    assert (monitor.stalls.count == 0) is (monitor.lag.maximum < limit)
    # The thread was to look 200 times. It saw the loop wait, which worked.
    if gil_enabled():
        due = passed / seer.interval
        assert seer.seen["spin"] / due < worked / passed / 2


def test_a_beat_in_time_leaves_nothing_behind():
    with alone() as stalls:
        for _ in range(3):
            stalls.expect(10.0)
            stalls.beat(LIMIT / 2)
    assert (stalls.count, list(stalls.last)) == (0, [])


def test_what_was_seen_of_one_beat_is_not_said_of_the_next():
    with alone() as stalls:
        stalls.expect(0.0)
        spin(STALL)
        stalls.beat(LIMIT / 2)  # says another clock
        stalls.expect(10.0)
        stalls.beat(LIMIT)
        assert [stall.stack for stall in stalls.last] == [()]
        assert stalled(stalls, lambda: spin(STALL))[0] == "spin"


@pytest.mark.parametrize("beat", [0.01, 0.05, 0.2, 1.0])
def test_the_timer_is_set_for_every_beat_and_seldom(
    beat: float, monkeypatch: pytest.MonkeyPatch
):
    now, limit, goes_off = 1000.0, 0.1, []

    def note(seconds: float, **_: object) -> None:
        goes_off.append(now + seconds)

    monkeypatch.setattr(faulthandler, "dump_traceback_later", note)
    with Stalls(Registry(), limit, clock=lambda: now) as stalls:
        for i in range(100):
            late = 0.4 * beat * (i % 3)
            now = 1000 + i * beat + late
            stalls.beat(late)
            stalls.expect(beat - late)
            due = 1000 + (i + 1) * beat
            assert due + limit / 3 <= goes_off[-1] <= max(due, now) + limit + 1e-9
    beats_each = max(1, 1 + int(limit * 2 / 3 / beat))
    assert len(goes_off) <= 100 / beats_each + 1


def test_the_last_stalls_are_kept_and_all_are_counted():
    stalls = Stalls(Registry(), LIMIT, keep=3)
    for late in range(1, 6):
        stalls.beat(late, at_seconds=late * 100)
    assert stalls.count == 5
    assert list(stalls.last) == [Stall(late * 100, late, ()) for late in (3, 4, 5)]


def test_the_second_in_a_process_counts_and_leaves_the_timer_to_the_first():
    with alone() as first, alone() as second:
        second.expect(10.0)

        def both() -> None:
            second.expect(10.0)
            with alone():
                pass
            spin(STALL)
            second.beat(STALL)

        assert stalled(first, both)[0] == "spin"
        assert list(second.last) == [Stall(0.0, STALL, ())]
    with alone() as third:
        assert stalled(third, lambda: spin(STALL))[0] == "spin"


def expect_and_fail(stalls: Stalls) -> None:
    stalls.expect(0.0)
    raise ZeroDivisionError


def test_after_its_end_no_timer_writes_into_the_file_of_somebody_else():
    files = psutil.Process().open_files()
    stalls = alone()
    with pytest.raises(ZeroDivisionError), stalls:
        expect_and_fail(stalls)
    assert psutil.Process().open_files() == files
    with tempfile.TemporaryFile() as other:  # has the number of the closed one
        spin(3 * LIMIT)
        assert other.seek(0, 2) == 0


def test_where_nothing_can_be_written_stalls_are_counted(
    monkeypatch: pytest.MonkeyPatch,
):
    def full(**_: object) -> None:
        raise OSError

    monkeypatch.setattr("quants.stalls.TemporaryFile", full)
    with alone() as stalls:
        assert stalled(stalls, lambda: spin(STALL)) == []
    assert stalls.count == 1
    monkeypatch.undo()
    with alone() as stalls:
        assert stalled(stalls, lambda: spin(STALL))[0] == "spin"


def test_the_crash_handler_is_as_before():
    before = faulthandler.is_enabled()
    with alone() as stalls:
        stalled(stalls, lambda: spin(STALL))
    assert faulthandler.is_enabled() is before
    program = """if True:
        import faulthandler, os
        from quants.metrics import Registry
        from quants.stalls import Stalls
        faulthandler.enable()
        with Stalls(Registry()) as stalls:
            stalls.expect(0.0)
        os.abort()
    """
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Fatal Python error: Aborted" in ended.stderr
    assert "Timeout" not in ended.stderr


def test_a_stall_is_a_debug_record_and_a_metric(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG, "quants.stalls")
    registry = Registry()
    stalls = Stalls(registry, LIMIT)
    stalls.beat(0.25)
    assert caplog.messages == ["the loop stalled: 250 ms in a stack that was not seen"]
    families = text_string_to_metric_families(registry.exposition()[0].decode())
    found = {sample.name: sample.value for f in families for sample in f.samples}
    assert found["quants_event_loop_stalls_total"] == 1


# -- what faulthandler writes -------------------------------------------------

DUMP = """Timeout (0:00:00.100000)!
Thread 0x00007f3bc52ff6c0 [sleeper] (most recent call first):
  File "/usr/lib/python3.15/threading.py", line 1161 in run

Thread 0x000000000000abcd [python] (most recent call first):
  File "/home/quants/kernels.py", line 4 in add
  File "/home/quants/vwap.py", line 7 in w\\xf6rk
  File "<string>", line 8 in <module>
  File "/usr/lib/python3.15/asyncio/events.py", line 94 in _run
"""


def test_the_stack_of_one_thread_is_read_among_others():
    assert stack_in(DUMP, 0xABCD) == (
        Frame("add", "quants/kernels.py", 4),
        Frame("w\\xf6rk", "quants/vwap.py", 7),
        Frame("<module>", "<string>", 8),
        Frame("_run", "asyncio/events.py", 94),
    )
    assert stack_in(DUMP, 0x7F3BC52FF6C0)[0].function == "run"
    current = DUMP.replace("Thread 0x000", "Current thread 0x000")
    assert stack_in(current, 0xABCD) == stack_in(DUMP, 0xABCD)


def test_a_thread_that_is_not_there_has_no_stack():
    assert stack_in(DUMP, 1) == stack_in("", 1) == ()


def frames(*names: str) -> tuple[Frame, ...]:
    return tuple(Frame(n.rpartition(":")[2], n.rpartition(":")[0], 1) for n in names)


@pytest.mark.parametrize(
    ("stack", "kept"),
    [
        (["a.py:f", "b.py:g", "asyncio/events.py:_run", "c.py:main"], 2),
        (["a.py:f", "asyncio/runners.py:run", "c.py:main"], 1),  # uvloop
        (["1/2.py:f", "1/2.py:<module>", "core/interactiveshell.py:run_code"], 2),
        (["asyncio/events.py:_run", "c.py:main"], 1),
        (["a.py:run", "b.py:_run", "c.py:main"], 3),
        ([f"a.py:f{i}" for i in range(100)], DEPTH),
        ([], 0),
    ],
)
def test_a_stack_ends_where_the_loop_begins(stack: list[str], kept: int):
    assert trimmed(frames(*stack)) == frames(*stack)[:kept]


def test_a_report_tells_the_stalls_and_the_summary_the_longest():
    stalls = alone()
    assert list(stall_lines(stalls)) == []
    stalls.last += [
        Stall(3.0, 0.31, (Frame("f", "a/b.py", 7), Frame("g", "c/d.py", 9))),
        Stall(5.0, 0.2, ()),
    ]
    stalls.count = 12
    assert stall_of(stalls.last[0]) == {
        "at_seconds": 3.0,
        "seconds": 0.31,
        "stack": ["f (a/b.py:7)", "g (c/d.py:9)"],
    }
    (line,) = stall_lines(stalls)
    assert line.split(maxsplit=1)[1] == (
        "12, the longest of the last: 310 ms in f (a/b.py:7) < g (c/d.py:9)"
    )


def test_the_repr_tells_how_many_and_the_last():
    stalls = alone()
    assert repr(stalls) == "<Stalls 0, none kept>"
    stalls.beat(1.5)
    assert repr(stalls) == "<Stalls 1, 1.5 s in a stack that was not seen>"
