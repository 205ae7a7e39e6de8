"""Notebook 10: how long the collector stops everything, and what it looks at.

Whatever is measured runs inside of `set_aside`: the notebook's own containers
are hidden from the collector meanwhile, so that only the experiment's count.
What grows is in `growing`, what a freeze keeps in `freezing`.
"""

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from quants.histogram import Histogram, seconds_text
from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.live import GREY, VERMILION
from quants.lab.session import session
from quants.monitor import freeze_gc

FULL = 2  # the oldest generation
MILLION = 1_000_000
SIZES = (10_000, 30_000, 100_000, 300_000, MILLION)
TICK_SECONDS = 20e-6  # the budget of a tick in a full market

Held = list[list[int]]


@contextmanager
def set_aside() -> Iterator[None]:
    """Hide what the notebook itself has; leave the collector as it was found."""
    was_on, thresholds = gc.isenabled(), gc.get_threshold()
    freeze_gc()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        (gc.enable if was_on else gc.disable)()


@contextmanager
def no_collector() -> Iterator[None]:
    """Let nothing set off a collection; as it was, afterwards."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


# ---- what is seen of a collection


class Pause(NamedTuple):
    """One collection.

    Attributes:
        alive: containers that were kept then.
        walked: containers that the collector looked at; of full ones only.
    """

    alive: int
    generation: int
    seconds: float
    walked: int


class Watch:
    """Notes every collection while entered.

    Args:
        held: what the pump keeps.
        pauses: where the notes go.
    """

    def __init__(self, held: Held, pauses: list[Pause]) -> None:
        self.held, self.pauses = held, pauses
        self._began, self._walked = 0.0, 0  # set when a collection starts

    def __enter__(self) -> Self:
        gc.callbacks.insert(0, self.note)  # counting for us is nobody's pause
        return self

    def __exit__(self, *error: object) -> None:
        gc.callbacks.remove(self.note)

    def note(self, phase: str, info: dict[str, Any]) -> None:
        """The collector calls this when it starts, and when it stops."""
        now, generation = time.perf_counter(), info["generation"]
        if phase == "stop":
            taken = now - self._began
            pause = Pause(len(self.held), generation, taken, self._walked)
            self.pauses.append(pause)
            return
        full = generation == FULL
        self._walked = len(gc.get_objects()) if full else 0
        self._began = time.perf_counter()


def histogram(pauses: Sequence[Pause]) -> Histogram:
    """How long they took."""
    found = Histogram()
    for pause in pauses:
        found.record(round(pause.seconds * 1e9))
    return found


# ---- what they find


@dataclass(frozen=True)
class Grown:
    """The collections of a run in which ever more containers were kept."""

    pauses: tuple[Pause, ...]
    kept: int

    @property
    def longest(self) -> Pause:
        """The longest pause."""
        return max(self.pauses, key=lambda pause: pause.seconds)

    @property
    def full(self) -> list[Pause]:
        """The full collections."""
        return [pause for pause in self.pauses if pause.generation == FULL]

    @property
    def generations(self) -> str:
        """How many collections there were of each generation."""
        count = Counter(pause.generation for pause in self.pauses)
        told = (f"{count[generation]:,}" for generation in range(FULL + 1))
        return "Collections of generation 0, 1 and 2: " + ", ".join(told) + "."

    def __repr__(self) -> str:
        if not self.pauses:
            return f"{self.kept:,} containers kept, and no collection yet."
        took, longest = histogram(self.pauses), self.longest.seconds
        return (
            f"{self.kept:,} containers kept, {took.count:,} collections: half took "
            f"up to {seconds_text(took.quantile(0.5))}, one in a thousand up to "
            f"{seconds_text(took.quantile(0.999))} (p99.9); in the longest, "
            f"{longest / TICK_SECONDS:,.0f} ticks of a full market come."
        )


@dataclass(frozen=True)
class Walks:
    """What a full collection takes, by how many containers are alive."""

    seconds: dict[int, float]

    @property
    def each_seconds(self) -> float:
        """The most containers alive, and the time for each of them."""
        most = max(self.seconds)
        return self.seconds[most] / most

    @property
    def longest(self) -> str:
        """With the most containers alive."""
        return seconds_text(self.seconds[max(self.seconds)])

    def __repr__(self) -> str:
        few, many = min(self.seconds), max(self.seconds)
        return (
            f"A full collection takes {seconds_text(self.seconds[few])} with {few:,} "
            f"containers alive, {self.longest} with {many:,}: "
            f"{1e9 * self.each_seconds:.0f} ns for each."
        )


async def walks(sizes: Sequence[int] = SIZES, rounds: int = 3) -> Walks:
    """Time a full collection with so many alive, in turn; the fastest of some."""
    await session()
    found = dict.fromkeys(sizes, float("inf"))
    with set_aside():
        for _ in range(rounds):
            for size in sizes:
                found[size] = min(found[size], walk(size))
                await asyncio.sleep(0)
    return Walks(found)


def walk(size: int) -> float:
    """Seconds of a full collection beside so many containers."""
    with no_collector():
        held = [[i] for i in range(size)]
        began = time.perf_counter()
        gc.collect()
        seconds = time.perf_counter() - began
        held.clear()
    return seconds


def grows(walks: Walks) -> Chart:
    """The time of a full collection against the containers alive."""
    sizes, ms = [*walks.seconds], [1e3 * each for each in walks.seconds.values()]
    chart = Chart(
        "A full collection looks at everything that is alive",
        n=f"n = {len(sizes)} sizes, the fastest of some tries each",
        alt="Milliseconds of a full collection against the number of containers "
        "alive, both logarithmic: dots that climb to the right, about as steeply as "
        "a dashed line of a fixed time for each.",
    )
    axes = chart.panel("containers alive (number)", "full collection (ms)", log="xy")
    line = [1e3 * walks.each_seconds * size for size in sizes]
    axes.plot(sizes, line, "--", color=GREY, linewidth=1)
    axes.plot(sizes, ms, "o", color=VERMILION, markersize=8)
    axes.annotate(
        f"{1e9 * walks.each_seconds:.0f} ns for each", (sizes[-2], line[-2]),
        xytext=(12, -20), textcoords="offset points", color=GREY, fontsize=9,
    )  # fmt: skip
    axes.set_xticks([10_000, 100_000, MILLION], ["10,000", "100,000", "1,000,000"])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    return chart


# ---- what is claimed


def are_full(grown: Grown) -> bool | None:
    """Whether the longest pause was a full collection's."""
    return grown.longest.generation == FULL if grown.full else None


def grow_with_the_living(walks: Walks) -> bool:
    """Whether a hundred times as many containers take ten times as long."""
    few, many = min(walks.seconds), max(walks.seconds)
    return walks.seconds[many] > LONGER * walks.seconds[few]


LONGER = 10  # at a hundred times the size; the clock is not asked for more

CLAIMS = (
    Claim(
        "the-longest-pause-is-a-full-collection",
        "the longest pause came from a collection of the oldest generation",
        "a collection of a young generation made the longest pause",
        are_full,
        "there was no full collection; keep more containers",
    ),
    Claim(
        "a-full-collection-walks-the-living",
        "the more containers are alive, the longer a full collection takes",
        "a full collection takes about as long, however many containers are alive",
        grow_with_the_living,
    ),
)
