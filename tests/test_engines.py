"""Engines: wherever VWAP is computed, the same sums, and nothing left behind."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from quants.engines import ENGINES, EngineName, chosen, open_engine, reason_against
from quants.errors import SettingsError, StageFailed
from quants.kernels import KernelName
from quants.market import Market
from quants.pipeline import Pipeline
from quants.pools import TickPool
from quants.settings import Settings
from quants.sums import Sums
from quants.tick import NO_ROWS, Rows, rows_of
from quants.vwap import Engine
from quants.worker import Work
from tests.faulty_work import SLOW, Faulty, flagged
from tests.test_pipeline import conserved
from tests.test_vwap import SYMBOLS, any_ticks, by_hand, signed_ticks, ticks
from tests.test_workers import nothing_more_than, traces

HERE = [name for name in ENGINES if reason_against(name, "python") is None]
NUMPY_HERE = [name for name in ENGINES if reason_against(name, "numpy") is None]
WITH_WORKERS = [name for name in NUMPY_HERE if name != "inline"]


# -- the same sums ------------------------------------------------------------

Way = tuple[EngineName, KernelName, int]  # where, how, and the size of its pool


def ways() -> Iterator[Way]:
    """Every engine with every kernel, through a pool and not."""
    for name in HERE:
        if reason_against(name, "numpy") is None:
            yield name, "numpy", 0
        yield name, "python", 0
        if name != "interpreters":  # they have no leases to read through
            yield name, "python", 16


WAYS = list(ways())
CASES = 300


@pytest.fixture(scope="module")
def everywhere() -> Iterator[tuple[asyncio.Runner, list[Engine]]]:
    """All engines, opened once, and the loop they live on."""

    async def opened(stack: AsyncExitStack) -> list[Engine]:
        engines = []
        for name, kernel, size in WAYS:
            work = Work(SYMBOLS, kernel, size)
            workers = 2 if kernel == "numpy" else 1
            engine = open_engine(name, work, workers, TickPool(size) if size else None)
            engines.append(await stack.enter_async_context(engine))
        return engines

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        engines = runner.run(opened(stack))
        yield runner, engines
        runner.run(stack.aclose())


async def summed(engine: Engine, batches: list[Rows]) -> list[Sums]:
    """What an engine that may have summed before makes of these batches."""
    settled: list[bool] = []
    before = engine.sums()
    for rows in batches:
        await engine.submit(rows, settled.append)
    await engine.drain()
    assert settled == [True] * len(batches)
    return [less(now, then) for now, then in zip(engine.sums(), before, strict=True)]


def less(now: Sums, then: Sums) -> Sums:
    return Sums(
        now.price_size - then.price_size, now.size - then.size, now.ticks - then.ticks
    )


any_bits = st.integers(1, 63).flatmap(lambda bits: ticks(2**bits - 1))


@st.composite
def largest(draw: st.DrawFn) -> Rows:
    """One trade again and again, the largest of so many bits: all bounds met."""
    price, size = (2 ** draw(st.integers(1, 63)) - 1 for _ in range(2))
    return rows_of([(0, price, size, 0, 0)] * draw(st.integers(1, 40)))


@st.composite
def in_pieces(draw: st.DrawFn) -> tuple[Rows, list[Rows]]:
    """Ticks, and the same cut anywhere, pieces in any order, some of them empty."""
    rows = draw(any_bits | any_ticks | signed_ticks | largest())
    cuts = draw(st.lists(st.integers(0, len(rows)), max_size=7).map(sorted))
    return rows, draw(st.permutations(np.split(rows, cuts)))


def check_all_engines(
    everywhere: tuple[asyncio.Runner, list[Engine]], case: tuple[Rows, list[Rows]]
) -> None:
    (runner, engines), (rows, pieces) = everywhere, case
    expected = by_hand([rows])
    for way, engine in zip(WAYS, engines, strict=True):
        assert runner.run(summed(engine, pieces)) == expected, way


def many(cases: int) -> settings:
    """So many cases; each engine's share of an example is one."""
    slow_start = [HealthCheck.too_slow]
    examples = -(-cases // len(WAYS))
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=slow_start
    )


# Three products of 62 bits: their sum is the first that int64 cannot hold.
BEYOND_INT64 = rows_of([(0, 2**31 - 1, 2**31 - 1, 0, 0)] * 3)


@many(CASES)
@given(case=in_pieces())
@example(case=(BEYOND_INT64, [BEYOND_INT64]))
def test_every_engine_gives_the_same_exact_sums(everywhere, case):
    check_all_engines(everywhere, case)


@pytest.mark.long
@many(12_000)
@given(case=in_pieces())
def test_every_engine_gives_the_same_exact_sums_in_12_000_cases(everywhere, case):
    check_all_engines(everywhere, case)


def test_every_engine_sums_the_market_as_it_streams(everywhere):
    """Full slots, more batches than may be in flight, views into larger arrays."""
    runner, engines = everywhere
    rows = Market(seed=11, symbols=SYMBOLS).take(40_960)
    batches = [*np.split(rows, 40), rows[:4096], rows[::11], rows[::-3][:100], NO_ROWS]
    expected = by_hand(batches)
    for way, engine in zip(WAYS, engines, strict=True):
        assert runner.run(summed(engine, batches)) == expected, way


def test_workers_count_what_their_tick_pools_did_in_the_pool_of_the_run(everywhere):
    runner, engines = everywhere
    rows = Market(seed=12, symbols=SYMBOLS).take(100)
    pools = 0
    for (name, _, size), engine in zip(WAYS, engines, strict=True):
        if size and name != "inline":
            pool = getattr(engine, "pool", TickPool(0))
            hits, misses = pool.hits, pool.misses
            runner.run(summed(engine, [rows]))
            assert (pool.hits - hits, pool.misses - misses) == (size, 100 - size)
            pools += 1
    assert pools == sum(1 for name, _, size in WAYS if size and name != "inline") > 0


# -- what is refused ------------------------------------------------------------


async def test_an_engine_that_this_python_lacks_is_refused_in_one_sentence():
    kernel: KernelName = "numpy"  # which no Python loads in a sub-interpreter
    with pytest.raises(SettingsError) as refusal:
        async with open_engine("interpreters", Work(1, kernel)):
            pass
    sentence = str(refusal.value)
    assert sentence.startswith("engine=interpreters: ")
    assert "\n" not in sentence
    assert "shared works on every one" in sentence or "--kernel python" in sentence


def test_auto_is_inline_on_one_core_and_shared_on_more():
    assert (chosen("auto", 1), chosen("auto", 2)) == ("inline", "shared")
    assert chosen("threads", 1) == "threads"


async def test_a_batch_that_no_slot_holds_is_refused_and_nothing_waits_for_it():
    rows = Market(symbols=SYMBOLS).take(4097)
    async with open_engine("shared", Work(SYMBOLS), 1) as engine:
        with pytest.raises(ValueError, match="4097 rows; a slot holds 4096"):
            await engine.submit(rows, print)
        assert await summed(engine, [rows[:4096]]) == by_hand([rows[:4096]])


@pytest.mark.parametrize("name", NUMPY_HERE)
async def test_an_error_in_a_kernel_is_the_error_of_the_block(name: EngineName):
    """A symbol that is not in the table; a frame with one never gets so far."""
    outside = rows_of([(0, 1, 1, SYMBOLS, 0)])
    failures: list[BaseException] = []
    try:
        async with open_engine(name, Work(SYMBOLS), 1) as engine:
            await engine.submit(outside, print)
            await engine.drain()
    except* (IndexError, StageFailed) as group:
        failures += group.exceptions
    (failure,) = failures
    if name == "inline":  # which knows that its sums may hold half of the batch
        assert isinstance(failure, StageFailed)
        failure = failure.fault
    assert type(failure) is IndexError


# -- from open to closed ----------------------------------------------------------


async def used_once(name: EngineName) -> None:
    rows = Market(seed=1, symbols=SYMBOLS).take(500)
    async with open_engine(name, Work(SYMBOLS), 2) as engine:
        assert await summed(engine, [rows]) == by_hand([rows])


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.long)])
def test_an_engine_opened_and_closed_again_and_again_leaves_nothing(
    name: EngineName, times: int
):
    """Each on a loop of its own, none of which is the first."""
    if reason_against(name, "numpy"):
        pytest.skip(f"{reason_against(name, 'numpy')}")
    asyncio.run(used_once(name))  # what the first leaves may stay: the tracker
    gc.collect()
    before = traces()
    for _ in range(times):
        asyncio.run(used_once(name))
    gc.collect()
    nothing_more_than(before)


@asynccontextmanager
async def busy(name: EngineName) -> AsyncIterator[tuple[Engine, list[bool]]]:
    """An engine with ten slow batches in flight, and the list of the settled."""
    settled: list[bool] = []
    rows = flagged(Market(symbols=SYMBOLS).take(10), SLOW)
    async with open_engine(name, Faulty(SYMBOLS), 2) as engine:
        for _ in range(10):
            await engine.submit(rows, settled.append)
        yield engine, settled


@pytest.mark.parametrize("name", WITH_WORKERS)
def test_an_engine_closed_with_batches_in_flight_settles_each_once_or_never(
    name: EngineName,
):
    async def main() -> tuple[Engine, list[bool]]:
        async with busy(name) as found:
            pass
        return found

    before = traces()
    engine, settled = asyncio.run(main())
    assert engine.sums()[0].ticks <= 100
    assert sum(s.ticks for s in engine.sums()) == 10 * len(settled)
    assert set(settled) <= {True}
    nothing_more_than(before)


@pytest.mark.parametrize("name", WITH_WORKERS)
def test_a_cancelled_task_closes_its_engine(name: EngineName):
    async def hold(ready: asyncio.Event) -> None:
        async with busy(name):
            ready.set()
            await asyncio.Event().wait()

    async def main() -> None:
        ready = asyncio.Event()
        holding = asyncio.create_task(hold(ready))
        await ready.wait()
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding

    before = traces()
    asyncio.run(main())
    nothing_more_than(before)


@pytest.mark.parametrize("name", WITH_WORKERS)
def test_a_task_cancelled_while_its_engine_opens_leaves_nothing(name: EngineName):
    """Before it has begun, as it begins, and while its workers start."""

    async def main(steps: int) -> None:
        using = asyncio.create_task(used_once(name))
        for _ in range(steps):
            await asyncio.sleep(0)
        using.cancel()
        await asyncio.wait([using])

    asyncio.run(used_once(name))
    before = traces()
    for steps in (1, 3, 500):
        asyncio.run(main(steps))
    nothing_more_than(before)


@pytest.mark.parametrize("name", WITH_WORKERS)
async def test_two_engines_at_once_keep_their_sums_apart(name: EngineName):
    one, other = Market(1, SYMBOLS).take(3000), Market(2, SYMBOLS).take(2000)
    async with (
        open_engine(name, Work(SYMBOLS), 1) as first,
        open_engine(name, Work(SYMBOLS, "python"), 2) as second,
    ):
        ours, theirs = await asyncio.gather(
            summed(first, np.split(one, 10)), summed(second, np.split(other, 10))
        )
    assert ours == by_hand([one])
    assert theirs == by_hand([other])


@pytest.mark.parametrize("name", WITH_WORKERS)
def test_an_engine_works_on_the_loop_of_another_thread(name: EngineName):
    """A notebook's pump runs beside the kernel's loop."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(used_once(name))
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert failures == []


# -- in the pump ------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["threads", "processes", "shared"])
async def test_ticks_in_flight_are_queued_and_processed_only_once_summed(
    engine: EngineName, tmp_path: Path
):
    """At every turn of the loop; the python kernel keeps the workers behind."""
    plain = Settings(metrics_port=0, log_file=tmp_path / "log", symbols=SYMBOLS)
    busy = replace(plain, tick_rate=300_000, duration=0.4, kernel="python", cores=2)
    pipeline = Pipeline(replace(busy, engine=engine))
    task = asyncio.create_task(pipeline.run())
    ready = asyncio.create_task(pipeline.ready.wait())
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    most = turns = 0
    while not task.done():
        now = pipeline.snapshot()
        vwap = now.consumers["vwap"]
        assert conserved(now)
        assert vwap.processed == sum(s.ticks for s in pipeline.vwap.sums())
        assert vwap.queued >= pipeline.vwap.in_flight >= 0
        most, turns = max(most, pipeline.vwap.in_flight), turns + 1
        await asyncio.sleep(0)
    await task
    assert turns > 50
    assert most > 0
    end = pipeline.snapshot().consumers["vwap"]
    assert (end.received, end.processed, end.queued) == (120_000, 120_000, 0)
    expected = by_hand([Market(1, SYMBOLS, 300_000).take(120_000)])
    assert pipeline.vwap.sums() == expected
