"""The bell's picture: rate, queue and age over time, and the budget below.

At 50,000 ticks a second each tick has 20 microseconds. The bar shows how much
of that budget each stage holds a tick for; what stands beyond the line is late.
"""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from quants.lab.charts import SMALL, tidy
from quants.lab.live import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Picture,
    interpreter,
)  # fmt: skip
from quants.lab.pumps import STAGES, PumpName

COLOURS = dict(zip(STAGES, (SKY, GREEN, ORANGE, PURPLE), strict=True))
WINDOW_SECONDS = 8.0  # what a live panel shows
RATES, QUEUES, AGES = (100, 200_000), (0, 1_000_000), (0.1, 100_000)
TICKS: dict[tuple[float, float], dict[float, str]] = {  # what the axes name
    RATES: {100: "100", 1000: "1k", 10_000: "10k", 100_000: "100k"},
    QUEUES: {0: "0", 10: "10", 1000: "1k", 100_000: "100k"},
    AGES: {0.1: "0.1", 10: "10", 1000: "1k", 100_000: "100k"},
}


class Reading(NamedTuple):
    """One look at a pump."""

    seconds: float  # since the bell rang
    asked: float  # ticks/s
    received: int  # ticks, as the next two
    processed: int
    queued: int
    age_seconds: float
    stage_us: dict[str, float]  # held per tick, lately


def budget_us(rate: float) -> float:
    """Microseconds that each tick has."""
    return 1e6 / rate


def gives_way(stage_us: dict[str, float], rate: float) -> str | None:
    """The stage that holds a tick longest, if all of them break the budget."""
    if sum(stage_us.values()) <= budget_us(rate):
        return None
    return max(stage_us, key=lambda name: stage_us[name])


def one_two_five(number: float) -> float:
    """The next number of the series 1, 2, 5, 10, 20, ... that is not less."""
    decade = 1.0
    while decade * 10 <= number:
        decade *= 10
    return next(decade * step for step in (1, 2, 5, 10) if decade * step >= number)


def number_text(number: float) -> str:
    """A number of microseconds with as many digits as it deserves."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


class BellPicture(Picture):
    """Three panels over time and the budget bar; live, or of a whole run.

    Args:
        pump: whose readings these are.
        seconds: what the time axis shows; live, the last so many.
    """

    def __init__(self, pump: PumpName, seconds: float, live: bool = False) -> None:
        super().__init__(760, 330)
        self.pump, self.seconds, self.live = pump, seconds, live
        grid = self.figure.add_gridspec(
            2, 3, height_ratios=[3.2, 1], left=0.055, right=0.965, top=0.80,
            bottom=0.14, hspace=0.95, wspace=0.26,
        )  # fmt: skip
        rate, queue, age = (self.figure.add_subplot(grid[0, i]) for i in range(3))
        self.budget = self.figure.add_subplot(grid[1, :])
        self.asked = self._panel(
            rate, "ticks done, dashed: asked (1/s)", RATES, GREY, "--"
        )
        self.rate = self._line(rate, BLUE)
        self.queue = self._panel(queue, "queued (ticks)", QUEUES, VERMILION)
        self.age = self._panel(age, "age of a tick when done (ms)", AGES, PURPLE)
        self._budget_panel()
        self.heading = self.figure.text(0.012, 0.925, "", fontsize=12, color=INK)
        self.footer = self.figure.text(
            0.985, 0.935, "", fontsize=SMALL, color=GREY, ha="right"
        )
        self.title = f"The {pump} pump"
        self.n, self.alt = "n = ticks so far", alt_text(pump)

    @property
    def moving(self) -> list[Line2D | Rectangle]:
        """What changes from frame to frame."""
        lines = [self.asked, self.rate, self.queue, self.age]
        # A text costs 1 to 4 ms a frame: those that rarely change stand still.
        texts = [self.verdict, self.limit_text]
        return [*lines, *self.bars.values(), self.limit, *texts]  # type: ignore[list-item]

    def _panel(
        self, axes: Axes, title: str, limits: tuple[float, float], colour: str,
        style: str = "-",
    ) -> Line2D:  # fmt: skip
        axes.set_title(title, fontsize=9, loc="left", color=INK)
        if limits[0]:
            axes.set_yscale("log")
        else:
            axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(*limits)
        ticks = TICKS[limits]
        axes.set_yticks(list(ticks), list(ticks.values()))
        axes.minorticks_off()
        start = -self.seconds if self.live else 0.0
        axes.set_xlim(start, start + self.seconds)
        axes.set_xlabel("seconds ago (s)" if self.live else "time (s)", fontsize=SMALL)
        if self.live:
            axes.xaxis.set_major_formatter(seconds_ago)
        tidy(axes)
        axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)
        return self._line(axes, colour, style)

    def _line(self, axes: Axes, colour: str, style: str = "-") -> Line2D:
        marker = "o" if style == "-" else ""
        (line,) = axes.plot(
            [], [], style, color=colour, linewidth=1.8, marker=marker, markersize=5,
            markevery=[-1], clip_on=False,
        )  # fmt: skip
        return line

    def _budget_panel(self) -> None:
        axes = self.budget
        axes.set_ylim(0, 1)
        axes.yaxis.set_visible(False)
        axes.set_xlabel("time each stage holds a tick (µs)", fontsize=SMALL)
        tidy(axes)
        axes.spines["left"].set_visible(False)
        self.bars = {n: Rectangle((0, 0.12), 0, 0.62, color=COLOURS[n]) for n in STAGES}
        for i, (name, bar) in enumerate(self.bars.items()):
            axes.add_patch(bar)
            axes.text(0.655 + 0.095 * i, 1.12, name, color=COLOURS[name], fontsize=9,
                      weight="bold", transform=axes.transAxes)  # fmt: skip
        self.limit = axes.axvline(0, 0, 1, color=INK, linewidth=2)
        self.limit_text = axes.text(0, 0.8, "", fontsize=SMALL, color=INK)
        self.verdict = axes.text(
            0, 1.24, "", fontsize=10, weight="bold", transform=axes.transAxes
        )
        axes.set_xlim(0, 2000)

    def update(self, readings: Sequence[Reading]) -> bool:
        """Show these readings; whether an axis had to change."""
        last = readings[-1]
        now = last.seconds if self.live else 0.0
        seen = [r for r in readings if r.seconds >= last.seconds - self.seconds]
        times = [r.seconds - now for r in seen]
        self.asked.set_data(times, [r.asked for r in seen])
        self.rate.set_data(times, [max(RATES[0], r) for r in done_per_second(seen)])
        self.queue.set_data(times, [min(r.queued, QUEUES[1]) for r in seen])
        ages = [min(max(r.age_seconds * 1e3, AGES[0]), AGES[1]) for r in seen]
        self.age.set_data(times, ages)
        self.n = f"n = {last.received:,} ticks"
        foot = interpreter() if self.live else f"{self.n} · {interpreter()}"
        self.footer.set_text(foot)
        heading = f"The {self.pump} pump at {last.asked:,.0f} ticks a second"
        turned = heading != self.heading.get_text()
        self.heading.set_text(heading)
        return self._show_budget(last.stage_us, last.asked) or turned

    def _show_budget(self, stage_us: dict[str, float], rate: float) -> bool:
        start, limit = 0.0, budget_us(rate)
        for name, bar in self.bars.items():
            bar.set_x(start)
            bar.set_width(stage_us[name])
            start += stage_us[name]
        self.limit.set_xdata([limit, limit])
        self.limit_text.set_text(f" budget {number_text(limit)} µs")
        self.limit_text.set_x(limit)
        stage = gives_way(stage_us, rate)
        self.verdict.set_color(VERMILION if stage else GREEN)
        self.verdict.set_text(budget_text(stage, start, limit))
        right = one_two_five(max(start, limit) * 1.15)
        changed = right != self.budget.get_xlim()[1]
        self.budget.set_xlim(0, right)
        return changed


def budget_text(stage: str | None, held: float, limit: float) -> str:
    """Which stage gives way, and how far beyond the budget."""
    if stage is None:
        return f"inside the budget: {number_text(held)} of {number_text(limit)} µs"
    budgets = f"{held / limit:,.0f} budgets"
    return f"{stage} gives way: {number_text(held)} µs a tick, {budgets}"


def done_per_second(readings: Sequence[Reading]) -> list[float]:
    """Ticks done per second at each reading, over the half second before it."""
    rates = []
    first = 0
    for reading in readings:
        while reading.seconds - readings[first].seconds > 0.5:
            first += 1
        start = readings[max(0, first - 1)]
        seconds = reading.seconds - start.seconds
        ticks = reading.processed - start.processed
        rates.append(ticks / seconds if seconds else 0.0)
    return [*rates[1:2], *rates[1:]] if len(rates) > 1 else rates


def seconds_ago(x: float, _: float) -> str:
    """The label of a tick of a live time axis."""
    return f"{abs(x):g}"


def alt_text(pump: PumpName) -> str:
    """What the bell's picture shows, for who cannot see it."""
    return (
        f"Three curves over time for the {pump} pump: ticks done per second beside "
        "the rate asked for, ticks queued, and the age of a tick when it is done. "
        "Below, a bar: the microseconds that receive, vwap, log and risk hold a "
        "tick, beside the budget of one tick."
    )


class StagesPicture(Picture):
    """What each stage of two pumps holds a tick for, beside the budget."""

    def __init__(
        self, naive: dict[str, float], quants: dict[str, float], rate: float, n: str
    ) -> None:
        super().__init__(760, 280)
        axes = self.figure.add_axes((0.09, 0.24, 0.88, 0.58))
        self.title, self.n = "What holds a tick, and for how long", n
        self.alt = (
            "For each of the stages receive, vwap, log and risk two dots on a "
            "logarithmic axis of microseconds: the naive pump and the pump of this "
            "package, beside the budget of one tick."
        )
        for row, stage in enumerate(reversed(STAGES)):
            pair = [max(0.01, us[stage]) for us in (naive, quants)]
            axes.plot(pair, [row, row], color="#CCCCCC", linewidth=2, zorder=1)
            axes.scatter(pair[:1], [row], s=70, color=VERMILION, zorder=2)
            axes.scatter(pair[1:], [row], s=70, color=BLUE, marker="D", zorder=2)
        axes.axvline(budget_us(rate), color=INK, linewidth=2)
        label = f" budget {number_text(budget_us(rate))} µs"
        axes.text(budget_us(rate), len(STAGES) - 0.5, label, fontsize=9, color=INK)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda number, _: f"{number:g}")
        axes.set_xlabel("time a stage holds a tick (µs, logarithmic)", fontsize=9)
        axes.set_yticks(range(len(STAGES)), reversed(STAGES))
        axes.set_ylabel("stage ( )").set_visible(False)
        axes.set_ylim(-0.6, len(STAGES) - 0.1)
        tidy(axes)
        axes.tick_params(axis="y", labelsize=10)
        say = self.figure.text
        say(0.012, 0.915, self.title, fontsize=12, color=INK)
        say(0.74, 0.92, "● naive", color=VERMILION, fontsize=10)
        say(0.86, 0.92, "◆ quants", color=BLUE, fontsize=10)
        say(
            0.985,
            0.03,
            f"{n} · {interpreter()}",
            fontsize=SMALL,
            color=GREY,
            ha="right",
        )
