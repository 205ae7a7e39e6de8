"""Workers that are killed, poisoned, stuck or orphaned: exact sums, no leftovers."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import psutil
import pytest

from quants.engines import EngineName, open_engine
from quants.errors import EnvironmentFault
from quants.feed_server import FeedServer
from quants.market import Market
from quants.pipeline import Pipeline
from quants.recovery import replay_segments
from quants.report import problems, report_of
from quants.settings import Settings
from quants.sums import Sums
from quants.tick import Rows
from quants.vwap import Engine
from quants.worker import Work
from tests.faulty_work import DEADLY, STUCK, Endless, Faulty, Unreadable, flagged
from tests.test_cli import DEADLINE, QUANTS, until
from tests.test_pipeline import rows_in_log
from tests.test_pipeline import running as running_pump
from tests.test_redis_server import gone
from tests.test_vwap import SYMBOLS, by_hand

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks into /proc, and stops processes"
)
KINDS: tuple[EngineName, ...] = ("shared", "processes")
both_kinds = pytest.mark.parametrize("kind", KINDS)
SHM = Path("/dev/shm")
ORPHANED_SECONDS = 3.0  # for whatever a killed pump leaves behind


# -- what there is of us ----------------------------------------------------------


def workers(pid: int | None = None) -> list[psutil.Process]:
    """The worker processes of a process, ours by default."""
    return [p for p in children(pid) if "--multiprocessing-fork" in words(p)]


def children(pid: int | None = None) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def words(process: psutil.Process) -> list[str]:
    """Its command line; of a process that is gone, none."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def mapped(pid: int | str) -> set[int]:
    """The pieces of shared memory that a process has, by inode: names change."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    except OSError:  # it has ended
        return set()
    return {int(inode) for inode in re.findall(r" (\d+) +/dev/shm/(?:psm_|sem)", maps)}


def orphans() -> set[int]:
    """Shared memory that has a name and no process, whoever left it."""
    named = set()
    for path in (*SHM.glob("psm_*"), *SHM.glob("sem.mp-*")):
        with suppress(FileNotFoundError):
            named.add(path.stat().st_ino)
    return named.difference(*map(mapped, psutil.pids())) if named else named


@dataclass(frozen=True)
class Traces:
    """What the system keeps for this process."""

    threads: frozenset[threading.Thread]
    children: frozenset[psutil.Process]
    memory: frozenset[int]
    files: int


def traces() -> Traces:
    """The traces of this moment; multiprocessing's tracker is always one."""
    resource_tracker.ensure_running()
    return Traces(
        frozenset(threading.enumerate()),
        frozenset(children()),
        frozenset(mapped("self") | orphans()),
        psutil.Process().num_fds(),
    )


def nothing_more_than(before: Traces) -> None:
    """Fail unless all that came since `before` goes away; some need a moment."""
    ends = time.monotonic() + DEADLINE / 4
    while time.monotonic() < ends:
        now = traces()
        more = (
            now.threads - before.threads,
            now.children - before.children,
            now.memory - before.memory,
            max(0, now.files - before.files),
        )
        if not any(more):
            return
        time.sleep(0.01)
    raise AssertionError(f"left behind: {more}")


async def seen(condition: Callable[[], Any], seconds: float = 0.002) -> None:
    """Return when a condition holds, fail when it never does."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(seconds)


def stuck() -> list[psutil.Process]:
    return [p for p in workers() if p.status() == psutil.STATUS_STOPPED]


# -- one engine, one fault --------------------------------------------------------


class Course:
    """Batches for an engine, and what came of each."""

    def __init__(self, batches: list[Rows]) -> None:
        self.batches = batches
        self.settled: list[tuple[int, bool]] = []

    async def submit(self, engine: Engine) -> None:
        for number, rows in enumerate(self.batches):
            await engine.submit(rows, partial(self.note, number))

    def note(self, number: int, summed: bool) -> None:
        self.settled.append((number, summed))

    def sums_without(self, *numbers: int) -> list[Sums]:
        return by_hand([b for n, b in enumerate(self.batches) if n not in numbers])

    def each_settled_once(self) -> bool:
        return sorted(n for n, _ in self.settled) == [*range(len(self.batches))]


def ten_with(flag: int) -> Course:
    """Ten batches that fit into the queues of two workers, the fifth flagged."""
    market = Market(seed=4, symbols=SYMBOLS)
    batches = [market.take(500) for _ in range(10)]
    batches[4] = flagged(batches[4], flag)
    return Course(batches)


@asynccontextmanager
async def opened(
    kind: EngineName, work: Work, workers: int = 2, seconds: float = DEADLINE
) -> AsyncIterator[Engine]:
    async with asyncio.timeout(seconds), open_engine(kind, work, workers) as engine:
        yield engine


def replaced_by(kind: EngineName, deaths: int) -> int:
    """A pool of processes breaks as a whole: both of its workers are replaced."""
    return deaths * (2 if kind == "processes" else 1)


@both_kinds
def test_a_batch_whose_worker_is_killed_over_it_is_done_again(
    kind: EngineName, tmp_path: Path
):
    """The worker stops itself in the middle of the batch, and there it dies."""
    course = ten_with(STUCK)

    async def main() -> Engine:
        work = Faulty(SYMBOLS, once=str(tmp_path / "once"))
        async with opened(kind, work) as engine:
            await course.submit(engine)
            await seen(stuck)
            stuck()[0].kill()
            await engine.drain()
        return engine

    before = traces()
    engine = asyncio.run(main())
    assert engine.sums() == course.sums_without()
    assert course.each_settled_once()
    assert all(summed for _, summed in course.settled)
    assert (engine.replaced, engine.set_aside) == (replaced_by(kind, 1), 0)
    nothing_more_than(before)


@both_kinds
def test_a_batch_that_kills_every_worker_is_set_aside_and_the_rest_flows(
    kind: EngineName,
):
    course = ten_with(DEADLY)

    async def main() -> Engine:
        async with opened(kind, Faulty(SYMBOLS)) as engine:
            await course.submit(engine)
            await engine.drain()
        return engine

    before = traces()
    engine = asyncio.run(main())
    assert course.each_settled_once()
    assert [n for n, summed in course.settled if not summed] == [4]
    assert engine.sums() == course.sums_without(4)
    assert engine.set_aside == 1
    if kind == "shared":
        assert engine.replaced == 3
    nothing_more_than(before)


async def test_a_worker_that_hangs_is_replaced_and_its_batch_done_once(
    monkeypatch, tmp_path: Path
):
    monkeypatch.setattr("quants.shared.HANG_SECONDS", 0.2)
    course = ten_with(STUCK)
    work = Faulty(SYMBOLS, once=str(tmp_path / "once"))
    async with opened("shared", work) as engine:
        await course.submit(engine)
        await engine.drain()
    assert engine.sums() == course.sums_without()
    assert course.each_settled_once()
    assert (engine.replaced, engine.set_aside) == (1, 0)


@both_kinds
def test_a_worker_that_hangs_does_not_keep_its_engine_open(
    kind: EngineName, monkeypatch, tmp_path: Path
):
    """It is killed when asking has not helped; nobody counts that as a fault."""
    for module in ("engines", "lane"):
        monkeypatch.setattr(f"quants.{module}.STOP_SECONDS", 0.2)
    course = ten_with(STUCK)
    complaints: list[Any] = []

    async def main() -> Engine:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context)
        )
        work = Faulty(SYMBOLS, once=str(tmp_path / "once"))
        async with opened(kind, work) as engine:
            await course.submit(engine)
            await seen(stuck)
        return engine

    before = traces()
    engine = asyncio.run(main())
    assert complaints == []
    assert len(course.settled) < 10
    assert sum(s.ticks for s in engine.sums()) == 500 * len(course.settled)
    nothing_more_than(before)


@both_kinds
def test_workers_killed_as_their_engine_closes_are_no_fault(kind: EngineName):
    """Their batches are in flight, and nobody waits for them any more."""
    course = ten_with(0)
    complaints: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context)
        )
        async with opened(kind, Faulty(SYMBOLS)) as engine:
            await course.submit(engine)
            for worker in workers():
                with suppress(psutil.NoSuchProcess):
                    worker.kill()
            raise Left

    before = traces()
    with pytest.raises(ExceptionGroup) as group:
        asyncio.run(main())
    assert group.group_contains(Left)
    assert complaints == []
    nothing_more_than(before)


class Left(Exception):
    """The block was left by an error of its own."""


@both_kinds
@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.long)])
async def test_workers_killed_while_nothing_is_in_flight_are_replaced(
    kind: EngineName, times: int
):
    """Both at once: whoever starts a process then looks after all the dead."""
    market = Market(seed=5, symbols=SYMBOLS)
    course = Course([market.take(10) for _ in range(times)])
    async with opened(kind, Work(SYMBOLS), seconds=DEADLINE * times) as engine:
        files = 0
        for number, rows in enumerate(course.batches):
            await seen(lambda: complete(engine))
            files = files or psutil.Process().num_fds()
            for worker in workers():
                with suppress(psutil.NoSuchProcess):  # a broken pool ends the other
                    worker.kill()
            await engine.submit(rows, partial(course.note, number))
            await engine.drain()
        await seen(lambda: complete(engine) and psutil.Process().num_fds() <= files)
    assert course.each_settled_once()
    assert engine.sums() == course.sums_without()


def complete(engine: Engine) -> bool:
    """Whether both workers are there, and ready as far as anybody can say."""
    lanes = getattr(engine, "lanes", ())
    return len(workers()) == 2 and all(lane.open for lane in lanes)


async def test_a_successor_killed_while_it_starts_has_a_successor():
    course = ten_with(0)
    async with opened("shared", Work(SYMBOLS), workers=1) as engine:
        (first,) = workers()
        first.kill()
        await seen(lambda: workers() not in ([], [first]))
        (second,) = workers()
        second.kill()
        await course.submit(engine)
        await engine.drain()
    assert course.each_settled_once()
    assert engine.sums() == course.sums_without()
    assert engine.replaced == 2


# -- workers that do not start ----------------------------------------------------


@both_kinds
def test_a_worker_that_ends_before_it_is_ready_is_one_sentence(kind: EngineName, capfd):
    async def main() -> None:
        async with opened(kind, Unreadable(SYMBOLS)):
            pass

    before = traces()
    with pytest.raises(EnvironmentFault) as fault:
        asyncio.run(main())
    assert "a VWAP worker cannot start: " in str(fault.value)
    assert ": ;" not in str(fault.value)
    assert "--engine inline" in str(fault.value)
    assert "\n" not in str(fault.value)
    nothing_more_than(before)
    assert "this work cannot be unpickled" in capfd.readouterr().err


@both_kinds
def test_a_worker_that_is_never_ready_is_one_sentence(kind: EngineName, monkeypatch):
    for module in ("engines", "lane"):
        monkeypatch.setattr(f"quants.{module}.START_SECONDS", 0.2)
        monkeypatch.setattr(f"quants.{module}.STOP_SECONDS", 0.2)

    async def main() -> None:
        async with opened(kind, Endless(SYMBOLS)):
            pass

    before = traces()
    with pytest.raises(EnvironmentFault, match=r"ready within 0\.2 s") as fault:
        asyncio.run(main())
    assert "--engine inline" in str(fault.value)
    nothing_more_than(before)


@both_kinds
def test_no_interrupt_reaches_a_worker_not_even_one_that_starts(kind: EngineName):
    """Ctrl-C goes to the whole group, at any moment."""
    sent = 0

    async def interrupting() -> None:
        nonlocal sent
        while True:
            for worker in workers():
                worker.send_signal(signal.SIGINT)
                sent += 1
            await asyncio.sleep(0.001)

    async def main() -> Engine:
        storm = asyncio.create_task(interrupting())
        async with opened(kind, Work(SYMBOLS)) as engine:
            await course.submit(engine)
            await engine.drain()
            await seen(lambda: sent > 100)
            storm.cancel()
        return engine

    course = ten_with(0)
    engine = asyncio.run(main())
    assert engine.sums() == course.sums_without()
    assert engine.replaced == 0


# -- the whole pump ---------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        tick_rate=50_000,
        symbols=SYMBOLS,
        cores=2,
        kernel="python",
        metrics_port=0,
        log_file=tmp_path / "ticks.log",
    )


async def killed(settings: Settings, kills: int, choose: random.Random) -> Pipeline:
    """Run a pump and kill its workers, each at a tick that `choose` draws."""
    pipeline = Pipeline(settings)
    async with running_pump(pipeline):
        for _ in range(kills):
            await kill_one(pipeline, choose)
        pipeline.stop()
    return pipeline


async def kill_one(pipeline: Pipeline, choose: random.Random) -> None:
    """Kill a worker with a batch in flight, and wait until it is made good.

    So no batch meets two kills; after three it would be set aside.
    """
    vwap, engine = pipeline.vwap, pipeline.vwap.engine
    replaced = engine.replaced
    due = pipeline.snapshot().received + choose.randrange(2_000, 12_000)
    await seen(lambda: pipeline.snapshot().received >= due and vwap.in_flight)
    choose.choice(workers()).kill()
    await seen(lambda: engine.replaced > replaced and not vwap.in_flight)
    await seen(lambda: complete(engine), 0.05)  # it looks at every process


@both_kinds
@pytest.mark.parametrize("kills", [5, pytest.param(30, marks=pytest.mark.long)])
def test_a_pump_whose_workers_are_killed_loses_and_doubles_nothing(
    kind: EngineName, kills: int, settings: Settings, record_property
):
    seed = random.randrange(2**32)
    print("seed", seed)
    before = traces()
    changed = replace(settings, engine=kind)
    pipeline = asyncio.run(killed(changed, kills, random.Random(seed)))
    nothing_more_than(before)
    now = pipeline.snapshot()
    rows = Market(settings.seed, SYMBOLS, settings.tick_rate).take(now.received)
    assert now.sent == now.received
    assert pipeline.vwap.engine.set_aside == 0
    assert pipeline.vwap.sums() == by_hand([rows])
    assert rows_in_log(settings.log_file).tobytes() == rows.tobytes()
    assert all(s.processed == now.received for s in now.consumers.values())
    assert problems(pipeline) == []
    assert kills <= pipeline.vwap.engine.replaced <= replaced_by(kind, kills)
    record_property("kills", kills)
    record_property("ticks", now.received)


class PoisonedMarket(Market):
    """The market, with one tick that no worker survives."""

    def take(self, n: int) -> Rows:
        first, rows = self.next_seq, super().take(n)
        if first <= 3_000 < first + n:
            rows = rows.copy()
            rows["flags"][3_000 - first] = DEADLY
        return rows


@both_kinds
async def test_a_pump_that_sets_a_batch_aside_says_that_it_is_incomplete(
    kind: EngineName, settings: Settings, monkeypatch, record_property
):
    monkeypatch.setattr("quants.pipeline.Work", Faulty)
    market = PoisonedMarket(seed=1, symbols=SYMBOLS, tick_rate=50_000)
    async with FeedServer(market, 50_000) as feed:
        told = replace(settings, feed_url=feed.url, tick_rate=1000, symbols=8)
        pipeline = Pipeline(replace(told, engine=kind, kernel="numpy"))
        async with running_pump(pipeline):
            await feed.publish(20_000)
        report = report_of(pipeline)

    batches = [b for _, b in replay_segments(settings.log_file)]
    (poisoned,) = [b for b in batches if b.first_seq <= 3_000 < b.next_seq]
    innocent = [b.rows for b in batches if b is not poisoned]
    lost = len(poisoned)
    assert pipeline.vwap.sums() == by_hand(innocent)
    assert pipeline.vwap.set_aside == lost
    counts = report["counts"]["consumers"]["vwap"]
    assert counts == {
        "received": 20_000, "processed": 20_000 - lost, "dropped": lost,
        "conflated": 0, "queued": 0,
    }  # fmt: skip
    assert report["engine"]["set_aside"] == 1
    assert not any(row["complete"] for row in report["vwap"].values())
    assert report["problems"] == [f"vwap dropped {lost} ticks"]
    record_property("ticks set aside and counted", lost)


# -- the pump as a process --------------------------------------------------------


@contextmanager
def pump(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`quants run` on two cores as leader of a process group, past its opening."""
    command = [*QUANTS, "run", "--cores", "2", "--metrics-port", "0", *options]
    with (
        open(folder / "err", "w", encoding="utf-8") as said,
        subprocess.Popen(
            command, cwd=folder, stdout=said, stderr=said, start_new_session=True
        ) as child,
    ):
        try:
            until(folder, r"\d s .* received")
            yield child
        finally:
            child.kill()


@both_kinds
def test_a_killed_pump_leaves_no_worker_no_redis_and_no_shared_memory(
    kind: EngineName, tmp_path: Path, record_property
):
    before = orphans()
    with pump(tmp_path, "--engine", kind) as child:
        left = children(child.pid)
        assert len(workers(child.pid)) == 2
        assert any("redis" in " ".join(words(process)) for process in left)
        child.kill()
        child.wait()
        ends = time.monotonic() + ORPHANED_SECONDS
        assert all(gone(p.pid, ends - time.monotonic()) for p in left)
        record_property("processes gone with theirs", len(left))
    while orphans() - before and time.monotonic() < ends:
        time.sleep(0.01)
    assert orphans() - before == set()


def test_a_pump_killed_with_its_whole_group_leaves_no_shared_memory(tmp_path: Path):
    """Nobody is left to tidy up: the names were gone when the workers were ready."""
    before = orphans()
    with pump(tmp_path, "--engine", "shared") as child:
        left = children(child.pid)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        ends = time.monotonic() + ORPHANED_SECONDS
        assert all(gone(p.pid, ends - time.monotonic()) for p in left)
    assert orphans() - before == set()


@both_kinds
def test_an_interrupt_of_the_whole_group_drains_the_pump(
    kind: EngineName, tmp_path: Path
):
    """As Ctrl-C at a terminal does: pump, workers and tracker all get it."""
    options = ("--engine", kind, "--tick-rate", "50000", "--report", "r.json")
    with pump(tmp_path, *options) as child:
        os.killpg(child.pid, signal.SIGINT)
        child.wait(DEADLINE)
    said = (tmp_path / "err").read_text(encoding="utf-8")
    assert child.returncode == 0, said
    assert "Traceback" not in said
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    sent = report["counts"]["sent"]
    symbols = list(report["vwap"].values())
    rows = Market(1, len(symbols), 50_000).take(sent)
    assert report["engine"]["replaced"] == 0
    assert sent == report["counts"]["consumers"]["vwap"]["processed"] > 0
    assert [
        (row["price_size_sum"], row["size_sum"], row["ticks"]) for row in symbols
    ] == [exact(rows, number) for number in range(len(symbols))]


def exact(rows: Rows, symbol: int) -> tuple[int, int, int]:
    """One symbol's sums, in Python's integers."""
    traded = rows[rows["symbol"] == symbol]
    prices, sizes = traded["price"].tolist(), traded["size"].tolist()
    products = (p * s for p, s in zip(prices, sizes, strict=True))
    return sum(products), sum(sizes), len(traded)
