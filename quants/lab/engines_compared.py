"""Notebook 12: the same workloads, on every engine of every interpreter.

An engine is who does the pieces of a workload: inline (nobody else), or two
threads, two sub-interpreters, two processes. Times of different interpreters
say little, for they are built differently. So each engine is compared with
inline on the same interpreter.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from statistics import median
from typing import Any, NamedTuple

from matplotlib.lines import Line2D

from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.interpreters import Guest, Guests, NoAnswer, ask, recorded
from quants.lab.live import GREEN, INK, SKY, VERMILION
from quants.lab.screen import screen
from quants.lab.session import session

ROUNDS, RECORDED_ROUNDS = 3, 80
RACE_SECONDS = 14.0  # after which no further interpreter is asked
LEAST_SECONDS = 5.0  # that the last one has
ENGINES = ("threads", "interpreters", "processes")
STYLES = {"threads": (VERMILION, "o"), "interpreters": (GREEN, "D"),
          "processes": (SKY, "s")}  # fmt: skip
WORKLOADS = {
    "sum": "sum (in Python)",
    "hash": "hash (in C, which lets go)",
    "wait": "wait (for an answer)",
    "crumbs": "crumbs (tiny sums)",
}


class Raced(NamedTuple):
    """What one interpreter needed: seconds, by workload and engine."""

    guest: Guest
    seconds: dict[str, dict[str, float]]

    def speed_up(self, workload: str, engine: str) -> float | None:
        """How many times as fast as inline; None: it has no such engine."""
        took = self.seconds[workload]
        return took["inline"] / took[engine] if engine in took else None

    def best(self, workload: str) -> float:
        """The speed-up of the fastest engine, inline among them."""
        took = self.seconds[workload]
        return took["inline"] / min(took.values())


Kind = Callable[[Guest], bool]
KINDS: tuple[tuple[str, str, Kind], ...] = (
    ("threads with a GIL", "threads", lambda guest: guest.gil),
    ("threads without one", "threads", lambda guest: not guest.gil),
    ("sub-interpreters", "interpreters", lambda guest: True),
    ("processes", "processes", lambda guest: True),
)


@dataclass(frozen=True)
class Race:
    """The workloads on all interpreters: here, or recorded."""

    rows: tuple[Raced, ...]
    skipped: tuple[str, ...] = ()

    def __repr__(self) -> str:
        lines = [
            f"{name:7}" + ", ".join(f"{k} {r:.2g}x" for k, r in self.kinds(name))
            for name in WORKLOADS
        ]
        return "\n".join(
            ["Two workers against inline, medians.", *lines, *self.skipped]
        )

    def kinds(self, workload: str) -> list[tuple[str, float]]:
        """Kinds of engines and their speed-up in the median, best first."""
        found = []
        for kind, engine, is_it in KINDS:
            rows = (row for row in self.rows if is_it(row.guest))
            ratios = [r for row in rows if (r := row.speed_up(workload, engine))]
            if ratios:
                found.append((kind, median(ratios)))
        return sorted(found, key=lambda item: -item[1])

    def ranking(self, workload: str) -> str:
        """The kinds of engines, best first."""
        return ", ".join(kind for kind, _ in self.kinds(workload))

    def picture(self) -> Chart:
        """A panel for each workload, a row for each interpreter."""
        chart, dots = small_multiples([row.guest for row in self.rows])
        put(dots, self.rows)
        return chart


# ---- the picture

Dots = dict[tuple[str, str, bool], Line2D]  # workload, engine, recorded


def small_multiples(guests: Sequence[Guest]) -> tuple[Chart, Dots]:
    """Empty panels for these interpreters, and what their dots go to."""
    chart = Chart(
        "Two workers against none, by workload and interpreter",
        n=f"n = {ROUNDS} runs, the fastest; hollow: recorded, n = {RECORDED_ROUNDS}",
        alt="Four panels, one for each workload, with a row for each interpreter "
        "and a dot for each engine: how many times as fast as inline. In sums, "
        "threads are at one where there is a GIL; in hashes and waits they are "
        "ahead; in crumbs every engine is far behind.",
        panels=len(WORKLOADS),
        width=860,
        height=150 + 25 * len(guests),
    )
    dots: Dots = {}
    for number, (workload, heading) in enumerate(WORKLOADS.items()):
        log = "x" if workload == "crumbs" else ""
        panel = chart.panel("times as fast (1 = inline)", "", heading, log=log)
        panel.axvline(1, color=INK, linewidth=1)
        if log:
            panel.set_xlim(0.004, 2)
            panel.set_xticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
        else:
            panel.set_xlim(0, 2.6)
        panel.set_ylim(len(guests) - 0.4, -0.6)
        names = [guest.name for guest in guests] if number == 0 else []
        panel.set_yticks(range(len(guests)), names or [""] * len(guests))
        panel.tick_params(axis="y", labelsize=7)
        for engine, (colour, marker) in STYLES.items():
            for hollow in (False, True):
                (dots[workload, engine, hollow],) = panel.plot(
                    [], [], marker, color=colour, markersize=6, alpha=0.8,
                    fillstyle="none" if hollow else "full",
                )  # fmt: skip
    chart.key(list(STYLES), [colour for colour, _ in STYLES.values()])
    return chart, dots


def put(dots: Dots, rows: Sequence[Raced]) -> None:
    """Put the dots where they belong; one for each row that has that engine."""
    for (workload, engine, hollow), line in dots.items():
        found = [
            (ratio, height)
            for height, row in enumerate(rows)
            if (row.guest.path is None) == hollow
            if (ratio := row.speed_up(workload, engine))
        ]
        line.set_data(*zip(*found, strict=True)) if found else line.set_data([], [])


# ---- the race


async def race(guests: Guests, rounds: int = ROUNDS) -> Race:
    """Let every interpreter do every workload, and draw it as they answer.

    Until one has answered, and if it does not, a recorded one has its place.
    """
    lab, came, skipped = await session(), list[Raced](), list[str]()
    nothing = {name: {"inline": 1.0} for name in WORKLOADS}
    awaited = [Raced(guest, nothing) for guest in guests.all]
    before = raced_before()
    everybody = one_of_each(awaited, before)
    chart, dots = small_multiples([row.guest for row in everybody])
    live = chart.live(*dots.values())

    def result() -> Race:
        return Race(tuple(one_of_each(came, before)), tuple(skipped))

    def look() -> None:
        put(dots, one_of_each(came, before, awaited))

    async with screen(lab, live, look, lambda: result().picture()):
        deadline = time.monotonic() + RACE_SECONDS
        for guest in guests.all:
            try:
                came.append(await raced(guests, guest, rounds, deadline))
            except NoAnswer as reason:
                skipped.append(f"{guest}: {reason}")
    return result()


def one_of_each(*groups: Sequence[Raced]) -> list[Raced]:
    """A row for each sort of interpreter, from the first group that has one."""
    found: dict[Any, Raced] = {}
    for row in chain(*groups):
        found.setdefault(row.guest.sort, row)
    return [found[sort] for sort in sorted(found)]


async def raced(guests: Guests, guest: Guest, rounds: int, deadline: float) -> Raced:
    """Ask one of them.

    Raises:
        NoAnswer: there is none, or no time for it.
    """
    left = deadline - time.monotonic()
    if left < 0:
        raise NoAnswer("no time was left for it")
    question = partial(ask, guest, guests.folder, "race", str(rounds))
    said = await asyncio.to_thread(question, seconds=left + LEAST_SECONDS)
    return Raced(guest, said["seconds"])


def raced_before() -> list[Raced]:
    """What is recorded."""
    return [Raced(guest, row["seconds"]) for guest, row in recorded().items()]


# ---- what is claimed


def none_wins_everywhere(race: Race) -> bool:
    """Whether each engine, inline too, is far behind another one somewhere."""
    return all(
        any(
            far_behind(row, workload, engine)
            for row in race.rows
            for workload in WORKLOADS
        )
        for engine in ("inline", *ENGINES)
    )


def far_behind(row: Raced, workload: str, engine: str) -> bool:
    """Whether another engine of the same interpreter is clearly faster."""
    own = row.speed_up(workload, engine)
    return own is not None and own < CLEARLY * row.best(workload)


CLEARLY = 0.7  # of the best; waiting in two threads takes half the time

CLAIMS = (
    Claim(
        "no-engine-wins-everywhere",
        "each engine is far behind another one in some workload",
        "one engine is nowhere far behind",
        none_wins_everywhere,
    ),
)
