"""Engines: where a kernel runs.

    inline        on the event loop; nothing beats it while one core suffices
    threads       a thread pool; on a Python with a GIL they take turns
    processes     a process pool; every batch is pickled
    shared        processes that see the rows in shared memory
    interpreters  sub-interpreters, a GIL each; Python 3.14, python kernel

They all take the same batches and give the same sums, to the last bit. All but
the first deal: any worker gets any batch, and a slow one gets fewer.
"""

import asyncio
import concurrent.futures
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal, get_args

from quants.dealer import START_SECONDS, STOP_SECONDS, Dealer, Job, failed
from quants.errors import EnvironmentFault, SettingsError
from quants.kernels import KernelName
from quants.pools import TickPool
from quants.shared import Shared
from quants.sums import Done, sum_packed
from quants.tick import NO_ROWS, Rows
from quants.vwap import Engine, Inline
from quants.worker import (
    PROCESSES,
    Work,
    begin,
    begin_process,
    interrupts_held,
    sum_here,
)

EngineName = Literal["inline", "threads", "processes", "shared", "interpreters"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
DEPTH = 8  # batches in flight for each worker of a pool


def chosen(engine: EngineName | Literal["auto"], cores: int) -> EngineName:
    """The engine that `auto` stands for: none where one core must do."""
    if engine != "auto":
        return engine
    return "inline" if cores == 1 else "shared"


def reason_against(engine: EngineName, kernel: KernelName) -> str | None:
    """Why an engine cannot run a kernel here; None if it can."""
    if engine != "interpreters":
        return None
    if not hasattr(concurrent.futures, "InterpreterPoolExecutor"):
        return "sub-interpreters come with Python 3.14; shared works on every one"
    if kernel == "numpy":
        return "NumPy does not load in a sub-interpreter; use --kernel python"
    return None


@asynccontextmanager
async def open_engine(
    name: EngineName, work: Work, workers: int = 1, pool: TickPool | None = None
) -> AsyncIterator[Engine]:
    """An engine, its workers started and warm; they end with the block.

    Args:
        pool: what the python kernel reads through, and counts in.

    Raises:
        SettingsError: this Python, or this kernel, cannot.
        EnvironmentFault: a worker does not start.
    """
    if reason := reason_against(name, work.kernel):
        raise SettingsError("engine", name, reason)
    if name == "inline":
        yield Inline(work.make_kernel(pool))
        return
    kind = Shared if name == "shared" else partial(Pool, EXECUTORS[name])
    async with kind(work, workers, pool).started() as engine:
        yield engine


# -- executors, and what they are given --------------------------------------

Task = Callable[[Rows], tuple[Any, ...]]  # a call, as arguments of submit()


def threads(work: Work, workers: int) -> tuple[Executor, Task]:
    """A thread pool: rows are handed over as they are."""
    pool = concurrent.futures.ThreadPoolExecutor
    executor = pool(workers, "vwap", initializer=begin, initargs=(work,))
    return executor, lambda rows: (sum_here, rows)


def processes(work: Work, workers: int) -> tuple[Executor, Task]:
    """A process pool: rows are pickled."""
    executor = concurrent.futures.ProcessPoolExecutor(
        workers, PROCESSES, initializer=begin_process, initargs=(work,)
    )
    with interrupts_held():
        for _ in range(workers):
            executor.submit(int)  # each call starts one of them
    return executor, lambda rows: (sum_here, rows)


def interpreters(work: Work, workers: int) -> tuple[Executor, Task]:
    """A pool of sub-interpreters: rows go over as bytes."""
    pool = concurrent.futures.InterpreterPoolExecutor  # type: ignore[attr-defined]
    return pool(workers), lambda rows: (sum_packed, rows.tobytes(), work.symbols)


EXECUTORS = {
    "threads": threads, "processes": processes, "interpreters": interpreters
}  # fmt: skip


class Pool(Dealer):
    """Deals batches to an executor of `concurrent.futures`.

    A pool of processes breaks as a whole when one of them dies, and does not
    say over which batch. So all that were in it are tried again, one by one in
    a pool of a single process: there the guilty one shows itself.
    """

    def __init__(
        self,
        make: Callable[[Work, int], tuple[Executor, Task]],
        work: Work,
        workers: int,
        pool: TickPool | None = None,
    ) -> None:
        super().__init__(work, workers, DEPTH, pool)
        self._make = make
        self._suspects: deque[Job] = deque()  # one of them broke the pool
        self._alone = asyncio.Lock()  # whose holder has the single process

    @asynccontextmanager
    async def started(self) -> AsyncIterator["Pool"]:
        """Start the workers, and end them with the block."""
        self._loop = asyncio.get_running_loop()
        self._executors: list[Executor] = []
        try:
            self._start()
            await self._warm()
            async with asyncio.TaskGroup() as self._tasks:
                yield self
        finally:
            ends = (shut(executor) for executor in self._executors)
            await asyncio.shield(asyncio.gather(*ends))

    def _start(self) -> None:
        self._executor, self._task = self._new(self.workers)

    def _new(self, workers: int) -> tuple[Executor, Task]:
        executor, task = self._make(self.work, workers)
        self._executors.append(executor)
        return executor, task

    async def _warm(self) -> None:
        """Have as many empty batches summed as there are workers."""
        nothing = self._task(NO_ROWS)
        first = [self._executor.submit(*nothing) for _ in range(self.workers)]
        ready = asyncio.gather(*map(asyncio.wrap_future, first))
        try:
            await asyncio.wait_for(ready, START_SECONDS)
        except TimeoutError:
            fault = f"no VWAP worker was ready within {START_SECONDS:g} s"
        except Exception as error:  # whatever an import in a worker may raise
            fault = f"a VWAP worker cannot start: {error}"
        else:
            return
        raise EnvironmentFault(f"{fault}; --engine inline needs no worker")

    def _deal(self, job: Job) -> None:
        executor = self._executor
        try:
            future = executor.submit(*self._task(job.rows))
        except BrokenExecutor:
            self._broken(executor, job)
        else:
            post = self._loop.call_soon_threadsafe
            future.add_done_callback(lambda f: post(self._came, executor, job, f))

    def _came(self, executor: Executor, job: Job, future: Future[Done]) -> None:
        if future.cancelled():
            return  # we are closing
        error = future.exception()
        if error is None:
            self._answer(job, future.result())
        elif isinstance(error, BrokenExecutor):
            self._broken(executor, job)
        else:
            self._beside(failed(error))

    def _broken(self, executor: Executor, job: Job) -> None:
        if self._strike(job):
            self._suspects.append(job)
        if self._beside(self._redo()) and executor is self._executor:
            self.replaced += self.workers  # we are the first to find out
            self._beside(shut(executor))
            self._start()

    async def _redo(self) -> None:
        """Try the suspects alone, one after the other, while there are any."""
        async with self._alone:
            while self._suspects:
                executor, task = self._new(1)
                try:
                    while self._suspects:
                        job = self._suspects[0]
                        future = executor.submit(*task(job.rows))
                        self._answer(job, await asyncio.wrap_future(future))
                        self._suspects.popleft()
                except BrokenExecutor:
                    if not self._strike(job):
                        self._suspects.popleft()
                finally:
                    await shut(executor)


async def shut(executor: Executor) -> None:
    """End an executor; its processes too if they do not end when asked."""
    processes = list((getattr(executor, "_processes", None) or {}).values())
    end = partial(executor.shutdown, cancel_futures=True)
    ending = asyncio.create_task(asyncio.to_thread(end))
    await asyncio.wait([ending], timeout=STOP_SECONDS)
    for process in processes if not ending.done() else ():
        process.kill()
    await ending
