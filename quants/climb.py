"""Climbing the ladder: every engine takes the same rows in turn, and is timed.

The engines of a kernel are open at the same time, started and warm. A run
submits batches until its time is over, and ends when all of them are summed.
Then the sums must be, to the last bit, those of the very ticks that it took.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import get_args

import numpy as np

from quants.engines import ENGINES, EngineName, open_engine
from quants.errors import EnvironmentFault, QuantsError, SettingsError
from quants.kernels import Kernel, KernelName, NumpyKernel
from quants.ladder import Found, Reason, Run, Side
from quants.market import Market
from quants.sums import RunningSums, Sums
from quants.tick import Rows
from quants.vwap import Engine, Inline
from quants.windows import CountWindow, TimeWindow
from quants.worker import Work

SYMBOLS, TICK_RATE = 8, 50_000
ROWS = 1 << 18  # 8 MB; five seconds of ticks
MAX_BATCH = 4096  # rows; a frame has no more
SPAN_NS, LAST = 10**9, 1000  # what a rolling window holds: a second, n ticks

KERNELS: tuple[KernelName, ...] = get_args(KernelName)
ROLLING: dict[str, Callable[[], Kernel]] = {
    "time": lambda: TimeWindow(SYMBOLS, SPAN_NS),
    "count": lambda: CountWindow(SYMBOLS, LAST),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, how often and how long.

    Attributes:
        windows: the rolling ones; the session is always measured.
        batches: sizes, in rows.
        rounds: in each of them every side runs once; a first one warms up.
        seconds: of a run, and as long as its last batches take.

    Raises:
        SettingsError: a value cannot work.
    """

    kernels: Sequence[KernelName]
    engines: Sequence[EngineName]
    windows: Sequence[str]
    batches: Sequence[int]
    workers: int
    rounds: int
    seconds: float

    def __post_init__(self) -> None:
        for batch in self.batches:
            if not 1 <= batch <= MAX_BATCH:
                raise SettingsError("batch", batch, f"1 to {MAX_BATCH} rows work")
        for name in ("workers", "rounds"):
            if getattr(self, name) < 1:
                reason = "at least 1 is needed"
                raise SettingsError(name, getattr(self, name), reason)
        if not 0 < self.seconds <= 60:
            raise SettingsError("seconds", self.seconds, "up to 60 s a run work")


def sides(plan: Plan, kernel: KernelName, engines: Sequence[EngineName]) -> list[Side]:
    """Who runs in turn; inline twice, for the others are held against it.

    A rolling window needs its ticks in order, so it has one owner: inline. Only
    the sums of a session can be dealt out and merged.
    """
    found = []
    for batch in plan.batches:
        found += [Side(kernel, "session", engine, batch) for engine in engines]
        found.append(Side(kernel, "session", "inline", batch, again=True))
        if (kernel, batch) == ("python", 1000) and "processes" in engines:
            found.append(Side(kernel, "session", "processes", batch, again=True))
        if kernel == "numpy":  # which the rolling windows are made of
            found += [Side(kernel, window, "inline", batch) for window in plan.windows]
    return found


def in_turn(sides: Sequence[Side], rounds: int) -> Iterator[tuple[int, Side]]:
    """Every side once a round, and the round; each begins with another one."""
    for turn in range(rounds):
        first = turn % len(sides)
        yield from ((turn, side) for side in (*sides[first:], *sides[:first]))


# -- measure ----------------------------------------------------------------


async def measured(
    plan: Plan, advance: Callable[[float], object] = lambda share: None
) -> tuple[Found, list[Reason]]:
    """Every side's runs, and why some engines have none.

    Args:
        advance: called with the share of all that was done since.
    """
    course, found, reasons = Course(), Found(), list[Reason]()
    for kernel in plan.kernels:
        async with opened(plan, kernel, reasons) as engines:
            turns = sides(plan, kernel, list(engines))
            found |= {side: [] for side in turns}
            share = 1 / (len(plan.kernels) * len(turns) * (1 + plan.rounds))
            for turn, side in in_turn(turns, 1 + plan.rounds):
                done = await course.run(side, engines[side.engine], plan.seconds)
                if turn:  # the first warms up
                    found[side].append(done)
                advance(share)
    return found, reasons


@asynccontextmanager
async def opened(
    plan: Plan, kernel: KernelName, reasons: list[Reason]
) -> AsyncIterator[dict[EngineName, Engine]]:
    """The engines of a kernel; those that cannot open leave their reason."""
    engines = dict[EngineName, Engine]()
    work = Work(SYMBOLS, kernel)
    async with AsyncExitStack() as stack:
        for name in dict.fromkeys((ENGINES[0], *plan.engines)):
            try:
                opening = open_engine(name, work, plan.workers)
                engines[name] = await stack.enter_async_context(opening)
            except (SettingsError, EnvironmentFault) as error:
                told = error.reason if isinstance(error, SettingsError) else str(error)
                reasons.append(Reason(kernel, name, told))
        yield engines


class Course:
    """The rows that every side sums from the first on; after the last, again."""

    def __init__(self) -> None:
        self.rows = Market(seed=1, symbols=SYMBOLS, tick_rate=TICK_RATE).take(ROWS)
        self.whole = summed(self.rows).part()

    async def run(self, side: Side, engine: Engine, seconds: float) -> Run:
        """A run whose sums are what they must be.

        Raises:
            QuantsError: they are not, and no figure means anything.
        """
        if side.window in ROLLING:
            engine = Inline(ROLLING[side.window]())
        before = engine.sums()
        done = await timed(engine, self.batches(side), seconds)
        added = zip(before, self.sums(side, done.ticks), strict=True)
        if engine.sums() != [old + new for old, new in added]:
            raise QuantsError(
                f"{side} does not have the sums of its {done.ticks} ticks"
            )
        return done

    def batches(self, side: Side) -> Iterator[Rows]:
        """A rolling window goes round once: its time cannot begin again."""
        starts = range(0, ROWS, side.batch)
        once = (self.rows[start : start + side.batch] for start in starts)
        return once if side.window in ROLLING else cycle(once)

    def sums(self, side: Side, ticks: int) -> list[Sums]:
        """What a side adds in so many ticks."""
        if side.window in ROLLING:
            return summed(tail(side.window, self.rows[:ticks])).sums()
        times, rest = divmod(ticks, ROWS)
        sums = RunningSums(SYMBOLS)
        sums.merge([(n, times * v, times * s, times * t) for n, v, s, t in self.whole])
        sums.merge(summed(self.rows[:rest]).part())
        return sums.sums()


async def timed(engine: Engine, batches: Iterator[Rows], seconds: float) -> Run:
    """Have batches summed for a while; it ends when all of them are."""
    ticks = count = 0
    busy, cpu, start = engine.busy_seconds, time.process_time(), time.perf_counter()
    for rows in batches:
        await engine.submit(rows, ignored)
        ticks, count = ticks + len(rows), count + 1
        if time.perf_counter() - start >= seconds:
            break
    await engine.drain()
    took, used = time.perf_counter() - start, time.process_time() - cpu
    return Run(ticks, count, took, used, engine.busy_seconds - busy)


def ignored(summed: bool) -> None:
    """Nobody waits for a single batch; what was not summed, the sums show."""


def summed(rows: Rows) -> Kernel:
    """A kernel that has these rows."""
    kernel = NumpyKernel(SYMBOLS)
    kernel.add(rows)
    return kernel


def tail(window: str, rows: Rows) -> Rows:
    """The rows that a rolling window holds after these."""
    if window == "count":
        own = (rows[rows["symbol"] == symbol][-LAST:] for symbol in range(SYMBOLS))
        return np.concatenate(list(own))
    recent: Rows = rows[rows["time_ns"] > rows["time_ns"][-1] - SPAN_NS]
    return recent
