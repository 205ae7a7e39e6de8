"""The `shared` engine: rows in shared memory, a pipe to say that they are there.

    loop ---- rows ----> ring of slots ---- view ----> worker
         -- n --------------- pipe ------------------>  n rows are in the next slot
         <------------------- pipe ------------ Done --  their sums

A thousand rows sent through a pipe are pickled, copied twice by the system and
unpickled; here they are copied once. Both sides take the slots in turn, so the
ring needs no head, no tail and no lock: the pipe carries the order, and what
was written before a message is seen after it, on every processor.

A worker that dies, or sits on a batch, gets a successor, which does again what
was not answered. The name of a ring is gone from the system as soon as its
worker has opened it: nothing is left behind, however this process ends.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from itertools import cycle
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.shared_memory import SharedMemory
from threading import Lock, Thread

import numpy as np

from quants.dealer import START_SECONDS, STOP_SECONDS, Dealer, Job
from quants.errors import EnvironmentFault
from quants.pools import TickPool
from quants.sums import Done
from quants.tick import TICK, Rows
from quants.worker import PROCESSES, Work, Worker, tend_process

log = logging.getLogger(__name__)

SLOTS = 8  # of a ring; a worker has the next batch before it answers the last
HANG_SECONDS = 10.0  # a batch takes milliseconds
CLOSED = -1  # rows in the next slot: none will follow


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
            await asyncio.gather(*(self._open(lane) for lane in self.lanes))
            async with asyncio.TaskGroup() as self._tasks:
                watching = self._tasks.create_task(self._watch())
                yield self
                watching.cancel()
        finally:
            ends = (asyncio.to_thread(lane.close) for lane in self.lanes)
            await asyncio.shield(asyncio.gather(*ends))

    def _deal(self, job: Job) -> None:
        if len(job.rows) > self.slot_rows:
            raise ValueError(f"{len(job.rows)} rows; a slot holds {self.slot_rows}")

        def preference(lane: Lane) -> tuple[bool, bool, int]:
            return len(lane.owed) == SLOTS, not lane.open, len(lane.owed)

        min(self.lanes, key=preference).give(job)

    async def _open(self, lane: "Lane") -> None:
        await asyncio.to_thread(lane.start)
        lane.listen(self._loop, self._answered, self._ended)

    def _answered(self, lane: "Lane", done: Done) -> None:
        self._answer(lane.take_back(), done)

    def _ended(self, lane: "Lane") -> None:
        """A worker is dead: the batch in its hands has a strike, all go on."""
        lane.open = False
        if lane.owed and not self._strike(lane.owed[0]):
            lane.take_back()
        self.replaced += 1
        self._tasks.create_task(self._open(lane))

    async def _watch(self) -> None:
        """End the workers that sit on a batch; `_ended` does the rest."""
        while True:
            await asyncio.sleep(1)
            for lane in self.lanes:
                if lane.seconds_since_answer() > HANG_SECONDS:
                    lane.kill()


class Lane:
    """A worker process, its ring and its pipe.

    Attributes:
        owed: batches that it has not answered, the oldest first.
        open: whether it has a worker to write to.
    """

    def __init__(self, work: Work, slot_rows: int) -> None:
        self.owed: deque[Job] = deque()
        self.open = False
        self._work, self._shape = work, (SLOTS, slot_rows)
        self._resources = ExitStack()
        self._starting, self._closing = Lock(), False
        self._since = 0.0  # when the worker got to the oldest of them

    # -- its life: these two block, and run on a thread ---------------------

    def start(self) -> None:
        """Start a worker, the first one or a successor; wait until it is ready.

        Raises:
            EnvironmentFault: it ended, or was not ready in time.
        """
        with self._starting, ExitStack() as resources:
            self._resources.close()
            if self._closing:
                return
            size = SLOTS * self._shape[1] * TICK.itemsize
            block = SharedMemory(create=True, size=size)
            resources.callback(block.close)
            self._ring = np.ndarray(self._shape, TICK, block.buf)
            resources.callback(self._let_go_of_ring)
            try:
                self._start_process(block.name, resources)
            finally:
                block.unlink()  # the name; the memory stays until both let go
            self._resources = resources.pop_all()

    def _start_process(self, name: str, resources: ExitStack) -> None:
        self._pipe, theirs = PROCESSES.Pipe()
        resources.callback(self._pipe.close)
        arguments = (theirs, name, self._shape, self._work)
        process = PROCESSES.Process(target=serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self._process = process
        resources.callback(end, process)
        if not self._pipe.poll(START_SECONDS):
            raise EnvironmentFault(
                f"a VWAP worker was not ready within {START_SECONDS:g} s; try fewer "
                "--cores, or --engine inline"
            )
        try:
            self._pipe.recv()
        except EOFError:
            process.join(STOP_SECONDS)
            raise EnvironmentFault(
                f"a VWAP worker ended with {process.exitcode} before it was ready; "
                "what it said is above; --engine inline needs no worker"
            ) from None

    def _let_go_of_ring(self) -> None:
        del self._ring  # memory that is still seen cannot be closed

    def close(self) -> None:
        """End the worker, and free all it had."""
        self._closing = True
        with self._starting:
            if self.open:
                with suppress(OSError):
                    self._pipe.send(CLOSED)
                self._process.join(STOP_SECONDS)
            self._resources.close()

    def kill(self) -> None:
        """End the worker now, as the system would."""
        self._process.kill()

    # -- its work: on the loop ----------------------------------------------

    def listen(
        self,
        loop: asyncio.AbstractEventLoop,
        answered: Callable[["Lane", Done], None],
        ended: Callable[["Lane"], None],
    ) -> None:
        """Give the worker what is owed, and hear its answers from now on."""
        self._slots = cycle(range(SLOTS))
        self._since, self.open = time.monotonic(), True
        for job in self.owed:
            self._write(job)
        arguments = (self._pipe, loop.call_soon_threadsafe, answered, ended)
        Thread(target=self._hear, args=arguments, daemon=True).start()

    def _hear(
        self,
        pipe: Connection,
        post: Callable[..., object],
        answered: Callable[["Lane", Done], None],
        ended: Callable[["Lane"], None],
    ) -> None:
        with suppress(EOFError, OSError):
            while True:
                post(answered, self, pipe.recv())
        if not self._closing:
            post(ended, self)

    def give(self, job: Job) -> None:
        """Owe a batch; a worker on its way gets it when it comes."""
        if not self.owed:
            self._since = time.monotonic()
        self.owed.append(job)
        if self.open:
            self._write(job)

    def _write(self, job: Job) -> None:
        rows = len(job.rows)
        slot = self._ring[next(self._slots)]
        # As bytes: NumPy copies a row's fields one by one, ten times as slow.
        slot[:rows].view(np.uint8)[:] = np.ascontiguousarray(job.rows).view(np.uint8)
        with suppress(OSError):  # it is dead, and _hear will find out
            self._pipe.send(rows)

    def take_back(self) -> Job:
        """The oldest batch: it is answered, or given up."""
        self._since = time.monotonic()
        return self.owed.popleft()

    def seconds_since_answer(self) -> float:
        """How long the worker has had the batch it is at."""
        busy = self.open and self.owed
        return time.monotonic() - self._since if busy else 0.0


def end(process: BaseProcess) -> None:
    """Make sure that a process is gone, and waited for."""
    process.kill()
    process.join()
    process.close()


# -- in the worker ----------------------------------------------------------


def serve(pipe: Connection, name: str, shape: tuple[int, int], work: Work) -> None:
    """Be a worker: sum one slot after the other, until the pipe ends."""
    tend_process()
    block = SharedMemory(name)
    try:
        answer(pipe, np.ndarray(shape, TICK, block.buf), Worker(work))
    except (EOFError, OSError):
        pass  # our parent is gone
    finally:
        block.close()


def answer(pipe: Connection, ring: Rows, worker: Worker) -> None:
    """Sum what the pipe tells of; ring: shape (slots, rows)."""
    pipe.send("ready")
    for slot in cycle(range(len(ring))):
        rows = pipe.recv()
        if rows == CLOSED:
            return
        pipe.send(worker.sum(ring[slot, :rows]))
