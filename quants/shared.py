"""The `shared` engine: processes that see the rows where they were written.

A thousand rows sent through a pipe are pickled, copied twice by the system and
unpickled; into shared memory they are copied once, and only the sums travel.

A worker that dies, or sits on a batch, gets a successor, which does again what
was not answered.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from quants.dealer import TRIES, Dealer, Job, failed
from quants.errors import EnvironmentFault
from quants.lane import SLOTS, Answers, Lane
from quants.pools import TickPool
from quants.tick import Rows
from quants.vwap import Settled
from quants.worker import Work

HANG_SECONDS = 10.0  # a batch takes milliseconds


class Shared(Dealer):
    """Deals batches to processes that see them in shared memory.

    Args:
        slot_rows: capacity of a slot; no batch may be larger.
    """

    def __init__(
        self,
        work: Work,
        workers: int,
        pool: TickPool | None = None,
        slot_rows: int = 4096,
    ) -> None:
        super().__init__(work, workers, SLOTS, pool)
        self.slot_rows = slot_rows

    @asynccontextmanager
    async def started(self) -> AsyncIterator["Shared"]:
        """Start the workers, and end them with the block."""
        self._loop = asyncio.get_running_loop()
        self.lanes = [Lane(self.work, self.slot_rows) for _ in range(self.workers)]
        try:
            starts = (asyncio.to_thread(lane.start) for lane in self.lanes)
            await asyncio.gather(*starts)
            async with asyncio.TaskGroup() as self._tasks:
                for lane in self.lanes:
                    self._listen(lane)
                watching = self._tasks.create_task(self._watch())
                yield self
                watching.cancel()
        finally:
            ends = (asyncio.to_thread(lane.close) for lane in self.lanes)
            await asyncio.shield(asyncio.gather(*ends))

    async def submit(self, rows: Rows, settled: Settled) -> None:
        """Deal a batch out; waits while too many are in flight."""
        if len(rows) > self.slot_rows:
            raise ValueError(f"{len(rows)} rows; a slot holds {self.slot_rows}")
        await super().submit(rows, settled)

    def _deal(self, job: Job) -> None:
        def preference(lane: Lane) -> tuple[bool, bool, int]:
            return len(lane.owed) == SLOTS, not lane.open, len(lane.owed)

        min(self.lanes, key=preference).give(job)

    def _listen(self, lane: Lane) -> None:
        lane.listen(self._loop, self._answered, self._ended)

    def _answered(self, lane: Lane, answers: Answers) -> None:
        for done in answers:
            if isinstance(done, Exception):
                self._beside(failed(done))
            else:
                self._answer(lane.take_back(), done)

    def _ended(self, lane: Lane) -> None:
        """A worker is dead: the batch in its hands has a strike, all go on."""
        lane.open = False
        if lane.owed and not self._strike(lane.owed[0]):
            lane.take_back()
        self._beside(self._succeed(lane))

    async def _succeed(self, lane: Lane) -> None:
        """Start the successor; if it is killed on the way, one for it too."""
        for left in reversed(range(TRIES)):
            self.replaced += 1
            try:
                await asyncio.to_thread(lane.start)
            except EnvironmentFault:
                if not left:
                    raise
            else:
                return self._listen(lane)

    async def _watch(self) -> None:
        """End the workers that sit on a batch; `_ended` does the rest."""
        while True:
            await asyncio.sleep(1)
            for lane in self.lanes:
                if lane.seconds_since_answer() > HANG_SECONDS:
                    lane.kill()
