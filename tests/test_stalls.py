"""quants/stalls.py: the culprit is found, in Python and in C, and nobody else."""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from quants.metrics import Registry
from quants.monitor import Monitor
from quants.report import stall_lines, stall_of
from quants.stalls import (
    DEPTH,
    Stall,
    Stalls,
    WatcherThread,
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


def functions(stall: Stall) -> list[str]:
    return [function for _, function, _ in stall.stack]


def stalled(stalls: Stalls, culprit: Callable[[], object]) -> list[str]:
    """The functions that are blamed for a beat that came after the culprit."""
    due = time.perf_counter()
    stalls.expect(0.0)
    culprit()
    stalls.beat(time.perf_counter() - due)
    return functions(stalls.last[-1])


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
    stacks = [functions(stall) for stall in stalls.last]
    assert stalls.count == len(stacks)  # others, where the machine is busy
    test = "test_a_loop_that_python_code_stalls_has_its_culprit_and_who_called_it"
    found = stalls.last[stacks.index(["spin", f"{test}.<locals>.handler"])]
    assert found.seconds >= STALL - 0.1
    assert found.stack[0][0] == __name__


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


def test_who_ran_before_the_beat_was_late_is_not_blamed_nor_who_came_after():
    def innocent() -> None:
        spin(2 * LIMIT)

    def guilty() -> None:
        spin(due + STALL - time.perf_counter())

    with alone() as stalls:
        stalls.expect(0.0)
        spin(2 * LIMIT)  # the watchdog has looked, and will wake again
        stalls.beat(0.0)
        due = time.perf_counter() + 0.5
        stalls.expect(0.5)
        innocent()
        guilty()
        innocent()
        stalls.beat(STALL)
    assert functions(stalls.last[0])[0] == "spin"
    assert functions(stalls.last[0])[1].endswith("guilty")


def test_two_in_one_process_see_the_same_stall_and_each_other_not():
    with alone() as one, alone() as other:
        other.expect(0.0)
        assert stalled(one, lambda: spin(STALL))[0] == "spin"
        other.beat(STALL)
        assert functions(other.last[0])[0] == "spin"


def test_a_loop_on_another_thread_is_the_one_that_is_looked_at():
    found = []

    def elsewhere() -> None:
        found.extend(stalled(stalls, lambda: spin(STALL)))

    with alone() as stalls:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert found[0] == "spin"
    assert any(function.endswith("elsewhere") for function in found)


def test_the_watchdog_goes_with_its_owner_even_after_an_error():
    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError), alone() as stalls:
        fail_after(stalls.expect)
    assert set(threading.enumerate()) == before


def fail_after(expect: Callable[[float], None]) -> None:
    expect(0.0)
    raise ZeroDivisionError


def test_the_watchdog_wakes_when_a_beat_would_be_too_late():
    now = 1000.0
    stalls = Stalls(Registry(), 0.5, clock=lambda: now)
    assert stalls.patience() == 0.5  # nothing is expected
    stalls.expect(0.25)
    assert stalls.patience() == 0.75
    now += 1.0
    assert stalls.patience() == -0.25
    stalls.beat(0.75)
    assert stalls.patience() == 0.5


def test_a_loop_that_is_gone_is_looked_for_once():
    looks = 0

    class Counting(Stalls):
        def patience(self) -> float:
            nonlocal looks
            looks += 1
            return super().patience()

    with Counting(Registry(), LIMIT) as stalls:
        loop = threading.Thread(target=stalls.expect, args=(0.0,))
        loop.start()
        loop.join()
        spin(STALL)
    assert looks <= 2 * STALL / LIMIT + 4


def test_looking_at_code_that_runs_does_no_harm():
    """faulthandler, which does it without the GIL, ended the process."""

    def deep(levels: int) -> object:
        return deep(levels - 1) if levels else object()

    ends, stacks = time.perf_counter() + 1.0, set()
    with Stalls(Registry(), limit_seconds=0.0005) as stalls:
        while time.perf_counter() < ends:
            stalls.expect(0.0)
            for levels in range(50):
                deep(levels)
                list(map(deep, range(20)))
            stalls.beat(0.001)
            stacks.add(stalls.last[-1].stack)
    assert len(stacks) > 1


def test_the_last_stalls_are_kept_and_all_are_counted():
    stalls = Stalls(Registry(), LIMIT, keep=3)
    for late in range(1, 6):
        stalls.beat(late, at_seconds=late * 100)
    assert stalls.count == 5
    assert list(stalls.last) == [Stall(late * 100, late, ()) for late in (3, 4, 5)]


def test_a_stall_is_a_debug_record_and_a_metric(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG, "quants.stalls")
    registry = Registry()
    stalls = Stalls(registry, LIMIT)
    stalls.beat(0.25)
    assert caplog.messages == ["the loop stalled: 250 ms in a stack that was not seen"]
    families = text_string_to_metric_families(registry.exposition()[0].decode())
    found = {sample.name: sample.value for f in families for sample in f.samples}
    assert found["quants_event_loop_stalls_total"] == 1


# -- stacks -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stack", "kept"),
    [
        (["a f", "b g", "asyncio.events Handle._run", "c main"], 2),
        (["a f", "asyncio.runners Runner.run", "c main"], 1),  # uvloop
        (["__main__ f", "IPython.core.interactiveshell InteractiveShell.run_code"], 1),
        (["asyncio.events Handle._run", "c main"], 1),
        (["a Runner.run", "b Handle._run", "c main"], 3),
        ([f"a f{i}" for i in range(100)], DEPTH),
        ([], 0),
    ],
)
def test_a_stack_ends_where_the_loop_begins(stack: list[str], kept: int):
    pairs = (words.split() for words in stack)
    frames = tuple((module, function, 1) for module, function in pairs)
    assert trimmed(frames) == frames[:kept]


def test_a_report_tells_the_stalls_and_the_summary_the_longest():
    stalls = alone()
    assert list(stall_lines(stalls)) == []
    stalls.last += [
        Stall(3.0, 0.31, (("a.b", "f", 7), ("c", "g", 9))),
        Stall(5.0, 0.2, ()),
    ]
    stalls.count = 12
    assert stall_of(stalls.last[0]) == {
        "at_seconds": 3.0,
        "seconds": 0.31,
        "stack": ["f (a.b:7)", "g (c:9)"],
    }
    (line,) = stall_lines(stalls)
    assert line.split(maxsplit=1)[1] == (
        "12, the longest of the last: 310 ms in f (a.b:7) < g (c:9)"
    )


def test_the_repr_tells_how_many_and_the_last():
    stalls = alone()
    assert repr(stalls) == "<Stalls 0, none kept>"
    stalls.beat(1.5)
    assert repr(stalls) == "<Stalls 1, 1.5 s in a stack that was not seen>"
