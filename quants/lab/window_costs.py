"""Notebook 07: what a tick costs in a window, by its width and by the batch.

    await window_costs.costs("naive", "rolling")    over the width
    await window_costs.budget()                     beside the budget of a tick

Microseconds are shown, and lines of Python are counted. A count is the same on
every machine, however busy: most of the claims are decided by it.
"""

import asyncio
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.exercise import Answer
from quants.lab.live import BLUE, GREEN, INK, PURPLE, VERMILION
from quants.lab.panels import number_text
from quants.lab.rolling import (
    BUDGET_US,
    MIDDLE,
    ROUNDS,
    TRIES,
    WAYS,
    Cost,
    Side,
    measured,
    new_answer,
)
from quants.lab.session import session
from quants.lab.timing import plainly

WINDOWS = (5, 50, 500, 5000)  # ticks
COLOURS = {"naive": VERMILION, "rolling": BLUE, "NumPy": GREEN, "yours": PURPLE}


# What the budget is held against, dearest first as a rule.
LADDER = (
    Side("naive"), Side("NumPy"), Side("rolling"),
    Side("NumPy", batch=100), Side("NumPy", batch=1000),
)  # fmt: skip
ONE, ROLLING, MANY = LADDER[1], LADDER[2], LADDER[4]


@dataclass(frozen=True)
class Costs:
    """What a tick costs, by way and width."""

    found: dict[Side, Cost]

    def line(self, way: str) -> list[Cost]:
        """One way's costs, narrow windows first."""
        return [self.found[Side(way, held)] for held in WINDOWS]

    @property
    def ways(self) -> list[str]:
        """In the order in which they were asked for."""
        return list(dict.fromkeys(side.way for side in self.found))

    def told(self, way: str) -> str:
        """A tick's cost in the middle window, such as "480 µs"."""
        return f"{number_text(self.found[Side(way)].us)} µs"

    def __repr__(self) -> str:
        told = (f"{way} {self.told(way)}" for way in self.ways)
        return f"With {MIDDLE} ticks in the window one more costs: {', '.join(told)}."

    def picture(self) -> Chart:
        """Lines of Python, and microseconds beside the budget."""
        return costs_chart(self)


async def costs(*ways: str, **answers: Answer) -> Costs:
    """What single ticks cost, in windows of several widths.

    Args:
        answers: to the exercise, by the names of their lines.
    """
    await session()
    made = {way: WAYS[way] for way in ways}
    made |= {name: partial(new_answer, answer) for name, answer in answers.items()}
    sides = [Side(way, held) for way in made for held in WINDOWS]
    return Costs(await asyncio.to_thread(measured, made, sides))


def costs_chart(costs: Costs) -> Chart:
    """Two panels over the width: what is counted, what is measured."""
    chart = Chart(
        "What one more tick costs",
        n=f"n = {ROUNDS * TRIES} ticks each, the quickest",
        alt="Two panels with logarithmic axes over the ticks in the window, a line "
        f"each for {', '.join(costs.ways)}: lines of Python that run for a tick, and "
        "microseconds it takes, beside its budget. The naive line climbs with the "
        "window, the others stay where they are.",
        panels=2,
    )  # fmt: skip
    count = chart.panel(
        "in the window (ticks)", "a tick runs (lines of Python)", log="xy"
    )
    time = chart.panel("in the window (ticks)", "a tick takes (µs)", log="xy")
    for way in costs.ways:
        us, lines = zip(*costs.line(way), strict=True)
        count.plot(WINDOWS, lines, "o-", color=COLOURS[way], markersize=5)
        time.plot(WINDOWS, us, "o-", color=COLOURS[way], markersize=5)
    time.axhline(BUDGET_US, color=INK, linewidth=1.5)
    time.text(WINDOWS[-1], BUDGET_US * 1.15, f"budget {BUDGET_US:g} µs", fontsize=8,
              ha="right", color=INK)  # fmt: skip
    for panel in (count, time):
        name_decades(panel)
    chart.key(costs.ways, [COLOURS[way] for way in costs.ways])
    return chart


def name_decades(panel: Axes) -> None:
    """Numbers in place of powers of ten; below, the windows'."""
    panel.set_xticks(WINDOWS, [f"{held:,}" for held in WINDOWS])
    panel.yaxis.set_major_formatter(
        lambda number, _: f"{number:g}" if number < 10_000 else f"{number / 1000:g}k"
    )
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_xticks([], minor=True)


# ---- beside the budget


@dataclass(frozen=True)
class Budget:
    """What a tick costs in the middle window, one by one and in batches."""

    found: dict[Side, Cost]

    def __repr__(self) -> str:
        one, rolling, many = (self.found[side] for side in (ONE, ROLLING, MANY))
        return (
            f"Tick by tick, NumPy takes {one.us / rolling.us:.0f} times as long as the "
            f"rolling window in plain Python. {MANY.batch:,} at once, a tick takes "
            f"{many.us:.2f} µs, and {many.lines:.2g} lines of Python."
        )

    def picture(self) -> Chart:
        """A dot each, and the budget."""
        chart = Chart(
            f"One tick, with {MIDDLE} in the window, and its budget",
            n=f"n = {ROUNDS * TRIES} batches each, the quickest",
            alt="A dot for each way on a logarithmic axis of microseconds a tick, and "
            "the budget of 20: the naive window and NumPy tick by tick lie beyond it, "
            "the rolling window and NumPy in batches within.",
            height=280,
        )
        panel = chart.panel("a tick takes (µs, logarithmic)", "", log="x")
        plainly(panel.xaxis)
        for row, side in enumerate(reversed(LADDER)):
            us = self.found[side].us
            panel.plot([us, BUDGET_US], [row, row], color="#DDDDDD", zorder=1)
            panel.plot(us, row, "o", color=COLOURS[side.way], markersize=9)
            panel.text(us, row + 0.22, f"{number_text(us)} µs", fontsize=8, ha="center")
        panel.axvline(BUDGET_US, color=INK, linewidth=2)
        panel.text(BUDGET_US, -0.45, f" budget {BUDGET_US:g} µs", fontsize=9)
        panel.set_yticks(range(len(LADDER)), [str(side) for side in reversed(LADDER)])
        panel.set_ylabel("way ( )").set_visible(False)
        panel.set_ylim(-0.6, len(LADDER) - 0.4)
        panel.set_position((0.2, 0.22, 0.77, 0.58))  # the names need room
        return chart


async def budget() -> Budget:
    """What a tick costs in the middle window, in every way."""
    await session()
    return Budget(await asyncio.to_thread(measured, WAYS, list(LADDER)))


# ---- what is claimed


def breaks_the_budget(costs: Costs) -> bool | None:
    """Whether the naive window takes more than a tick has; None if it is close."""
    us = costs.found[Side("naive")].us
    return True if us > 2 * BUDGET_US else False if us < BUDGET_US / 2 else None


def grows(lines: list[float]) -> bool | None:
    """Whether a count grows as the windows do, but for a constant part."""
    growth = (lines[-1] / lines[1]) / (WINDOWS[-1] / WINDOWS[1])
    return True if growth > 0.5 else False if lines[-1] < 2 * lines[1] else None


def counted(costs: Costs, way: str) -> list[float]:
    """The lines that a way runs for a tick, narrow windows first."""
    return [cost.lines for cost in costs.line(way)]


def stays(costs: Costs, way: str) -> bool | None:
    """Whether a way runs as many lines in every window."""
    growth = grows(counted(costs, way))
    return None if growth is None else not growth


def slower_alone(budget: Budget) -> bool | None:
    """Whether NumPy takes longer for single ticks than plain Python does."""
    ratio = budget.found[ONE].us / budget.found[ROLLING].us
    return True if ratio > 2 else False if ratio < 0.5 else None


CLAIMS = (
    Claim(
        "a-wide-window-breaks-the-budget",
        "added up anew, a window of some hundred ticks takes more than a tick has",
        "even added up anew, a window of some hundred ticks is within the budget",
        breaks_the_budget,
        "it takes about as long as a tick has",
    ),
    Claim(
        "adding-up-anew-grows-with-the-window",
        "added up anew, ten times the window is ten times the lines of Python",
        "added up anew, a wide window runs no more lines than a narrow one",
        lambda costs: grows(counted(costs, "naive")),
    ),
    Claim(
        "adding-and-taking-away-does-not",
        "add what comes and take away what goes: as many lines, however wide it is",
        "even so, a wide window runs more lines than a narrow one",
        lambda costs: stays(costs, "rolling"),
    ),
    Claim(
        "numpy-for-one-tick-is-slower",
        "tick by tick, NumPy takes longer than a loop in plain Python",
        "even tick by tick, NumPy is quicker than a loop in plain Python",
        slower_alone,
    ),
    Claim(
        "a-batch-shares-its-lines",
        "in a large batch a tick costs less than one line of Python",
        "in a large batch, too, every tick costs lines of Python",
        lambda budget: budget.found[MANY].lines < 1,
    ),
    Claim(
        "your-window-does-not-care-how-wide",
        "this window runs as many lines for a tick, however many it holds",
        "this window runs more lines the more ticks it holds",
        lambda costs: stays(costs, "yours"),
    ),
)
