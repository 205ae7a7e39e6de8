"""Notebook 06: from which batch on does it pay to send it to another process?

The engines are those of the package, and so is the ladder they climb. What is
sent, functions and batches, and how processes start, are in `crossing`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets
from IPython.display import DisplayHandle

from quants.climb import MAX_BATCH, Plan, measured
from quants.engines import EngineName
from quants.lab.batch_task import Costs
from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.crossing import BATCHES, Parcels, plain_numbers
from quants.lab.crossing import CLAIMS as CROSSING
from quants.lab.exercise import Answer
from quants.lab.live import BLUE, GREY, INK, VERMILION
from quants.lab.session import session
from quants.ladder import NEVER, Rung, crossover, rungs
from quants.tick import ROW

COLOURS = {"inline": GREY, "processes": VERMILION, "shared": BLUE}
FENCED: tuple[EngineName, ...] = ("processes", "shared")
BUDGET_US = 20.0  # a tick's, at 50,000 of them a second

# ---- the ladder


@dataclass(frozen=True)
class Climbed:
    """Engines at several batch sizes: throughput, and what it costs this process."""

    rungs: tuple[Rung, ...]
    rounds: int

    def line(self, engine: str) -> list[Rung]:
        """An engine's rungs, small batches first."""
        found = (rung for rung in self.rungs if rung.engine == engine)
        return sorted(found, key=lambda rung: rung.batch)

    def here_us(self, engine: str, batch: int) -> float:
        """CPU microseconds that a batch costs this process."""
        return next(r.here_us for r in self.line(engine) if r.batch == batch)

    def wins(self, engine: str) -> str:
        """From which batch on an engine has the higher throughput."""
        found = crossover(self.line(engine))
        return f"{found:,} ticks" if found else NEVER

    def costs(self, engine: str) -> Costs:
        """What a batch costs this process: handed over to an engine, and summed."""
        one, most = (self.here_us(engine, batch) for batch in (1, MAX_BATCH))
        pack_us = max(0.0, (most - one) / (MAX_BATCH - 1))
        sum_us = self.here_us("inline", MAX_BATCH) / MAX_BATCH
        return Costs(one, pack_us, sum_us, MAX_BATCH)

    def __repr__(self) -> str:
        told = (f"{engine} {self.wins(engine)}" for engine in FENCED)
        return f"More ticks a second than inline, from a batch of: {'; '.join(told)}."

    def picture(self) -> Chart:
        """Throughput with the crossovers, and the loop's share of a tick's budget."""
        chart = Chart(
            "Where a VWAP is summed, and in what batches",
            n=f"n = {self.rounds} rounds, medians",
            alt="Two panels with logarithmic axes over the ticks in a batch, a line "
            "each for inline, processes and shared memory: ticks summed a second, with "
            "a ring where an engine begins to beat inline; and microseconds of CPU "
            "that a tick costs this process, beside its budget.",
            panels=2,
        )
        rate = chart.panel("batch (ticks)", "summed (million ticks/s)", log="xy")
        cost = chart.panel("batch (ticks)", "CPU here (µs a tick)", log="xy")
        rate.margins(y=0.12)  # room for a ring
        for engine, colour in COLOURS.items():
            self._draw(rate, cost, engine, colour)
        cost.axhline(BUDGET_US, color=INK, linewidth=1.5)
        text = f"budget: {BUDGET_US:g} µs a tick"
        cost.text(MAX_BATCH, BUDGET_US * 1.2, text, fontsize=8, ha="right", color=INK)
        plain_numbers(rate, [0.01, 0.1, 1, 10])
        plain_numbers(cost, [0.1, 1, 10, 100])
        chart.key(list(COLOURS), list(COLOURS.values()))
        return chart

    def _draw(self, rate: Any, cost: Any, engine: str, colour: str) -> None:
        line = self.line(engine)
        batches = [rung.batch for rung in line]
        rates = [rung.ticks_per_second / 1e6 for rung in line]
        rate.plot(batches, rates, "o-", color=colour, markersize=4)
        if engine != "inline" and (ring := crossover(line)):
            at = rates[batches.index(ring)]
            rate.plot(ring, at, "o", color=colour, markersize=13, fillstyle="none")
        costs = [rung.here_us / rung.batch for rung in line]
        cost.plot(batches, costs, "o-", color=colour, markersize=4)


ROUNDS, SECONDS, WORKERS = 5, 0.03, 2


async def ladder() -> Climbed:
    """Let the engines sum batches of all sizes, and draw what came of it."""
    bar = ipywidgets.FloatProgress(max=1.0, description="climbing")
    handle = DisplayHandle()
    handle.display(bar)

    def advance(share: float) -> None:
        bar.value += share

    climbed = await climb(BATCHES, ROUNDS, advance)
    handle.update(climbed.picture())
    return climbed


async def climb(
    batches: Sequence[int],
    rounds: int,
    advance: Callable[[float], object] = lambda share: None,
) -> Climbed:
    """Let the engines sum batches of some sizes, in turn; every sum is checked."""
    await session()
    plan = Plan(["python"], FENCED, [], batches, WORKERS, rounds, SECONDS)
    found, _ = await measured(plan, advance)
    return Climbed(tuple(rungs(found)), rounds)


# ---- what was chosen, tried

AROUND = (0.25, 4.0)  # of the batch that was chosen


@dataclass(frozen=True)
class Tried:
    """Batches well below and well above the chosen one, handed over and summed.

    Attributes:
        engine: to which they are handed over.
        ratios: CPU time to hand over by that to sum here, below and above.
    """

    engine: str
    chosen: int | None
    ratios: tuple[float, float] | None

    def __repr__(self) -> str:
        if self.chosen is None or self.ratios is None:
            return f"{self.engine}: no batch is worth handing over on this host."
        below, above = self.ratios
        return (
            f"{self.engine}: from {self.chosen:,} ticks on. With a quarter of them, "
            f"handing over costs {below:.1f}x what summing does; with four times as "
            f"many, {above:.1f}x."
        )


async def tried(choose: Answer, climbed: Climbed, engine: str = "shared") -> Tried:
    """Ask an answer to the exercise for a batch, and try what it said."""
    chosen = choose(climbed.costs(engine))
    if chosen is None:
        return Tried(engine, None, None)
    low, high = (min(MAX_BATCH, max(1, round(chosen * share))) for share in AROUND)
    found = await climb(sorted({low, high}), rounds=3)
    below, above = (
        found.here_us(engine, batch) / found.here_us("inline", batch)
        for batch in (low, high)
    )
    return Tried(engine, chosen, (below, above))


# ---- claims


def is_wrapping(parcels: Parcels) -> bool:
    """Whether a single tick is mostly wrapping, and a large batch hardly."""
    one, most = parcels.all[0], parcels.all[-1]
    return one.bytes > 2 * ROW.itemsize and most.bytes < 1.1 * most.ticks * ROW.itemsize


def below(ratio: float, clearly: float = 0.8) -> bool | None:
    """Whether a ratio of CPU times is below 1; None if noise could decide."""
    if ratio < clearly:
        return True
    return False if ratio * clearly > 1 else None


def slower_alone(climbed: Climbed) -> bool | None:
    """Whether one tick a task has less throughput than no process at all."""
    return below(climbed.line("processes")[0].ratio, 0.5)


def spares(climbed: Climbed) -> bool | None:
    """Whether large batches cost this process less handed over than summed."""
    here = climbed.here_us("processes", MAX_BATCH), climbed.here_us("inline", MAX_BATCH)
    return below(here[0] / here[1])


def shared_spares_more(climbed: Climbed) -> bool | None:
    """Whether shared memory costs this process less than pickling, at 1000 ticks."""
    here = climbed.here_us("shared", 1000), climbed.here_us("processes", 1000)
    return below(here[0] / here[1])


def pays(tried: Tried) -> bool | None:
    """Whether it costs more well below the chosen batch, and less well above."""
    if tried.ratios is None:
        return None
    small, large = below(1 / tried.ratios[0]), below(tried.ratios[1])
    return small if small == large else None


CLAIMS = (
    *CROSSING,
    Claim(
        "a-small-parcel-is-mostly-wrapping",
        "a tick sent alone is mostly wrapping, a large batch is mostly ticks",
        "the wrapping does not depend on the size of a batch",
        is_wrapping,
    ),
    Claim(
        "one-tick-a-task-is-slower",
        "one tick a task: two processes sum far fewer ticks than the loop alone",
        "even one tick a task is worth a process",
        slower_alone,
    ),
    Claim(
        "large-batches-spare-the-loop",
        "a large batch costs this process less to send than to sum",
        "a large batch costs this process more to send than to sum",
        spares,
    ),
    Claim(
        "shared-memory-spares-more",
        "into shared memory a batch goes for less than through a pipe",
        "shared memory costs this process more than a pipe",
        shared_spares_more,
    ),
    Claim(
        "the-chosen-batch-pays",
        "below the chosen batch sending costs more than summing, above it less",
        "around the chosen batch it is the other way round",
        pays,
        "no batch is worth sending here, or the two cost too much alike to tell",
    ),
)
