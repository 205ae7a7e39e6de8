"""The bill of one tick: what its work costs, and what it costs to watch it.

Every price is the median of rounds that measure all of them in turn. The tasks
run on loops in a thread of their own, one of them in asyncio's debug mode.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from statistics import median
from typing import TextIO

from quants import evidence
from quants.evidence import Finding, find, in_turn
from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.live import GREEN, INK, ORANGE, PURPLE, SKY, VERMILION
from quants.lab.panels import budget_us
from quants.lab.planted import TICKS, stages
from quants.lab.timing import Call, stopwatch

RATE = 50_000  # ticks/s, whose budget the bill is held against
ROUNDS, CALLS, TASKS = 15, 40, 60

# What a tick is billed, in three ways of running the same program.
BILLS = {
    "as it is": ("receive", "vwap", "task", "log.debug, off"),
    "log.debug": ("receive", "vwap", "task", "log.debug, on"),
    "debug mode": ("receive", "vwap", "task, debug", "log.debug, off"),
}
COLOURS = {"receive": SKY, "vwap": GREEN, "task": PURPLE, "log.debug": ORANGE}


@dataclass(frozen=True)
class Bill:
    """Microseconds per tick of each item, and what is claimed of two of them."""

    us: Mapping[str, float]
    logging: Finding
    debugging: Finding

    def total(self, way: str) -> float:
        """What a tick costs in one way of running."""
        return sum(self.us[item] for item in BILLS[way])

    def __repr__(self) -> str:
        totals = (f"{way} {self.total(way):.1f} µs" for way in BILLS)
        return (
            f"A tick costs: {', '.join(totals)}; its budget is "
            f"{budget_us(RATE):.0f} µs. A log.debug that is on costs "
            f"{self.logging.ratio:.0f} times one that is off, a task in debug mode "
            f"{self.debugging.ratio:.0f} times another."
        )

    def picture(self) -> Chart:
        """The budget, filled in three ways."""
        return bill_chart(self)


async def bill(rounds: int = ROUNDS) -> Bill:
    """Measure every item, in turn; on a thread, for its loops are others."""
    return await asyncio.to_thread(measured, rounds)


def measured(rounds: int) -> Bill:
    """The same, where no loop is running."""
    with items() as sides:
        found = in_turn(sides, rounds)
    us = {name: median(times) * 1e6 for name, times in found.items()}
    on, off = found["log.debug, on"], found["log.debug, off"]
    logs = find(DEAR_LOG, on, off, found["log.debug, off again"])
    debug, plain = found["task, debug"], found["task"]
    return Bill(us, logs, find(DEAR_DEBUG, debug, plain, found["task again"]))


@contextmanager
def items() -> Iterator[dict[str, Callable[[], float]]]:
    """What to measure: seconds per tick, by name."""
    calls = stages()
    with ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        plain, debug = (
            stack.enter_context(asyncio.Runner(debug=debug)) for debug in (False, True)
        )
        # In debug mode a slow callback is logged, and a busy machine has some.
        debug.get_loop().slow_callback_duration = inf
        on, off = (logs_to(nowhere, level) for level in (logging.DEBUG, logging.INFO))
        yield {
            "receive": lambda: per_call(calls["receive"]) / TICKS,
            "vwap": lambda: per_call(calls["vwap"]) / TICKS,
            "task": partial(per_task, plain),
            "task again": partial(per_task, plain),
            "task, debug": partial(per_task, debug),
            "log.debug, on": lambda: per_call(partial(on.debug, "%d ticks", 7)),
            "log.debug, off": lambda: per_call(partial(off.debug, "%d ticks", 7)),
            "log.debug, off again": lambda: per_call(partial(off.debug, "%d ticks", 7)),
        }


def logs_to(file: TextIO, level: int) -> logging.Logger:
    """A logger that nobody else has, writing to a file."""
    logger = logging.Logger("lesson", level)
    handler = logging.StreamHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    logger.addHandler(handler)
    return logger


def per_call(call: Call) -> float:
    """Seconds per call, of a short try."""
    return stopwatch(call, CALLS) / CALLS


def per_task(runner: asyncio.Runner) -> float:
    """Seconds to make a task and to await it, of a short try."""
    return runner.run(tasks()) / TASKS


async def tasks() -> float:
    """Seconds for all tasks of a try."""
    loop = asyncio.get_running_loop()
    since = loop.time()
    for _ in range(TASKS):
        await loop.create_task(nothing())
    return loop.time() - since


async def nothing() -> None:
    """What each of these tasks does."""


def bill_chart(bill: Bill) -> Chart:
    """A bar for each way of running; the line is the budget."""
    chart = Chart(
        "The budget of a tick, filled",
        n=f"n = {ROUNDS} rounds, median",
        alt="Three stacked bars of microseconds per tick, beside a line for the "
        "budget: the program as it is, with log.debug on, and with asyncio's debug "
        "mode on.",
        height=260,
    )
    panel = chart.panel("one tick costs (µs)", "")
    panel.set_ylabel("way of running ( )").set_visible(False)
    for row, way in enumerate(reversed(BILLS)):
        left = 0.0
        for item in BILLS[way]:
            colour = COLOURS[item.partition(",")[0]]
            panel.barh(row, bill.us[item], left=left, color=colour, height=0.6)
            left += bill.us[item]
        colour = VERMILION if left > budget_us(RATE) else INK
        beyond = max(left, budget_us(RATE))
        panel.text(beyond, row, f" {left:.1f} µs", va="center", color=colour)
    panel.axvline(budget_us(RATE), color=INK, linewidth=2)
    panel.text(budget_us(RATE), -0.7, f" budget {budget_us(RATE):.0f} µs", fontsize=9)
    panel.set_yticks(range(len(BILLS)), [*reversed(BILLS)])
    panel.set_position((0.11, 0.22, 0.86, 0.58))  # the names need room
    panel.set_xlim(0, 1.15 * max(map(bill.total, BILLS)))
    panel.set_ylim(-0.8, len(BILLS) - 0.5)
    chart.key(list(COLOURS), list(COLOURS.values()))
    return chart


# ---- what is claimed

DEAR_LOG = evidence.Claim(
    "a log.debug that is on costs 5 times one that is off",
    "on", "off", "s", "at least", 5,
)  # fmt: skip
DEAR_DEBUG = evidence.Claim(
    "a task in debug mode costs 3 times another",
    "debug", "plain", "s", "at least", 3,
)  # fmt: skip
DECIDED = {"SUPPORTED": True, "REFUTED": False, "INCONCLUSIVE": None}

CLAIMS = (
    Claim(
        "a-log-line-is-dear",
        "a debug record that is written costs several times one that is switched off",
        "a debug record that is written costs about as much as one that is not",
        lambda bill: DECIDED[bill.logging.verdict],
    ),
    Claim(
        "debug-mode-is-dear",
        "in asyncio's debug mode a task costs several times as much",
        "in asyncio's debug mode a task costs about as much",
        lambda bill: DECIDED[bill.debugging.verdict],
    ),
)
