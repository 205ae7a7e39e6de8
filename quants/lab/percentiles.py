"""What a percentile can see, and what becomes of it when it is averaged.

A percentile leaves out a share of the times, and with it every stall that
takes a smaller share of the time. The server here is one on paper, and the
workers' times are drawn from a seed: the same on every machine.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from statistics import mean

from quants.histogram import Histogram, seconds_text
from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.live import BLUE, GREEN, INK, ORANGE, VERMILION
from quants.lab.omission import from_due, on_paper

# ---- which one moves first

RATE, ASKS = 500, 10_000  # a second, and in all
EVERY_SECONDS = 1.0  # there is a stall
STALLS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.7)
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
COLOURS = {
    "p50": BLUE, "p90": GREEN, "p99": ORANGE, "p99.9": VERMILION, "mean": INK
}  # fmt: skip
MOVED = 2.0  # times what it was without a stall


@dataclass(frozen=True)
class Grown:
    """Percentiles and mean of a server that stalls each second, ever longer.

    Attributes:
        curves: seconds by name, one for each length in STALLS.
    """

    curves: Mapping[str, tuple[float, ...]]

    def moves_at(self, name: str) -> float:
        """The shortest stall that doubles it, in seconds; inf if none does."""
        quiet, *others = self.curves[name]
        lengths = zip(STALLS[1:], others, strict=True)
        moved = (stall for stall, value in lengths if value > MOVED * quiet)
        return next(moved, float("inf"))

    @property
    def first(self) -> str:
        """The percentile that moves first."""
        return min(QUANTILES, key=self.moves_at)

    def __repr__(self) -> str:
        moments = (f"{n} at {seconds_text(self.moves_at(n))}" for n in self.curves)
        return f"With a stall each second, of so much they move: {', '.join(moments)}."

    def picture(self) -> Chart:
        """A line for each of them over the length of the stall."""
        return grown_chart(self)


async def growing() -> Grown:
    """Stall once a second, ever longer, and see what moves."""
    curves: dict[str, list[float]] = {name: [] for name in COLOURS}
    for stall in STALLS:
        waits = await on_paper(from_due, stall, EVERY_SECONDS, RATE, ASKS)
        for name, q in QUANTILES.items():
            curves[name].append(waits.ages.quantile(q))
        curves["mean"].append(waits.mean)
        await asyncio.sleep(0)  # the loop's own turn
    return Grown({name: tuple(values) for name, values in curves.items()})


def grown_chart(grown: Grown) -> Chart:
    """A line for each percentile, and one for the mean."""
    chart = Chart(
        "A stall each second, ever longer",
        n=f"n = {ASKS:,} answers at each dot, on paper",
        alt="Lines for p50, p90, p99, p99.9 and the mean over the length of a stall, "
        "both axes logarithmic. Each percentile stays flat until the stall takes the "
        "share of a second that it leaves out, and then rises steeply, p99.9 first "
        "and p50 last. The mean rises slowly.",
    )
    panel = chart.panel("stall each second (ms)", "timed from due (ms)", log="xy")
    lengths = [1e3 * stall for stall in STALLS[1:]]
    for name, values in grown.curves.items():
        style = "--" if name == "mean" else "o-"
        shown = [1e3 * value for value in values[1:]]
        panel.plot(lengths, shown, style, color=COLOURS[name], markersize=4)
    panel.set_xticks([1, 10, 100, 500], ["1", "10", "100", "500"])
    panel.set_yticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
    panel.minorticks_off()
    chart.key(list(COLOURS), list(COLOURS.values()))
    return chart


# ---- the average of percentiles

SEED = 11
WORKERS = {"busy": (9000, 1e6), "calm": (950, 2e6), "stuck": (50, 400e6)}  # ticks, ns


@dataclass(frozen=True)
class Workers:
    """The times of some workers, each in a histogram, and of all in one more."""

    each: Mapping[str, Histogram]
    every: Histogram

    @property
    def average(self) -> float:
        """The mean of their p99, in seconds."""
        return mean(ages.quantile(0.99) for ages in self.each.values())

    @property
    def merged(self) -> Histogram:
        """Their histograms, merged."""
        merged = Histogram()
        for ages in self.each.values():
            merged.merge(ages)
        return merged

    def __repr__(self) -> str:
        lines = [
            f"{name:<9}{ages.count:>7,} ticks, p99 {seconds_text(ages.quantile(0.99))}"
            for name, ages in self.each.items()
        ]
        p99s = {"averaged": self.average, "merged": self.merged.quantile(0.99)}
        p99s["all ticks"] = self.every.quantile(0.99)
        lines += [
            f"{name:<9}{'':>13} p99 {seconds_text(p99)}" for name, p99 in p99s.items()
        ]
        return "\n".join(lines)


def workers() -> Workers:
    """Three workers: of few ticks one of them is stuck."""
    draw, every = Random(SEED), Histogram()
    each = {name: Histogram() for name in WORKERS}
    for name, (ticks, typical_ns) in WORKERS.items():
        for _ in range(ticks):
            duration_ns = round(typical_ns * draw.uniform(0.8, 1.2))
            each[name].record(duration_ns)
            every.record(duration_ns)
    return Workers(each, every)


# ---- what is claimed


def in_order(grown: Grown) -> bool | None:
    """Whether the higher percentile always moves at a shorter stall."""
    moments = [grown.moves_at(name) for name in QUANTILES]
    if min(moments) == float("inf"):
        return None  # nothing moved
    return all(higher < lower for lower, higher in pairwise(moments))


def average_is_right(workers: Workers) -> bool | None:
    """Whether it is within a factor of two of the p99 of all ticks."""
    truth = workers.every.quantile(0.99)
    return truth / 2 < workers.average < truth * 2


def merge_is_right(workers: Workers) -> bool | None:
    """Whether merged counts are those of all ticks, at every bound and quantile."""
    merged, every = workers.merged, workers.every
    steps = [(number + 1) / every.count for number in range(every.count)]
    return merged.cumulative() == every.cumulative() and all(
        merged.quantile(q) == every.quantile(q) for q in steps[:: len(steps) // 500]
    )


CLAIMS = (
    Claim(
        "the-highest-percentile-moves-first",
        "the less a percentile leaves out, the shorter the stall that it shows",
        "a lower percentile moves before a higher one",
        in_order,
        "nothing moved",
    ),
    Claim(
        "p99s-can-be-averaged",
        "the average of the workers' p99 is about the p99 of all their ticks",
        "the average of the workers' p99 is far from the p99 of all their ticks",
        average_is_right,
    ),
    Claim(
        "histograms-merge",
        "merged histograms are the histogram of all ticks, bucket by bucket",
        "merged histograms differ from the histogram of all ticks",
        merge_is_right,
    ),
)
