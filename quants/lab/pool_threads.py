"""Which threads an asynchronous file write needs: count them.

A file has no readiness to wait for, so a library that offers `await
file.write(...)` hands each call to a pool of threads. The loop here is a fresh
one, with a pool of its own that counts what it is given.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiofiles

from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.live import BLUE, GREEN, VERMILION
from quants.lab.session import session
from quants.market import Market
from quants.tick import Batch, Symbol
from quants.ticklog import PerTickLog

PREFIX = "pool-of-one-loop"


class CountingPool(ThreadPoolExecutor):
    """A loop's default pool, which counts what it is given to do.

    Attributes:
        looks: seconds since the start, and threads of the pool then.
    """

    def __init__(self) -> None:
        super().__init__(thread_name_prefix=PREFIX)
        self.calls, self.looks = 0, [(0.0, 0)]
        self._began = time.perf_counter()

    def submit(self, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Count and pass on."""
        self.calls += 1
        future = super().submit(*args, **kwargs)
        self.look()
        return future

    def look(self) -> None:
        """Count the threads."""
        names = [thread.name for thread in threading.enumerate()]
        threads = sum(name.startswith(PREFIX) for name in names)
        self.looks.append((time.perf_counter() - self._began, threads))


async def tick_by_tick(path: Path, batch: Batch, symbols: Sequence[Symbol]) -> None:
    """Log tick after tick, and await each write before the next one."""

    async def batches() -> AsyncIterator[Batch]:
        yield batch

    await PerTickLog(path, symbols).run(batches())


async def all_at_once(path: Path, batch: Batch, symbols: Sequence[Symbol]) -> None:
    """Start all writes, and await them together."""
    async with aiofiles.open(path, "ab") as file:
        await asyncio.gather(*(file.write(row.tobytes()) for row in batch.rows))


async def one_list(path: Path, batch: Batch, symbols: Sequence[Symbol]) -> None:
    """Put rows on a list, and write it once, on the loop."""
    rows = [row.tobytes() for row in batch.rows]
    with open(path, "ab", buffering=0) as file:  # noqa: ASYNC230 - on purpose
        file.write(b"".join(rows))


Write = Callable[[Path, Batch, Sequence[Symbol]], Awaitable[None]]
WAYS: tuple[Write, ...] = (tick_by_tick, all_at_once, one_list)


@dataclass(frozen=True)
class Threads:
    """What some writes needed.

    Attributes:
        looks: seconds since the start, and threads of the pool then.
        calls: what the pool was given to do, opening and closing included.
    """

    way: str
    writes: int
    looks: tuple[tuple[float, int], ...]
    calls: int

    @property
    def most(self) -> int:
        """Threads in the end."""
        return max(threads for _, threads in self.looks)

    def __repr__(self) -> str:
        return (
            f"{self.way}: {self.writes} writes, {self.calls} calls in the pool, "
            f"{self.most} threads."
        )


def count_threads(write: Write, path: Path, writes: int) -> Threads:
    """Run the writes on a fresh loop, on this thread."""
    market = Market()
    batch = Batch(market.take(writes), 1, writes, 0)
    pool = CountingPool()

    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(pool)
        await write(path, batch, market.symbols)
        pool.look()

    asyncio.run(run())
    name = getattr(write, "__name__", "write").replace("_", " ")
    return Threads(name, writes, tuple(pool.looks), pool.calls)


async def counted(writes: int = 100) -> list[Threads]:
    """Each way of writing, in a thread with a loop of its own."""
    path = (await session()).folder / "lines"
    return [await asyncio.to_thread(count_threads, w, path, writes) for w in WAYS]


def picture(found: Sequence[Threads]) -> Chart:
    """Threads of the pool, write by write."""
    chart = Chart(
        "Threads that asynchronous writes need", n=f"n = {found[0].writes} writes each",
        alt="Threads in the loop's pool over time, one stepped line for each "
        f"way: {', '.join(threads.way for threads in found)}.",
    )  # fmt: skip
    axes = chart.panel("time (ms)", "threads (number)")
    colours = (BLUE, VERMILION, GREEN)
    for threads, colour in zip(found, colours, strict=True):
        seconds, counts = zip(*threads.looks, strict=True)
        times = [second * 1e3 for second in seconds]
        axes.step(times, counts, color=colour, linewidth=2, where="post")
        axes.plot(times[-1:], counts[-1:], "o", color=colour)
    axes.set_ylim(-0.3, max(threads.most for threads in found) + 0.7)
    chart.key([threads.way for threads in found], colours)
    return chart


def needs_no_threads(found: Sequence[Threads]) -> bool | None:
    """Whether awaited writes stayed out of the pool; it is counted."""
    awaited = found[:2]
    if any(threads.calls >= threads.writes for threads in awaited):
        return False
    return all(threads.calls == 0 for threads in awaited) or None


CLAIMS = (
    Claim(
        "file-io-needs-no-threads",
        "asynchronous file writes stay on the loop",
        "each asynchronous write is a call in a pool of threads",
        needs_no_threads,
        "some writes were handed to a thread and some were not",
    ),
)
