"""A cost is planted in the pump, hogs take most of the time: who finds it?"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter

from quants.frame import Kind, decode, ticks_frame
from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.hog import hog
from quants.lab.live import BLUE, GREY, VERMILION
from quants.lab.timing import Call, Clock, plainly, stopwatch
from quants.market import Market
from quants.messages import as_json
from quants.naive import NaivePump, Tick

TICKS = 5  # that a call works on
PLANTED = 5  # times the work, in the guilty stage
AVERAGED_SECONDS = 0.06  # of calls, for a plain average

CostOf = Callable[[Call, Clock], float]


def messages(count: int = TICKS) -> list[str]:
    """Ticks as a feed sends them in JSON."""
    market = Market()
    frame = ticks_frame(market.take(count), 1, 0)
    _, batch = decode(frame, len(market.symbols))
    return [text.decode() for text in as_json(Kind.TICKS, batch, market.symbols)]


def stages() -> dict[str, Call]:
    """What the naive pump computes for a few ticks; nothing waits."""
    pump, texts = NaivePump("", "", ""), messages()
    ticks = [tick for text in texts if (tick := pump.receive(text))]
    return {
        "receive": lambda: [pump.receive(text) for text in texts],
        "vwap": lambda: [pump.vwap(tick) for tick in ticks],
        "format": lambda: [line(tick) for tick in ticks],
        "limits": lambda: [inside(tick) for tick in ticks],
    }


def line(tick: Tick) -> str:
    """The tick as the naive pump logs it."""
    return f"{tick.seq} {tick.symbol} {tick.price} {tick.size}\n"


def inside(tick: Tick) -> bool:
    """Whether the tick keeps limits that Redis would send as text."""
    low, high, most = float("1e-9"), float("1e9"), float("1e12")
    return low <= tick.price <= high and tick.price * tick.size <= most


def again_and_again(call: Call) -> None:
    """The planted cost: the same work, more often than needed."""
    for _ in range(PLANTED):
        call()


@dataclass(frozen=True)
class Found:
    """What was measured of the stages, beside a hog, and with the planted cost.

    Attributes:
        guilty: the stage with the planted cost.
        alone: cost of each before, in seconds, as the next two.
        beside: cost of each beside the hog, by the function that was given.
        average: the same by a plain average of many calls.
    """

    by: str
    guilty: str
    alone: Mapping[str, float]
    beside: Mapping[str, float]
    average: Mapping[str, float]

    def grown(self, now: Mapping[str, float]) -> dict[str, float]:
        """How many times as much each stage costs now."""
        return {name: now[name] / self.alone[name] for name in now}

    @property
    def accused(self) -> str:
        """The stage whose cost has grown most."""
        grown = self.grown(self.beside)
        return max(grown, key=lambda name: grown[name])

    def __repr__(self) -> str:
        guilty = self.guilty
        beside, average = (
            median(times for name, times in self.grown(costs).items() if name != guilty)
            for costs in (self.beside, self.average)
        )
        return (
            f"{self.by} blames {self.accused}; the cost was planted in {guilty}. "
            f"Beside the hog the innocent stages seem {beside:.1f} times as costly "
            f"to it, and {average:.1f} times to a plain average."
        )

    def picture(self) -> Chart:
        """The stages, each with three costs."""
        return stages_chart(self)


def find_planted(
    cost_of: CostOf, choose: Callable[[list[str]], str] = random.choice
) -> Found:
    """Plant a cost in one stage, and measure all of them beside a hog."""
    calls = stages()
    alone = {name: cost_of(call, perf_counter) for name, call in calls.items()}
    guilty = choose(list(calls))
    calls[guilty] = partial(again_and_again, calls[guilty])
    with hog() as start_hog:
        start_hog()
        beside = {name: cost_of(call, perf_counter) for name, call in calls.items()}
        average = {name: averaged(call) for name, call in calls.items()}
    return Found(cost_of.__name__, guilty, alone, beside, average)


def averaged(call: Call) -> float:
    """Seconds of a call, as the average of many: what a hog takes is in it."""
    calls = 1 + round(AVERAGED_SECONDS / min(stopwatch(call) for _ in range(20)))
    return stopwatch(call, calls) / calls


def stages_chart(found: Found) -> Chart:
    """A row for each stage: its cost alone, and beside the hog in two ways."""
    chart = Chart(
        "What a tick costs in each stage, beside a hog",
        n=f"n = {len(found.alone)} stages",
        alt="For each of four stages three dots on an axis of microseconds: its cost "
        "alone, its cost beside a hog by the best of short tries, and by a plain "
        "average, which lies far to the right. In one stage a cost is planted.",
        height=270,
    )
    heading = f"the planted cost is in {found.guilty}"
    panel = chart.panel("cost of a tick (µs, logarithmic)", "", heading, log="x")
    plainly(panel.xaxis)
    sides = ((found.average, VERMILION, "s"), (found.beside, BLUE, "D"),
             (found.alone, GREY, "o"))  # fmt: skip
    names = list(found.alone)[::-1]
    for costs, colour, marker in sides:
        shown = [costs[name] * 1e6 / TICKS for name in names]
        panel.plot(shown, names, marker, color=colour, markersize=8)
    panel.set_ylabel("stage ( )").set_visible(False)
    panel.set_ylim(-0.5, len(names) - 0.5)
    chart.key(["■ average", f"◆ {found.by}", "● alone"], [VERMILION, BLUE, GREY])
    return chart


def finds_it(found: Found) -> bool | None:
    """Whether the stage that was blamed is the guilty one."""
    return found.accused == found.guilty


CLAIMS = (
    Claim(
        "the-planted-cost-is-found",
        "the stage that grew most beside the hog is the one with the planted cost",
        "an innocent stage is blamed",
        finds_it,
    ),
)
