"""A lane: a worker process, a ring in shared memory, and a pipe.

    loop ---- rows ----> ring of slots ---- view ----> worker
         -- n --------------- pipe ------------------>  n rows are in the next slot
         <------------------- pipe ------------ Done --  their sums

Both sides take the slots in turn, so the ring needs no head, no tail and no
lock: the pipe carries the order, and what was written before a message is seen
after it, on every processor.

The name of a ring is gone from the system as soon as its worker has opened it:
nothing is left behind, however this process ends.
"""

import asyncio
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import count, cycle
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.shared_memory import SharedMemory
from threading import Lock, Thread

import numpy as np

from quants.dealer import START_SECONDS, STOP_SECONDS, Job
from quants.errors import EnvironmentFault
from quants.sums import Done
from quants.tick import ROW, TICK, Rows
from quants.worker import PROCESSES, Work, Worker, interrupts_held, tend_process

SLOTS = 8  # of a ring; a worker has the next batch before it answers the last
Answers = list[Done | Exception]
CLOSED = -1  # rows in the next slot: none will follow


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
        self._given = 0  # batches, to the worker of now
        self._since = 0.0  # when the worker got to the oldest of them
        self._hearing: Thread | None = None

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
            try:
                self._start_process(resources)
            except (OSError, EOFError) as error:
                raise EnvironmentFault(
                    f"a VWAP worker cannot start: {str(error) or 'it ended'}; what it "
                    "said is above; --engine inline needs no worker"
                ) from error
            self._resources = resources.pop_all()

    def _start_process(self, resources: ExitStack) -> None:
        size = SLOTS * self._shape[1] * TICK.itemsize
        block = SharedMemory(create=True, size=size)
        resources.callback(block.close)
        self._ring = np.ndarray(self._shape, TICK, block.buf)
        resources.callback(self._let_go_of_ring)
        try:
            self._pipe, theirs = PROCESSES.Pipe()
            resources.callback(self._pipe.close)
            resources.callback(self._stop_hearing)
            arguments = (theirs, block.name, self._shape, self._work)
            process = PROCESSES.Process(target=serve, args=arguments, daemon=True)
            with theirs, interrupts_held():
                process.start()
            self._process = process
            resources.callback(end, process)
            if not self._pipe.poll(START_SECONDS):
                raise TimeoutError(f"not ready within {START_SECONDS:g} s")
            try:
                self._pipe.recv()
            except EOFError:
                process.join(STOP_SECONDS)  # it may still be saying why
                raise
        finally:
            block.unlink()  # the name; the memory stays until both let go

    def _let_go_of_ring(self) -> None:
        del self._ring  # memory that is still seen cannot be closed

    def _stop_hearing(self) -> None:
        if self._hearing is not None:  # the worker is gone: so is its last word
            self._hearing.join()

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
        answered: Callable[["Lane", Answers], None],
        ended: Callable[["Lane"], None],
    ) -> None:
        """Give the worker what is owed, and hear its answers from now on."""
        self._slots, self._given = cycle(range(SLOTS)), 0
        self._since, self.open = time.monotonic(), True
        for job in self.owed:
            self._write(job)
        arguments = (self._pipe, loop.call_soon_threadsafe, answered, ended)
        self._hearing = Thread(target=self._hear, args=arguments, daemon=True)
        self._hearing.start()

    def _hear(
        self,
        pipe: Connection,
        post: Callable[..., object],
        answered: Callable[["Lane", Answers], None],
        ended: Callable[["Lane"], None],
    ) -> None:
        """Read answers, on a thread; wake the loop for some of them at a time.

        To wake it costs more than to read an answer. So it sleeps on while the
        worker has more to do, until half of the ring is answered.
        """
        heard: Answers = []
        with suppress(EOFError, OSError):
            for number in count(1):
                heard.append(pipe.recv())
                if number == self._given or len(heard) == SLOTS // 2:
                    post(answered, self, heard)
                    heard = []
        if not self._closing:
            post(answered, self, heard)
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
        slot = self._ring[next(self._slots), :rows]
        slot.view(ROW)[:] = job.rows.view(ROW)
        self._given += 1
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
    while process.exitcode is None:  # the thread that the system told has yet
        process.join()  # to note it; any thread that starts a process may ask
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
        try:
            done = worker.sum(ring[slot, :rows])
        except Exception as error:
            error.add_note("in a VWAP worker:\n" + traceback.format_exc())
            pipe.send(error)
        else:
            pipe.send(done)
