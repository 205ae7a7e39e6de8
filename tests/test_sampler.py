"""The sampler: right shares, of a loop too, and files that others can read."""

import asyncio
import json
import os
import pstats
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from quants.errors import EnvironmentFault
from quants.host import ringing
from quants.sampler import (
    Sampler,
    Stack,
    collapsed,
    profiled,
    speedscope,
    stack_of,
    waits,
)
from tests.test_cli import DEADLINE, QUANTS, quants, started, until

HAS_TIMER = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="Windows has no interval timer"
)
SECONDS = 1.0  # of work to sample: some 200 samples
LOOPS = [asyncio.new_event_loop]
if sys.platform != "win32":
    import uvloop

    LOOPS.append(uvloop.new_event_loop)


@contextmanager
def sampling() -> Iterator[Sampler]:
    sampler = Sampler()
    with ringing(sampler.interval, sampler.take):
        yield sampler


def share(stacks: Counter[Stack], function: str) -> float:
    """The share of samples with a function anywhere in their stack."""
    inside = sum(
        samples
        for stack, samples in stacks.items()
        if any(name == function for _, name, _ in stack)
    )
    return inside / stacks.total()


def burn(steps: int) -> int:
    return sum(step * step for step in range(steps * 1000))


def heavy() -> int:
    return burn(7)


def light() -> int:
    return burn(3)


# -- shares -----------------------------------------------------------------


@HAS_TIMER
def test_work_of_70_to_30_is_found_so():
    with sampling() as sampler:
        ends = time.perf_counter() + SECONDS
        while time.perf_counter() < ends:
            heavy()
            light()
    assert share(sampler.stacks, "heavy") == pytest.approx(0.7, abs=0.1)
    assert share(sampler.stacks, "light") == pytest.approx(0.3, abs=0.1)


@HAS_TIMER
def test_a_long_call_in_c_counts_for_all_its_time():
    """Without the weights, sorting got 8 % of the samples and not 70."""
    numbers, sorting = np.random.default_rng(1).random(1_000_000), 0.0
    with sampling() as sampler:
        begin = time.perf_counter()
        while time.perf_counter() < begin + SECONDS:
            since = time.perf_counter()
            np.sort(numbers)
            sorting += time.perf_counter() - since
            burn(300)
        true = sorting / (time.perf_counter() - begin)
    assert share(sampler.stacks, "sort") == pytest.approx(true, abs=0.1)


@HAS_TIMER
@pytest.mark.parametrize("new_loop", LOOPS, ids=lambda loop: loop.__module__)
def test_a_loop_that_waits_is_seen_to_wait(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
):
    """Regular rings found 0.11 to 0.45 of what random ones find within 0.05."""
    busy = 0.0

    async def paced() -> float:
        nonlocal busy
        begin = time.perf_counter()
        while time.perf_counter() < begin + SECONDS:
            since = time.perf_counter()
            burn(10)
            busy += time.perf_counter() - since
            await asyncio.sleep(0.001)
        return time.perf_counter() - begin

    with asyncio.Runner(loop_factory=new_loop) as runner, sampling() as sampler:
        took = runner.run(paced())
    waited = sum(n for stack, n in sampler.stacks.items() if waits(stack))
    assert share(sampler.stacks, "burn") == pytest.approx(busy / took, abs=0.12)
    assert waited / sampler.stacks.total() == pytest.approx(1 - busy / took, abs=0.2)


@HAS_TIMER
@pytest.mark.parametrize("new_loop", LOOPS, ids=lambda loop: loop.__module__)
def test_no_byte_is_lost_on_a_loop_that_is_interrupted_all_the_time(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
):
    """A ring each 0.2 ms, in the middle of whatever system call there is."""
    sent = [random.Random(1).randbytes(9973)] * 100

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(4096):
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def there_and_back() -> bytes:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            reading = asyncio.create_task(reader.read(-1))
            for piece in sent:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            writer.write_eof()
            back = await reading
            writer.close()
        return back

    rings = 0

    def ring(frame: FrameType | None) -> float:
        nonlocal rings
        rings += 1
        return 0.0002

    with asyncio.Runner(loop_factory=new_loop) as runner, ringing(0.0002, ring):
        assert runner.run(there_and_back()) == b"".join(sent)
    assert rings > 10


# -- one sample -------------------------------------------------------------


def test_a_stack_counts_for_the_samples_that_were_due():
    now = 0.0
    sampler = Sampler(interval=1.0, clock=lambda: now)
    worth = []
    for late in (0.0, 0.4, 3.0, 10.2):
        now = sampler._due + late
        before = sampler.stacks.total()
        pause = sampler.take(None)
        assert 0.5 <= pause <= 1.5
        worth.append(sampler.stacks.total() - before)
    assert worth == [1, 1, 4, 11]


def test_a_stack_reads_from_the_outside_in():
    def inner() -> Stack:
        return stack_of(sys._getframe())

    here = "test_a_stack_reads_from_the_outside_in"
    assert [(module, function) for module, function, _ in inner()[-2:]] == [
        (__name__, here),
        (__name__, f"{here}.<locals>.inner"),
    ]


# -- files ------------------------------------------------------------------

STACKS: Counter[Stack] = Counter(
    {
        (("app", "main", 1), ("app", "f", 5)): 2,
        (("app", "main", 1),): 3,
    }
)


def test_collapsed_stacks_have_a_line_each_the_heaviest_first():
    assert collapsed(STACKS) == "app:main:1 3\napp:main:1;app:f:5 2\n"


def test_speedscope_gets_every_frame_once_and_every_stack_with_its_seconds():
    told = json.loads(speedscope(STACKS, 0.5))
    frames = [(f["file"], f["name"], f["line"]) for f in told["shared"]["frames"]]
    assert frames == [("app", "main", 1), ("app", "f", 5)]
    profile = told["profiles"][0]
    assert profile["samples"] == [[0, 1], [0]]
    assert profile["weights"] == [1.0, 1.5]
    assert (profile["endValue"], profile["unit"]) == (2.5, "seconds")


# -- where it cannot be -----------------------------------------------------


def test_another_thread_is_refused_with_its_name(tmp_path: Path):
    told: list[str] = []

    def attempt() -> None:
        with pytest.raises(EnvironmentFault) as refusal:
            profiled(tmp_path / "p.txt", told.append).__enter__()
        told.append(str(refusal.value))

    thread = threading.Thread(target=attempt, name="worker-1")
    thread.start()
    thread.join()
    assert "main thread" in told[0]
    assert "worker-1" in told[0]
    assert list(tmp_path.iterdir()) == []


def test_without_a_timer_another_profiler_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delattr(signal, "setitimer", raising=False)
    with pytest.raises(EnvironmentFault, match="python -m cProfile -o"):
        profiled(tmp_path / "p.txt", print).__enter__()
    assert list(tmp_path.iterdir()) == []


@HAS_TIMER
def test_the_timer_is_off_and_the_handler_back_at_the_end():
    before = signal.getsignal(signal.SIGALRM)
    with sampling():
        assert signal.getsignal(signal.SIGALRM) != before
        assert signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == before


# -- a run ------------------------------------------------------------------


@HAS_TIMER
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_profiled_run_answers_its_metrics_and_drains_on_ctrl_c(
    loop: str, tmp_path: Path
):
    arguments = ("run", "--metrics-port", "0", "--tick-rate", "20000", "--loop", loop)
    with started(*arguments, "--profile", "p.txt", cwd=tmp_path) as child:
        said = until(tmp_path, r"1\.0 s ")
        url = said.split("metrics: ")[1].split()[0]
        for _ in range(20):
            with urllib.request.urlopen(f"{url}metrics", timeout=DEADLINE) as answer:
                assert json.load(answer)["ticks_processed"] > 0
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=DEADLINE)
    assert child.returncode == 0
    lines = (tmp_path / "p.txt").read_text(encoding="utf-8").splitlines()
    samples = sum(int(line.rpartition(" ")[2]) for line in lines)
    assert f"profile p.txt: {samples:,} samples, the loop waited in" in (
        tmp_path / "err"
    ).read_text(encoding="utf-8")
    assert samples > 100
    assert any("quants.pipeline:Pipeline.run:" in line for line in lines)
    assert not (tmp_path / "p.txt.part").exists()


@HAS_TIMER
def test_a_profile_that_ends_in_json_is_for_speedscope(tmp_path: Path):
    run = ("run", "--duration", "0.5", "--metrics-port", "0", "--profile", "p.json")
    assert quants(*run, cwd=tmp_path).returncode == 0
    told = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    names = {frame["name"] for frame in told["shared"]["frames"]}
    assert "Pipeline.run" in names


CPROFILE = [sys.executable, "-m", "cProfile", "-o", "profile.stats", *QUANTS[1:]]


def profiled_functions(folder: Path) -> set[str]:
    """The functions of the package in the statistics of cProfile."""
    stats = pstats.Stats(str(folder / "profile.stats"))
    called = stats.stats  # type: ignore[attr-defined]
    return {name for file, _, name in called if f"{os.sep}quants{os.sep}" in file}


def test_cprofile_of_a_run_leaves_readable_statistics(tmp_path: Path):
    ended = subprocess.run(
        [*CPROFILE, "run", "--duration", "0.5", "--metrics-port", "0"],
        cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert {"run_pump", "publish", "check"} <= profiled_functions(tmp_path)
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C there is another event")
def test_cprofile_leaves_its_statistics_after_ctrl_c_too(tmp_path: Path):
    errors = tmp_path / "err"
    with (
        errors.open("w", encoding="utf-8") as stderr,
        subprocess.Popen(
            [*CPROFILE, "run", "--metrics-port", "0"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=stderr, text=True,
        ) as child,
    ):  # fmt: skip
        try:
            until(tmp_path, r"1\.0 s ")
            child.send_signal(signal.SIGINT)
            said, _ = child.communicate(timeout=DEADLINE)
        finally:
            child.kill()
    assert child.returncode == 0
    assert "GC pauses" in said
    assert {"run_pump", "publish", "check"} <= profiled_functions(tmp_path)
