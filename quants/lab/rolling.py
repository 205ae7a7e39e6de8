"""Notebook 07: windows of ticks, fed and asked; what a tick costs in them.

    await rolling.fill()   a naive window fills up, live

Microseconds are measured and lines of Python are counted. What comes of it, by
the width of a window and by the batch, is in `window_costs`.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from statistics import quantiles
from types import FrameType
from typing import Any, NamedTuple

from quants.lab.charts import Chart
from quants.lab.desk import Desk
from quants.lab.exercise import Answer
from quants.lab.live import GREY, INK, VERMILION
from quants.lab.panels import budget_us
from quants.lab.session import session
from quants.lab.timing import stopwatch
from quants.market import Market
from quants.tick import Rows
from quants.windows import NaiveWindow, RollingWindow, TimeWindow

BUDGET_US = budget_us(50_000)
TICK_RATE = 1000  # of event time: a window of n ticks is n ms wide
TICK_NS = 10**9 // TICK_RATE

AnyWindow = NaiveWindow | RollingWindow | TimeWindow
Step = Callable[[Rows], None]  # takes the next ticks, and asks for the sums
Way = Callable[[int], Step]  # given how many ticks a window holds
Dot = tuple[int, float]  # ticks in the window, µs


def market() -> Market:
    """The ticks of these experiments: one symbol, evenly in time."""
    return Market(symbols=1, tick_rate=TICK_RATE)


def asked(window: AnyWindow) -> Step:
    """How a window is fed, and asked."""

    def step(rows: Rows) -> None:
        window.add(rows)
        window.sums()

    return step


def new(kind: type[AnyWindow], held: int) -> Step:
    """The same for a new window, of so many ticks."""
    return asked(kind(1, held * TICK_NS))


def new_answer(answer: Answer, held: int) -> Step:
    """The same for an answer to the exercise, which takes single ticks."""
    window = answer(held)

    def step(rows: Rows) -> None:
        for _, price, size, _, _ in rows.tolist():
            window.add(price, size)
        window.vwap()

    return step


WAYS: dict[str, Way] = {
    "naive": partial(new, NaiveWindow),
    "rolling": partial(new, RollingWindow),
    "NumPy": partial(new, TimeWindow),
}

# ---- what a tick costs

MIDDLE = 500  # ticks in the window whose cost is guessed
ROUNDS, TRIES = 20, 3  # the first of a round finds cold caches; the quickest counts


class Side(NamedTuple):
    """A way to sum, ticks in the window, and ticks that come at once."""

    way: str
    held: int = MIDDLE
    batch: int = 1

    def __str__(self) -> str:
        came = "tick by tick" if self.batch == 1 else f"{self.batch:,} at once"
        return f"{self.way}, {came}"


class Cost(NamedTuple):
    """What a tick costs: the quickest of some tries, and lines of Python run."""

    us: float
    lines: float


class Full:
    """A window that is full, and the ticks that come next."""

    def __init__(self, way: Way, side: Side) -> None:
        self.step, self.ticks, self.batch = way(side.held), market(), side.batch
        self.step(self.ticks.take(side.held))

    def seconds(self) -> float:
        """What the next batch takes."""
        return stopwatch(partial(self.step, self.ticks.take(self.batch)))

    def lines(self) -> int:
        """How many lines of Python it runs."""
        return lines_run(partial(self.step, self.ticks.take(self.batch)))


def measured(ways: dict[str, Way], sides: Sequence[Side]) -> dict[Side, Cost]:
    """What a tick costs for each of these; they are measured in turn."""
    windows = {side: Full(ways[side.way], side) for side in sides}
    quickest = dict.fromkeys(sides, inf)
    for _ in range(ROUNDS):
        for side, window in windows.items():
            tries = (window.seconds() for _ in range(TRIES))
            quickest[side] = min(quickest[side], *tries)
    return {
        side: Cost(1e6 * quickest[side] / side.batch, window.lines() / side.batch)
        for side, window in windows.items()
    }


def lines_run(call: Callable[[], Any]) -> int:
    """How many lines of Python run while a call does, in this thread."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


# ---- a window fills up

SECONDS = 3.0
FULL = 0.9  # of the time, after which the window is
WARM_SECONDS = 0.005  # after a pause a core is slow
WIDTHS = range(100, 1000, 100)  # ticks; what the slider offers


@dataclass(frozen=True)
class Filled:
    """What the sums took after each tick, and how many the window then held."""

    dots: tuple[Dot, ...]

    @property
    def each_us(self) -> float:
        """Microseconds for every tick in the window, at the quickest."""
        most = max(held for held, _ in self.dots)
        return min(us / held for held, us in self.dots if 2 * held > most)

    def __repr__(self) -> str:
        return (
            f"{len(self.dots):,} ticks came. Each tick in the window makes the next "
            f"one {self.each_us:.2f} µs dearer: {BUDGET_US / self.each_us:.0f} of them "
            f"use up the budget of {BUDGET_US:g} µs."
        )


class FillPicture(Chart):
    """A dot for every tick: what its sums took."""

    def __init__(self) -> None:
        super().__init__(
            "The window fills up",
            n="n = ticks so far",
            alt="A dot for every tick: the microseconds that its sums took, over the "
            "ticks that the window then held. The dots climb along a straight, dashed "
            "line and cross the budget of one tick.",
        )
        panel = self.axes = self.panel("in the window (ticks)", "adding up took (µs)")
        (self.dots,) = panel.plot([], [], "o", color=VERMILION, alpha=0.6, markersize=4)
        panel.axhline(BUDGET_US, color=INK, linewidth=2)
        panel.text(1, BUDGET_US, f"budget {BUDGET_US:g} µs", fontsize=9, ha="right",
                   va="bottom", transform=panel.get_yaxis_transform())  # fmt: skip
        panel.set_xlim(0, 105)
        panel.set_ylim(0, 60)

    def update(self, dots: Sequence[Dot]) -> bool:
        """Show these dots; whether an axis had to change."""
        held, us = zip(*dots, strict=True)
        self.dots.set_data(held, us)
        # Whatever disturbs a tick makes it far dearer than others: out of view.
        usual = quantiles(us, n=10)[-1] if len(us) > 1 else us[0]
        right, top = self.axes.get_xlim()[1], self.axes.get_ylim()[1]
        if max(held) <= right and usual * 1.1 <= top:
            return False
        self.axes.set_xlim(0, right if max(held) <= right else max(held) * 1.5)
        self.axes.set_ylim(0, max(top, usual * 1.5))
        return True

    def undisturbed(self, each_us: float) -> None:
        """The line on which the dots lie if nothing disturbs them."""
        right = self.axes.get_xlim()[1]
        self.axes.plot([0, right], [0, right * each_us], "--", color=GREY, zorder=1)


async def fill(held: int = WIDTHS[0], seconds: float = SECONDS) -> Filled:
    """Let a naive window fill up, live; the slider is its width in ticks."""
    await session()  # whose heartbeat lets the stop button work
    window, ticks, dots = NaiveWindow(1, held * TICK_NS), market(), list[Dot]()
    picture, last = FillPicture(), time.monotonic()
    live = picture.live(picture.dots)
    desk = Desk(live, seconds)

    def look() -> bool:
        nonlocal last
        since, last = last, time.monotonic()
        tick_rate = window.span_ns / TICK_NS / (FULL * seconds)
        while time.monotonic() < last + WARM_SECONDS:
            window.sums()
        for _ in range(1 + int((last - since) * tick_rate)):
            window.add(ticks.take(1))
            took = min(stopwatch(window.sums) for _ in range(TRIES))
            dots.append((len(window.ticks), took * 1e6))
        if picture.update(dots):
            live.limits_changed()
        return True

    def still() -> FillPicture:
        whole = FillPicture()
        whole.update(dots)
        whole.undisturbed(Filled(tuple(dots)).each_us)
        whole.sample(f"n = {len(dots):,} ticks")
        return whole

    def widen(held: int) -> None:
        window.span_ns = held * TICK_NS

    desk.slider("window", WIDTHS, held, widen)
    await desk.run(look, still)
    return Filled(tuple(dots))
