"""Notebook 05: what taking turns breaks, and what it delays.

Two threads count, and updates are gone. An answer comes in a millisecond, and
is read a turn later, for another thread computes. Four threads share a VWAP.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from statistics import median
from threading import Barrier, Thread
from typing import Any

from quants.host import running
from quants.lab.charts import Chart
from quants.lab.live import BLUE, GREY, INK, ORANGE, VERMILION
from quants.lab.session import session
from quants.market import Market
from quants.turns import gil_enabled

# ---- lost updates


class Counter:
    """What two threads add to."""

    total = 0


def add(counter: Counter, times: int) -> None:
    """Count, in place."""
    for _ in range(times):
        counter.total += 1


def add_by_call(counter: Counter, times: int) -> None:
    """Count, and call a function on the way."""
    for _ in range(times):
        counter.total = plus_one(counter.total)


def plus_one(number: int) -> int:
    """The number after it."""
    return number + 1


TIMES, ROUNDS, MOST_ROUNDS = 200_000, 8, 60


@dataclass(frozen=True)
class Lost:
    """Updates that two threads made, and how many of them are not there."""

    made: int
    in_place: int
    by_call: int

    def __repr__(self) -> str:
        return (
            f"Of {self.made:,} updates each, `total += 1` lost {self.in_place:,}, "
            f"`total = plus_one(total)` lost {self.by_call:,}: "
            f"{self.by_call / self.made:.0%}."
        )


async def lost() -> Lost:
    """Let two threads count, both ways, and see what is missing in the end."""
    await session()
    return await asyncio.to_thread(count_lost)


def count_lost() -> Lost:
    """Some rounds; more while the threads have not met.

    Without a GIL both ways lose updates, as soon as two cores are to be had.
    """
    made = in_place = by_call = 0
    for done in range(MOST_ROUNDS):
        if done >= ROUNDS and by_call and (in_place or gil_enabled()):
            break
        made += 2 * TIMES
        in_place += missing(add)
        by_call += missing(add_by_call)
    return Lost(made, in_place, by_call)


def missing(step: Callable[[Counter, int], None]) -> int:
    """The updates that two threads have lost, when both have ended."""
    counter, together = Counter(), Barrier(2)

    def run() -> None:
        together.wait()
        step(counter, TIMES)

    team = [Thread(target=run) for _ in range(2)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    return 2 * TIMES - counter.total


# ---- an answer that waits

# Whoever asks gets the byte back a millisecond later: a quick service nearby.
SERVICE = (
    "import os, time\nwhile byte := os.read(0, 1): time.sleep(0.001); os.write(1, byte)"
)
HOG = "import time\nend = time.time() + 30\nwhile time.time() < end: pass"
USUAL_TURN, LONG_TURN = 0.005, 0.05  # seconds
ALONE, BESIDE = 60, 20  # questions

Waits = dict[str, list[float]]  # seconds from question to answer


@dataclass(frozen=True)
class Starved:
    """How long answers took, by who computed meanwhile."""

    waits: Waits

    def median(self, beside: str) -> float:
        """Seconds from question to answer."""
        return median(self.waits[beside])

    def __repr__(self) -> str:
        told = (f"{name} {1e3 * self.median(name):.1f} ms" for name in self.waits)
        return f"Question to answer, median: {', '.join(told)}."

    def picture(self) -> Chart:
        """Every answer as a dot, a row for each company it was in."""
        count = sum(map(len, self.waits.values()))
        chart = Chart(
            "How long an answer takes, and who computes meanwhile",
            n=f"n = {count} answers",
            alt="Four rows of dots over a logarithmic axis of milliseconds. Alone and "
            "beside a process that computes an answer takes about one; beside a thread "
            "that computes it takes a turn more, five or fifty milliseconds.",
            height=260,
        )
        panel = chart.panel("question to answer (ms)", "", "company (a row each)", "x")
        colours = (GREY, BLUE, ORANGE, VERMILION)
        rows = zip(self.waits.values(), colours, strict=True)
        for row, (waits, colour) in enumerate(rows):
            panel.plot(
                [1e3 * wait for wait in waits], [row] * len(waits), "o",
                color=colour, alpha=0.4, markersize=5,
            )  # fmt: skip
            panel.plot(1e3 * median(waits), row, "|", color=INK, markersize=16)
        names = [name.replace(", ", ",\n") for name in self.waits]
        panel.set_yticks(range(len(names)), names)
        panel.set_xticks([1, 10, 100], ["1", "10", "100"])
        panel.set_ylim(len(self.waits) - 0.5, -0.5)
        panel.grid(axis="x", color="#E6E6E6", linewidth=0.6)
        return chart


async def starved() -> Starved:
    """Ask a service again and again: alone, and in company that computes."""
    await session()
    return await asyncio.to_thread(ask_in_company)


def ask_in_company() -> Starved:
    """The four companies, one after the other."""
    command = [sys.executable, "-S", "-c", SERVICE]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running(command, **pipes, bufsize=0) as service:
        assert service.stdin
        assert service.stdout
        ends = service.stdin.fileno(), service.stdout.fileno()
        ask(*ends, 3)  # it has started
        waits = {"alone": ask(*ends, ALONE)}
        with running([sys.executable, "-S", "-c", HOG]):
            waits["process"] = ask(*ends, BESIDE)
        for name, turn in (("", USUAL_TURN), (", long turns", LONG_TURN)):
            with computing(turn):
                waits[f"thread{name}"] = ask(*ends, BESIDE)
        service.stdin.close()
        service.stdout.close()
    return Starved(waits)


def ask(question: int, answer: int, times: int) -> list[float]:
    """Seconds from a question to its answer, each time."""
    waits = []
    for _ in range(times):
        since = time.perf_counter()
        os.write(question, b"?")
        os.read(answer, 1)
        waits.append(time.perf_counter() - since)
    return waits


@contextmanager
def computing(turn: float) -> Iterator[None]:
    """Beside us a thread computes, and keeps its turn for so many seconds."""
    ended: list[bool] = []

    def compute() -> None:
        while not ended:
            sum(range(1000))

    before, thread = sys.getswitchinterval(), Thread(target=compute)
    sys.setswitchinterval(turn)
    thread.start()
    try:
        yield
    finally:
        ended.append(True)
        thread.join()
        sys.setswitchinterval(before)


# ---- a shared VWAP

POURERS, TICKS = 4, 40_000


@dataclass(frozen=True)
class Poured:
    """What came of ticks that several threads added to one VWAP."""

    ticks: int
    nanoseconds: float  # a tick, of the time that passed
    exact: bool

    def __repr__(self) -> str:
        is_exact = "exact" if self.exact else "wrong"
        return (
            f"{POURERS} threads added {self.ticks:,} ticks, "
            f"{self.nanoseconds:,.0f} ns a tick; the VWAP is {is_exact}."
        )


async def poured(answer: Callable[[], Any]) -> Poured:
    """Let threads add the market's ticks to an answer to the exercise."""
    await session()
    return await asyncio.to_thread(pour, answer())


def pour(shared: Any) -> Poured:
    """All at once, and the sums by hand beside it."""
    rows = Market(symbols=1).take(TICKS)
    ticks = list(zip(rows["price"].tolist(), rows["size"].tolist(), strict=True))
    together = Barrier(POURERS + 1)

    def run(own: list[tuple[int, int]]) -> None:
        together.wait()
        for price, size in own:
            shared.add(price, size)

    team = [Thread(target=run, args=(ticks[n::POURERS],)) for n in range(POURERS)]
    for thread in team:
        thread.start()
    together.wait()
    since = time.perf_counter()
    for thread in team:
        thread.join()
    vwap, took = shared.vwap(), time.perf_counter() - since
    right = Fraction(sum(p * s for p, s in ticks), sum(s for _, s in ticks))
    return Poured(len(ticks), 1e9 * took / len(ticks), vwap == right)
