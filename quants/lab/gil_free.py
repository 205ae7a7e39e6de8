"""Notebook 07: during which calls can another thread run?

A call is repeated, and nobody may ask for the GIL: another thread gets its turn
only if the call gives the GIL back by itself. So one count decides, and no
clock does. That takes a process of its own: a call that keeps the GIL would
stop a notebook's kernel.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any, NamedTuple

import numpy as np

from quants.errors import EnvironmentFault
from quants.lab.claims import Claim
from quants.lab.session import session
from quants.market import Market
from quants.turns import NEVER
from quants.worker import PROCESSES

FEW, MANY = 500, 100_000  # rows
CPU_SECONDS = 0.2  # of calls, without the other one's turn: then it gets none
DEADLINE = 60.0  # seconds for all answers
LOOP, NAP = "a loop in Python", "time.sleep(0)"  # we know what these do

Call = Callable[[], Any]


class Seen(NamedTuple):
    """A call, and whether another thread had its turn while it was repeated."""

    call: str
    rows: int
    calls: int
    turns: int


@dataclass(frozen=True)
class Calls:
    """What was seen of several calls."""

    seen: tuple[Seen, ...]

    def gives(self, call: str, rows: int = MANY) -> bool:
        """Whether a call gives the GIL back."""
        return next(s.turns > 0 for s in self.seen if (s.call, s.rows) == (call, rows))

    @property
    def conclusive(self) -> bool:
        """Whether it is seen of those that we know; without a GIL it is not."""
        return self.gives(NAP) and not self.gives(LOOP)

    def __repr__(self) -> str:
        head = f"{'call':<18}{'rows':>9}{'calls':>9}   the other thread"
        lines = (
            f"{name:<18}{rows:>9,}{calls:>9,}   {'ran' if turns else 'never ran'}"
            for name, rows, calls, turns in self.seen
        )
        return "\n".join([head, *lines])


async def calls() -> Calls:
    """Repeat what a kernel of the pump calls, and what others call; and watch."""
    await session()
    return Calls(tuple(await asyncio.to_thread(answers)))


def answers() -> list[Seen]:
    """What the process of its own has seen.

    Raises:
        EnvironmentFault: it ended, or gave no answer in time.
    """
    with prober() as pipe:
        if not pipe.poll(DEADLINE):
            raise EnvironmentFault(f"no answer in {DEADLINE:g} s; is the host busy?")
        try:
            found: list[Seen] = pipe.recv()
        except EOFError as error:
            raise EnvironmentFault("the process ended before its answer") from error
    return found


@contextmanager
def prober() -> Iterator[Connection]:
    """The process, and the pipe on which it answers."""
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=probe, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.kill()  # it has nothing to finish
        process.join()
        process.close()


# ---- in that process


def probe(pipe: Connection) -> None:
    """Look at every call, and answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is meant for the parent
    pipe.send([Seen(*named, *watched(call)) for named, call in candidates().items()])


def candidates() -> dict[tuple[str, int], Call]:
    """The calls to look at, by name and rows."""
    rows = Market().take(MANY)
    price, size = rows["price"].copy(), rows["size"].copy()
    symbol, sums = rows["symbol"].astype(np.intp), np.zeros(8, np.int64)
    numbers, objects = price.tolist(), price.astype(object)
    few, one_more = price[:FEW], price[: FEW + 1]
    return {
        (NAP, MANY): lambda: time.sleep(0),
        (LOOP, MANY): lambda: [None for _ in numbers],
        ("price * size", FEW): lambda: few * few,
        ("price * size", FEW + 1): lambda: one_more * one_more,
        ("price * size", MANY): lambda: price * size,
        ("np.add.at", MANY): lambda: np.add.at(sums, symbol, price),
        ("np.bincount", MANY): lambda: np.bincount(symbol),
        ("searchsorted", MANY): lambda: price.searchsorted(price),
        ("argsort", MANY): lambda: symbol.argsort(kind="stable"),
        ("tolist", MANY): lambda: price.tolist(),
        ("np.array(list)", MANY): lambda: np.array(numbers),
        ("sum of objects", MANY): lambda: objects.sum(),
    }


def watched(call: Call) -> tuple[int, int]:
    """Repeat a call until another thread has run; calls, and its turns.

    It ends without one when the calls have had enough CPU time of their own, so
    that a busy machine makes it longer, not wrong.
    """
    other, before = Other(), sys.getswitchinterval()
    sys.setswitchinterval(NEVER)  # before it waits: a wait goes by what it found
    other.start()
    try:
        while not other.turns:
            time.sleep(0.001)
        seen, calls, end = other.turns, 0, time.thread_time() + CPU_SECONDS
        while other.turns == seen and time.thread_time() < end:
            call()
            calls += 1
        return calls, other.turns - seen
    finally:
        other.ended = True
        other.join()
        sys.setswitchinterval(before)


class Other(Thread):
    """Counts its turns, and gives each back at once."""

    turns, ended = 0, False

    def run(self) -> None:
        """Count, until it is told to end."""
        while not self.ended:
            self.turns += 1
            time.sleep(0)


# ---- what is claimed


def all_give(calls: Calls) -> bool | None:
    """Whether all calls of NumPy on many rows give the GIL back."""
    if not calls.conclusive:
        return None
    ours = [s for s in calls.seen if s.rows == MANY and s.call not in (NAP, LOOP)]
    return all(s.turns for s in ours)


def many_give(calls: Calls) -> bool | None:
    """Whether to multiply gives the GIL back, for many rows but not for few."""
    if not calls.conclusive:
        return None
    few, many = (calls.gives("price * size", rows) for rows in (FEW, MANY))
    return many and not few


def lists_keep(calls: Calls) -> bool | None:
    """Whether the GIL is kept where Python's objects are made or read."""
    if not calls.conclusive:
        return None
    names = "tolist", "np.array(list)", "sum of objects"
    return not any(calls.gives(name) for name in names)


NO_GIL = "without a GIL there is nothing to give back"
CLAIMS = (
    Claim(
        "numpy-gives-the-gil-back",
        "whatever NumPy does with many rows, another thread can run meanwhile",
        "some calls of NumPy keep the GIL, however many rows there are",
        all_give,
        NO_GIL,
    ),
    Claim(
        "many-rows-give-the-gil-back",
        "to multiply few rows keeps the GIL, to multiply many gives it back",
        "how many rows are multiplied makes no difference to the GIL",
        many_give,
        NO_GIL,
    ),
    Claim(
        "python-objects-keep-the-gil",
        "where numbers become Python's objects, or come from them, the GIL is kept",
        "the GIL is given back even where Python's objects are made",
        lists_keep,
        NO_GIL,
    ),
)
