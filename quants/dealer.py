"""Dealing: batches out to workers, their sums back in, each exactly once.

What every engine with several workers shares. It runs on the loop alone: the
sums have one owner and need no lock. A batch counts when its answer is here;
one that took its worker down three times is set aside, counted, and told.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from quants.pools import TickPool
from quants.sums import Done, RunningSums, Sums
from quants.tick import Rows
from quants.vwap import Settled
from quants.worker import Work

log = logging.getLogger(__name__)

START_SECONDS = 30.0  # for all workers to be ready; a slow laptop takes 2
STOP_SECONDS = 3.0  # for a worker to end when asked, then it is killed
TRIES = 3


@dataclass(slots=True)
class Job:
    """A batch on its way."""

    rows: Rows
    settled: Settled
    strikes: int = 0  # workers that died over it


class Dealer(ABC):
    """An engine with workers, without the workers.

    Args:
        work: what is done with a batch.
        workers: how many do it.
        depth: batches in flight for each of them; then `submit` waits.
        pool: takes over the counts of the workers' own pools.

    Attributes:
        busy_seconds: CPU time of the workers, summing.
        replaced: workers that died and have a successor.
        set_aside: batches that killed three workers.
    """

    def __init__(
        self, work: Work, workers: int, depth: int, pool: TickPool | None = None
    ) -> None:
        self.work, self.workers, self.pool = work, workers, pool
        self.busy_seconds = 0.0
        self.replaced = self.set_aside = 0
        self._sums = RunningSums(work.symbols)
        self._tasks: asyncio.TaskGroup  # lives as long as the block
        self._room = asyncio.Semaphore(workers * depth)
        self._in_flight, self._none_in_flight = 0, asyncio.Event()
        self._none_in_flight.set()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.workers} workers, {self._in_flight} "
            f"batches in flight, {self.replaced} workers replaced>"
        )

    async def submit(self, rows: Rows, settled: Settled) -> None:
        """Deal a batch out; waits while too many are in flight."""
        await self._room.acquire()
        self._in_flight += 1
        self._none_in_flight.clear()
        self._deal(Job(rows, settled))

    @abstractmethod
    def _deal(self, job: Job) -> None:
        """Hand a batch to a worker; `_answer` or `_strike` follow."""

    async def drain(self) -> None:
        """Wait until every batch is settled."""
        await self._none_in_flight.wait()

    def sums(self) -> list[Sums]:
        """The sums of the settled batches, one per symbol."""
        return self._sums.sums()

    def _answer(self, job: Job, done: Done) -> None:
        self._sums.merge(done.part)
        self.busy_seconds += done.busy_ns / 1e9
        if self.pool is not None:
            self.pool.count(*done.pooled)
        self._settle(job, True)

    def _strike(self, job: Job) -> bool:
        """Note that a worker died over a batch; whether it may be tried again."""
        job.strikes += 1
        log.debug("a worker died over a batch, strike %d of %d", job.strikes, TRIES)
        if job.strikes < TRIES:
            return True
        self.set_aside += 1
        self._settle(job, False)
        return False

    def _beside(self, task: Coroutine[Any, Any, None]) -> bool:
        """Have something done beside the block; whether that is still wanted."""
        try:
            self._tasks.create_task(task)
        except RuntimeError:  # the block is left, and its group has ended
            task.close()
            return False
        return True

    def _settle(self, job: Job, summed: bool) -> None:
        self._room.release()
        self._in_flight -= 1
        if not self._in_flight:
            self._none_in_flight.set()
        job.settled(summed)


async def failed(error: BaseException) -> None:
    """Be the task that fails: its group ends all that depends on it."""
    raise error
