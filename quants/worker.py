"""A worker: what is done with a batch elsewhere, and how its process behaves.

A worker process ignores Ctrl-C, which is meant for its parent, and it ends when
the parent does, however that ended. It sends back the sums of each batch and
keeps none: when it is killed, what it had not answered is simply done again.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread, local

from quants.kernels import Kernel, KernelName, NumpyKernel, PythonKernel
from quants.pools import TickPool
from quants.sums import Done
from quants.tick import Rows

# Never fork: it copies locks that other threads hold, and a notebook's kernel
# has many threads. Spawn is the one way that every system has.
PROCESSES = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Work:
    """What is done with every batch; it can be sent to another process.

    Attributes:
        symbols: length of the symbol table.
        kernel: how the sums are computed.
        pool_size: tick objects that the python kernel reads through; 0: none.
    """

    symbols: int
    kernel: KernelName = "numpy"
    pool_size: int = 0

    def make_kernel(self, pool: TickPool | None) -> Kernel:
        """A kernel with empty sums."""
        if self.kernel == "numpy":
            return NumpyKernel(self.symbols)
        return PythonKernel(self.symbols, pool.read if pool else None)


class Worker:
    """Sums batches, one at a time."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.pool = TickPool(work.pool_size) if work.pool_size else None

    def sum(self, rows: Rows) -> Done:
        """The sums of one batch, and what they cost."""
        began, before = time.thread_time_ns(), self._pooled()
        kernel = self.work.make_kernel(self.pool)
        kernel.add(rows)
        part = kernel.part()
        hits, misses, leaked = (
            now - then for now, then in zip(self._pooled(), before, strict=True)
        )
        return Done(part, time.thread_time_ns() - began, (hits, misses, leaked))

    def _pooled(self) -> tuple[int, int, int]:
        pool = self.pool
        return (pool.hits, pool.misses, pool.leaked) if pool else (0, 0, 0)


_mine = local()  # the Worker of a pool's thread; a process works in its main one


def begin(work: Work) -> None:
    """Become a worker of a pool of threads."""
    _mine.worker = Worker(work)


def begin_process(work: Work) -> None:
    """Become a worker of a pool of processes."""
    tend_process()
    begin(work)


def sum_here(rows: Rows) -> Done:
    """Sum a batch, as the worker that this thread has become."""
    worker: Worker = _mine.worker
    return worker.sum(rows)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Start processes that no Ctrl-C can reach: they inherit what we hold back.

    Where signals cannot be held (Windows), one that comes while a worker is
    still starting ends it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def tend_process() -> None:
    """Make this process a well-behaved worker; call it first thing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # its end closes a pipe, on every system
        os._exit(1)
