"""Notebook 06: what crosses to another process, a function or a batch, and how.

A worker that fails says why on its stderr, which no cell sees. So a function is
sent from an interpreter of its own, and the worker's last words are brought
home. That spares the kernel a broken pool, too.
"""

import asyncio
import inspect
import multiprocessing
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import dedent
from typing import Any

from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.live import BLUE, INK
from quants.lab.session import session
from quants.market import Market
from quants.tick import ROW

BATCHES = (1, 10, 100, 1000, 4096)  # ticks; a frame has no more
SECONDS = 30.0  # for an answer; it takes a fraction of one

# The same as in a cell: the function is defined in __main__, and sent from it.
ATTEMPT = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
method, name, source, argument = sys.argv[1:]
exec(source)
with ProcessPoolExecutor(1, get_context(method)) as pool:
    since = time.perf_counter()
    try:
        print("answer", pool.submit(globals()[name], eval(argument)).result())
    except Exception as fault:
        print("fault", type(fault).__name__)
    print(time.perf_counter() - since)
"""


@dataclass(frozen=True)
class Sent:
    """What came of a function that was sent to another process.

    Attributes:
        method: how the process was started.
        answer: the function's; None if there was none.
        fault: what the sender was told.
        cause: the last words of the process.
        seconds: until the answer, or the fault.
    """

    method: str
    answer: str | None
    fault: str
    cause: str
    seconds: float

    def __repr__(self) -> str:
        if self.answer is not None:
            return f"{self.method}: the answer is {self.answer}."
        return (
            f"{self.method}: {self.fault}.\n"
            f"What the worker said, on its stderr: {self.cause}"
        )


async def across(
    function: Callable[..., Any], argument: Any, method: str = "spawn"
) -> Sent:
    """Send a function and its argument to another process; what came of it."""
    await session()
    return await asyncio.to_thread(
        sent, function.__name__, source_of(function), argument, method
    )


def source_of(function: Callable[..., Any]) -> str:
    """What makes a function known: its source, or where to import it from."""
    if function.__module__ == "__main__":
        return dedent(inspect.getsource(function))
    return f"from {function.__module__} import {function.__name__}"


def sent(name: str, source: str, argument: Any, method: str) -> Sent:
    """The attempt, in an interpreter of its own."""
    command = [sys.executable, "-c", ATTEMPT, method, name, source, repr(argument)]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", check=False, timeout=SECONDS
    )
    *_, said, took = done.stdout.splitlines()
    word, _, text = said.partition(" ")
    words = done.stderr.strip().splitlines()
    cause = next((w for w in reversed(words) if "Error: " in w), "nothing")
    if word == "answer":
        return Sent(method, text, "", "", float(took))
    return Sent(method, None, text, cause, float(took))


# ---- start methods


@dataclass(frozen=True)
class Methods:
    """The same function, sent by every way that this system can start a process."""

    sent: tuple[Sent, ...]

    def __repr__(self) -> str:
        return "\n".join(
            f"{each.method:10} {1e3 * each.seconds:5.0f} ms   "
            + (each.fault or f"the answer is {each.answer}")
            for each in self.sent
        )


async def start_methods(function: Callable[..., Any], argument: Any) -> Methods:
    """Send a function by every start method of this system."""
    methods = multiprocessing.get_all_start_methods()
    found = [await across(function, argument, method) for method in sorted(methods)]
    return Methods(tuple(found))


# ---- what is packed


@dataclass(frozen=True)
class Parcel:
    """A batch, pickled."""

    ticks: int
    bytes: int
    microseconds: float  # to pack and to unpack, the quickest of some tries


@dataclass(frozen=True)
class Parcels:
    """Batches of all sizes, pickled."""

    all: tuple[Parcel, ...]

    def __repr__(self) -> str:
        one, many = self.all[0], self.all[-1]
        each = many.bytes / many.ticks, many.microseconds / many.ticks
        return (
            f"A tick has {ROW.itemsize} bytes. Pickled alone it takes {one.bytes:,} "
            f"bytes and {one.microseconds:.1f} µs to pack and unpack; among "
            f"{many.ticks:,}, {each[0]:.1f} bytes and {each[1]:.3f} µs."
        )

    def picture(self) -> Chart:
        """Bytes and microseconds, of a batch and of each tick in it."""
        chart = Chart(
            "What pickle makes of a batch",
            n=f"n = {TRIES} tries a batch, the quickest",
            alt="Two panels with logarithmic axes over the ticks in a batch: bytes a "
            "tick, which fall to those of the row itself, and microseconds a tick to "
            "pack and unpack, which fall by a factor of hundreds.",
            panels=2,
        )
        ticks = [each.ticks for each in self.all]
        size = chart.panel("batch (ticks)", "pickled (bytes a tick)", log="xy")
        size.plot(ticks, [p.bytes / p.ticks for p in self.all], "o-", color=BLUE)
        size.axhline(ROW.itemsize, color=INK, linewidth=1, linestyle="--")
        size.text(1, ROW.itemsize * 1.06, "the row itself", fontsize=8, color=INK)
        size.set_ylim(25, 400)
        cost = chart.panel("batch (ticks)", "pack and unpack (µs a tick)", log="xy")
        cost.plot(ticks, [p.microseconds / p.ticks for p in self.all], "o-", color=BLUE)
        plain_numbers(size, [32, 100, 300])
        plain_numbers(cost, [0.01, 0.1, 1, 10])
        return chart


def plain_numbers(panel: Any, y: Sequence[float]) -> None:
    """Name a panel's batches, and these numbers, instead of powers of ten."""
    panel.set_xticks(BATCHES, [f"{batch:,}" for batch in BATCHES])
    panel.set_yticks(y, [f"{number:,g}" for number in y])
    panel.set_xticks([], minor=True)
    panel.set_yticks([], minor=True)


TRIES = 50


async def parcels() -> Parcels:
    """Pack and unpack batches of all sizes."""
    await session()
    return Parcels(tuple(map(parcel, BATCHES)))


def parcel(ticks: int) -> Parcel:
    """Pack and unpack one batch, some times."""
    rows, quickest = Market().take(ticks), float("inf")
    for _ in range(TRIES):
        since = time.perf_counter()
        packed = pickle.dumps(rows, pickle.HIGHEST_PROTOCOL)
        pickle.loads(packed)
        quickest = min(quickest, time.perf_counter() - since)
    return Parcel(ticks, len(packed), 1e6 * quickest)


# ---- claims


def stays_behind(sent: Sent) -> bool | None:
    """Whether it broke because the worker does not know the function."""
    if sent.answer is not None:
        return False
    return True if "Can't get attribute" in sent.cause else None


def arrives(sent: Sent) -> bool:
    """Whether there is an answer."""
    return sent.answer is not None


def only_copies_know(methods: Methods) -> bool:
    """Whether a fork knows the function, and no fresh interpreter does."""
    return all(arrives(each) == (each.method == "fork") for each in methods.sent)


CLAIMS: Sequence[Claim] = (
    Claim(
        "a-function-from-a-cell-stays-behind",
        "the worker got a name, and found nothing of that name",
        "the worker knew the function of a cell",
        stays_behind,
        "the pool broke, and not because the worker did not know the function",
    ),
    Claim(
        "a-function-from-a-module-arrives",
        "what a module holds the worker can import, and answers",
        "the worker did not answer, though a module holds the function",
        arrives,
    ),
    Claim(
        "only-a-copy-knows-a-cell",
        "a fresh interpreter does not know the cell; a fork, where there is one, does",
        "how a process is started made another difference here",
        only_copies_know,
    ),
)
