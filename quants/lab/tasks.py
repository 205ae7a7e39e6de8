"""A task dies: who hears of it? A feed and its plot, run together in two ways."""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.live import BLUE, INK, VERMILION
from quants.lab.screen import screen
from quants.lab.session import end, own_tasks, session
from quants.market import Market

Work = Coroutine[Any, Any, Any]

STEP_SECONDS, STEP_TICKS = 0.05, 40
STEPS = 16  # of the feed, before the message that it dies of
GOES_ON_SECONDS = 1.2  # what a plot draws beside a feed that has died
DEADLINE = 10.0  # seconds for a feed and its plot


async def hoping(*coros: Work) -> None:
    """Start all; wait for the last one."""
    tasks = [asyncio.create_task(coro) for coro in coros]
    await tasks[-1]


async def grouped(*coros: Work) -> None:
    """Start all; wait for all. One that fails ends the others."""
    async with asyncio.TaskGroup() as group:
        for coro in coros:
            group.create_task(coro)


class Prices:
    """A feed that dies of one bad message, and a plot of what it sent.

    Attributes:
        seen: moments and prices, as the feed sent them.
        died: when the bad message came; None before.
        drawn: when the plot drew last.
        drawn_since: how often it drew after the feed had died.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._market, self._clock, self._began = Market(symbols=1), clock, clock()
        self.seen: list[tuple[float, float]] = []
        self.died: float | None = None
        self.drawn, self.drawn_since = 0.0, 0

    @property
    def now(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._began

    async def feed(self) -> None:
        """Read messages until one of them has no price."""
        symbol = self._market.symbols[0]
        for _ in range(STEPS):
            row = self._market.take(STEP_TICKS)[-1]
            self.read(symbol.price_text(int(row["price"])))
            await asyncio.sleep(STEP_SECONDS)
        self.died = self.now
        self.read("n/a")

    def read(self, message: str) -> None:
        """Note the price in a message."""
        self.seen.append((self.now, float(message)))

    async def plot(self) -> None:
        """Draw the latest price, until well after the last one."""
        while self.died is None or self.now < self.died + GOES_ON_SECONDS:
            self.drawn = self.now
            # Who is due in the very turn in which the feed dies cannot know it yet.
            self.drawn_since += self.now > (self.died or self.now) + STEP_SECONDS / 2
            await asyncio.sleep(STEP_SECONDS)

    def curve(self) -> tuple[list[float], list[float]]:
        """What the plot shows: every price, and the last one until now."""
        moments, prices = zip(*self.seen, strict=True) if self.seen else ((), ())
        return [*moments, self.drawn][: len(prices) + 1], [*prices, *prices[-1:]]


@dataclass(frozen=True)
class Death:
    """What a feed that died left behind.

    Attributes:
        drawn_since: how often the plot drew after it.
        told: the error that reached whoever had started it, if one did.
        logged: seconds until the loop wrote it to the log, if it did.
    """

    way: str
    drawn_since: int
    told: str | None
    logged: float | None

    def __repr__(self) -> str:
        log = f"; a line in the log, {self.logged:.1f} s late" if self.logged else ""
        return (
            f"{self.way}: frames drawn after the feed had died: {self.drawn_since}; "
            f"whoever started it was told {self.told or 'nothing'}{log}."
        )


async def feed_and_plot(way: Callable[..., Work]) -> Death:
    """Run a feed that dies and its plot together, live, in one way of doing so."""
    lab, prices, told = await session(), Prices(), None
    chart, line = prices_chart(way.__name__)

    def look() -> None:
        line.set_data(*prices.curve())

    before = own_tasks()
    with logged(prices) as lines:
        async with screen(lab, chart.live(line), look, lambda: still(way, prices)):
            try:
                async with asyncio.timeout(DEADLINE):
                    await way(prices.feed(), prices.plot())
            except Exception as fault:
                told = names(fault)
        await end(*own_tasks() - before)
    late = lines[0] - (prices.died or 0.0) if lines else None
    return Death(way.__name__, prices.drawn_since, told, late)


def names(fault: BaseException) -> str:
    """An error in words; of a group, the errors in it."""
    if isinstance(fault, BaseExceptionGroup):
        return ", ".join(map(names, fault.exceptions))
    return f"{type(fault).__name__}: {fault}"


@contextmanager
def logged(prices: Prices) -> Iterator[list[float]]:
    """The moments at which the loop would have written an error to the log."""
    loop, lines = asyncio.get_running_loop(), list[float]()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: lines.append(prices.now))
    try:
        yield lines
        gc.collect()  # the loop tells of an error when the task goes away
    finally:
        loop.set_exception_handler(before)


def prices_chart(way: str) -> tuple[Chart, Any]:
    """An empty plot of the price, and the line in it."""
    chart = Chart(
        f"{way}: the price that the plot shows",
        n=f"n = {STEPS} prices",
        alt="A price over time. It moves for a second; then the feed is dead. "
        "Either the line goes on, flat, or it ends there.",
        height=240,
    )
    panel = chart.panel("time (s)", "price (currency)")
    panel.set_xlim(0, STEPS * STEP_SECONDS + GOES_ON_SECONDS + 0.3)
    ahead = Market(symbols=1).take(STEPS * STEP_TICKS)["price"] / 100
    panel.set_ylim(ahead.min() - 0.02, ahead.max() + 0.02)
    (line,) = panel.plot([], [], color=BLUE, linewidth=1.8)
    return chart, line


def still(way: Callable[..., Work], prices: Prices) -> Chart:
    """The plot as it was left, and when the feed died."""
    chart, line = prices_chart(way.__name__)
    line.set_data(*(values[:-1] for values in prices.curve()))
    (panel,) = chart.figure.axes
    died, last = prices.died or prices.now, prices.seen[-1][1]
    panel.axvline(died, color=INK, linewidth=1)
    text = "the feed died" if prices.drawn_since > 1 else "the feed died, the plot too"
    panel.text(died + 0.02, 0.05, text, color=INK, fontsize=9,
               transform=panel.get_xaxis_transform())  # fmt: skip
    end_of_it = max(died, prices.drawn)
    panel.plot([died, end_of_it], [last, last], "--", color=VERMILION, linewidth=1.8)
    if prices.drawn_since > 1:
        text = f"{prices.drawn_since} frames of an old price"
        panel.annotate(text, ((died + end_of_it) / 2, last), (0, 6), color=VERMILION,
                       fontsize=9, ha="center", textcoords="offset points")  # fmt: skip
    return chart


# ---- what is claimed


def goes_unnoticed(death: Death) -> bool | None:
    """Whether the plot went on, and who had started the feed heard nothing."""
    if death.told is None:
        return death.drawn_since > 1 or None
    return False


def is_told_at_once(death: Death) -> bool | None:
    """Whether the error came out, and the plot had ended."""
    return death.told is not None and death.drawn_since <= 1


CLAIMS = (
    Claim(
        "a-task-dies-unnoticed",
        "the feed was dead, the plot went on, and nobody was told",
        "whoever had started the feed was told of its death",
        goes_unnoticed,
        "the plot ended too soon to tell",
    ),
    Claim(
        "a-group-tells",
        "the error reached the caller, and the plot did not outlive the feed",
        "the error did not reach the caller in time",
        is_told_at_once,
    ),
)
