"""Work that goes wrong when a tick says so: what tests give to real workers.

A worker imports this module to unpickle its work, so it imports little itself.
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quants.kernels import Kernel, NumpyKernel
from quants.pools import TickPool
from quants.tick import Rows
from quants.worker import Work

# Flags of a tick, and what they do to the process that sums it.
DEADLY, STUCK, SLOW = 1, 2, 3


@dataclass(frozen=True)
class Faulty(Work):
    """The numpy kernel, at the mercy of its ticks.

    Attributes:
        once: a file that the first stuck worker makes; nobody sticks after it.
    """

    once: str = ""

    def make_kernel(self, pool: TickPool | None) -> Kernel:
        return FaultyKernel(self.symbols, self.once)


class FaultyKernel(NumpyKernel):
    def __init__(self, symbols: int, once: str) -> None:
        super().__init__(symbols)
        self.once = once

    def add(self, rows: Rows) -> None:
        flags = set(rows["flags"].tolist())
        if DEADLY in flags:
            os.kill(os.getpid(), signal.SIGKILL)
        if STUCK in flags and not Path(self.once).exists():
            Path(self.once).touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        if SLOW in flags:
            time.sleep(0.01)
        super().add(rows)


def flagged(rows: Rows, flag: int) -> Rows:
    """A copy of rows, the first of them flagged."""
    rows = rows.copy()
    rows["flags"][0] = flag
    return rows


class Unreadable(Work):
    """Work that ends the worker which unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return refuse, ()


def refuse() -> None:
    raise RuntimeError("this work cannot be unpickled")


class Endless(Work):
    """Work that keeps the worker which unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return time.sleep, (3600,)
