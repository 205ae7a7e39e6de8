"""A stopwatch, and how not to be fooled by it.

Whatever disturbs a call makes it slower and nothing makes it faster, so the
fastest of many short tries comes closest to its cost. Two calls are compared
in turn, for then what disturbs the one disturbs the other as well.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import log
from statistics import median
from typing import Any

from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullFormatter

from quants import evidence
from quants.evidence import find
from quants.kernels import PythonKernel
from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.live import BLUE, INK, VERMILION
from quants.lab.screen import screen
from quants.lab.session import session
from quants.market import Market

Call = Callable[[], Any]
Clock = Callable[[], float]  # seconds
Shot = tuple[float, float]  # when, in seconds, and what it took, in µs
Sides = Mapping[str, Callable[[], float]]
Measure = Callable[[Sides, int], dict[str, list[float]]]

SHOTS = 20  # between two frames
VIEW_SECONDS = 3.0
RUN_SECONDS = 0.001  # of work, while nothing slows it down
ROUNDS = 30


def batch_call(rows: int = 100) -> Call:
    """The VWAP of a batch, in plain Python: what is measured here."""
    kernel, batch = PythonKernel(8), Market().take(rows)
    return lambda: kernel.add(batch)


def stopwatch(call: Call, calls: int = 1) -> float:
    """Seconds that some calls take, by one look before and one after."""
    since = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - since


# ---- one call, again and again


@dataclass(frozen=True)
class Shots:
    """What one call took, each time it was measured, in seconds.

    Attributes:
        first: the shots that followed a pause.
        later: those that followed another shot.
    """

    first: tuple[float, ...]
    later: tuple[float, ...]

    @property
    def cold(self) -> float:
        """How many times as long a first shot takes, as a rule."""
        return median(self.first) / median(self.later)

    def __repr__(self) -> str:
        every = self.first + self.later
        return (
            f"{len(every)} shots of one call: the fastest took {min(every) * 1e6:.1f} "
            f"µs, the slowest {max(every) / min(every):,.0f} times as long. After a "
            f"pause the first one takes {self.cold:.1f} times as long as the others."
        )


async def shots(seconds: float = VIEW_SECONDS) -> Shots:
    """Measure one call once, then once more, and so on, with pauses; live."""
    lab, call, began = await session(), batch_call(), time.perf_counter()
    taken: tuple[list[Shot], list[Shot]] = ([], [])  # the first ones, and the later
    fastest = min(stopwatch(call) for _ in range(20)) * 1e6
    chart, dots = shots_chart(seconds, fastest)

    def look() -> None:
        for number in range(SHOTS):
            moment = time.perf_counter() - began
            taken[number > 0].append((moment, stopwatch(call) * 1e6))
        for line, some in zip(dots, taken, strict=True):
            line.set_data(*zip(*some, strict=True))

    def still() -> Chart:
        return finished(chart, [us for some in taken for _, us in some])

    async with screen(lab, chart.live(*dots), look, still):
        await asyncio.sleep(seconds)
    first, later = (tuple(us / 1e6 for _, us in some) for some in taken)
    return Shots(first, later)


def shots_chart(seconds: float, fastest: float) -> tuple[Chart, list[Any]]:
    """An empty picture of shots, and its dots: the first ones, and the later."""
    chart = Chart(
        "One call, measured again and again",
        n="calls so far",
        alt="One dot for each time that a call was measured, on a logarithmic axis "
        "of microseconds. Those that follow a pause lie well above the others, and "
        "some others lie far higher still.",
    )
    panel = chart.panel("time (s)", "one call took (µs)", log="y")
    panel.set_xlim(0, seconds * 1.12)
    panel.set_ylim(fastest * 0.7, fastest * 40)
    plainly(panel.yaxis)
    colours = VERMILION, BLUE
    dots = [
        panel.plot([], [], "o", color=colour, alpha=0.6, markersize=4)[0]
        for colour in colours
    ]
    chart.key(["● first after a pause", "● the others"], colours)
    return chart, dots


def plainly(axis: Axis) -> None:
    """Numbers as people write them on a logarithmic axis: 1, 2, 5, 10, 20, ..."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda number, _: f"{number:g}")
    axis.set_minor_formatter(NullFormatter())


def finished(chart: Chart, took: Sequence[float]) -> Chart:
    """The picture with all shots, and where the fastest and the median lie."""
    chart.sample(f"n = {len(took)} calls")
    (panel,) = chart.figure.axes
    panel.set_ylim(min(took) * 0.7, max(took) * 1.5)
    for line in panel.lines:
        line.set_animated(False)
    right = panel.get_xlim()[1]
    levels = ("fastest", min(took), "top"), ("median", median(took), "bottom")
    for name, level, where in levels:
        panel.axhline(level, color=INK, linewidth=0.8)
        panel.text(right, level, name, color=INK, fontsize=9, ha="right", va=where)
    return chart


# ---- the same code twice, while something slows it down


def one_after_the_other(
    sides: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Measure every side so many times, one side after the other."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for name in sides:
        for _ in range(rounds):
            found[name].append(sides[name]())
    return found


@contextmanager
def slowness() -> Iterator[Callable[[], None]]:
    """What a debugger does to every line of Python; call to switch it on."""
    before = sys.gettrace()

    def trace(*_: object) -> Any:
        return trace

    try:
        yield lambda: sys.settrace(trace)
    finally:
        sys.settrace(before)


QUICKER = evidence.Claim(
    "the first takes less, by a fifth or more", "first", "second", "s",
    "at most", 0.8,
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """What a way to measure says of sides that are all the same code.

    Attributes:
        ratio: the second side, in terms of the first.
        band: how far two sides are apart of which everybody knows it.
    """

    way: str
    ratio: float
    band: float

    def __repr__(self) -> str:
        return (
            f"{self.way}: the second took {self.ratio:.2f} times as long as the "
            f"first; two runs of the second differ by a factor of {self.band:.2f}."
        )


def compare(measure: Measure, rounds: int = ROUNDS) -> Comparison:
    """Compare a call with itself, while something comes that slows it down.

    There are three sides, all the same: the third is the second once more, and
    how far these two are apart is the noise.
    """
    call = batch_call()
    calls = 1 + round(RUN_SECONDS / min(stopwatch(call) for _ in range(50)))
    runs = 0
    with slowness() as switch_on:

        def side() -> float:
            nonlocal runs
            runs += 1
            if runs == rounds + 1:
                switch_on()
            return stopwatch(call, calls)

        found = measure({"first": side, "second": side, "again": side}, rounds)
    # The right side is the one that is measured twice: so the ratio is upside down.
    finding = find(QUICKER, found["first"], found["second"], found["again"])
    return Comparison(measure.__name__, 1 / finding.ratio, finding.band)


# ---- what is claimed


def differs_when_cold(shots: Shots) -> bool | None:
    """Whether the first shot is another thing than the later ones."""
    if shots.cold >= 1.3:
        return True
    return False if shots.cold < 1.1 else None


def sees_no_difference(apart: Comparison, in_turn: Comparison) -> bool | None:
    """Whether only the comparison in turn sees that both are the same code."""
    if apart.ratio < 1.4:
        return None
    return abs(log(in_turn.ratio)) < log(apart.ratio) / 2


CLAIMS = (
    Claim(
        "one-shot-is-no-measurement",
        "a single shot, which is a first one, takes longer than those that follow it",
        "a first shot takes as long as those that follow it",
        differs_when_cold,
    ),
    Claim(
        "in-turn-tells-the-same-code",
        "one after the other, the same code differs from itself; in turn it does not",
        "in turn, too, the same code differs from itself",
        sees_no_difference,
        "nothing slowed this comparison down",
    ),
)
