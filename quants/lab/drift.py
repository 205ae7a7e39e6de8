"""Notebook 07: sums in floats drift away from those in whole cents.

    await drift.drift()   ten million ticks, added one after the other

The market's prices are in cents, so whole numbers know every sum to the cent.
Nothing is measured: the same ticks give the same digits on every machine.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import log10
from typing import Any

import numpy as np
import numpy.typing as npt

from quants.kernels import NumpyKernel
from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.live import BLUE, ORANGE, VERMILION
from quants.lab.session import session
from quants.market import Market
from quants.tick import Rows

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

TICKS = 10_000_000
CHUNK = 1 << 16  # ticks: all arrays together are a few megabytes
DIGITS = 16  # of a float64; of more nobody can tell
NAMED = 10, 1000, 100_000, 10_000_000  # on an axis, in ticks


def dollars(rows: Rows) -> Floats:
    """Price times size, tick by tick."""
    value: Floats = rows["price"] / 100 * rows["size"]
    return value


def cents(rows: Rows) -> Integers:
    """Price times size, tick by tick."""
    value: Integers = rows["price"] * rows["size"]
    return value


# ---- ten million ticks


class RunningFloat:
    """A sum in floats, one amount after the other, and how far it was off.

    Attributes:
        total: the sum so far.
        worst: how far it has been off at most, in dollars.
        first: the first tick after which it was off; 0: none yet.
        right: how many of its digits were right after so many ticks, at worst.
    """

    def __init__(self, kind: type[np.float64 | np.float32]) -> None:
        self.total = kind(0)
        self.ticks = self.first = 0
        self.worst = 0.0
        self.right: dict[int, float] = {}

    def add(self, amounts: Floats, exact: Floats) -> None:
        """Add amounts, shape (n,), whose exact sums are known: (n,)."""
        sums = running(self.total, amounts.astype(type(self.total)))
        off = np.maximum.accumulate(np.maximum(abs(sums - exact), self.worst))  # (n,)
        if not self.first and off[-1]:
            self.first = self.ticks + 1 + int(np.flatnonzero(off)[0])
        for mark in marks(self.ticks, self.ticks + len(off)):
            here = mark - self.ticks - 1
            self.right[mark] = digits(float(off[here]), float(exact[here]))
        self.total, self.worst = sums[-1], float(off[-1])
        self.ticks += len(off)


def running(total: Any, amounts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The sum after each amount, added one after the other as a loop would."""
    return np.append(total, amounts).cumsum()[1:]  # np.sum would add in pairs


def marks(after: int, upto: int) -> Iterator[int]:
    """Those numbers of the series 10, 20, 50, 100, ... that lie in a range."""
    numbers = (step * 10**power for power in range(1, 9) for step in (1, 2, 5))
    return (number for number in numbers if after < number <= upto)


def digits(off: float, exact: float) -> float:
    """How many digits of a number are right that is off by so much."""
    return min(float(DIGITS), log10(exact / off)) if off else float(DIGITS)


@dataclass(frozen=True)
class Drift:
    """What floats made of a sum, and what whole cents made of it.

    Attributes:
        cents: the sum, by adding whole cents.
        dealt_cents: by two workers who get every other chunk of ticks each.
        first: the first tick after which the float64 sum was off.
        right: digits that are right after so many ticks, by the kind of float.
    """

    ticks: int
    cents: int
    dealt_cents: int
    float64: float
    dealt_float64: float
    float32: float
    first: int
    right: dict[str, dict[int, float]]

    def off(self, total: float) -> Fraction:
        """Dollars between a float sum and the cents."""
        return abs(Fraction(total) - Fraction(self.cents, 100))

    @property
    def told(self) -> str:
        """How far off the float64 sum is, such as "1.4 cents of $546.15"."""
        off = float(100 * self.off(self.float64))
        return f"{off:.2g} cents of ${self.cents // 100:,}.{self.cents % 100:02}"

    def __repr__(self) -> str:
        apart = 100 * abs(self.dealt_float64 - self.float64)
        share = float(self.off(self.float32) * 100 / self.cents)
        return (
            f"After {self.ticks:,} ticks the float64 sum is off by {self.told}; tick "
            f"{self.first} was the first to put it off. Dealt to two workers it comes "
            f"out {apart:.2g} cents away. The float32 sum is off by {share:.0%}."
        )

    def picture(self) -> Chart:
        """The digits that are right, over the ticks."""
        return drift_chart(self)


async def drift(ticks: int = TICKS) -> Drift:
    """Add up what so many ticks are worth, in floats and in cents."""
    await session()
    return await asyncio.to_thread(added, ticks)


def added(ticks: int) -> Drift:
    """All the sums, chunk by chunk."""
    double, single = RunningFloat(np.float64), RunningFloat(np.float32)
    kernels, dealt = (NumpyKernel(1), NumpyKernel(1)), [np.float64(0), np.float64(0)]
    total = 0
    for number, rows in enumerate(chunks(ticks)):
        exact = total + np.cumsum(cents(rows))  # (n,) below 2^53: floats hold them
        amounts = dollars(rows)
        double.add(amounts, exact / 100)
        single.add(amounts, exact / 100)
        worker = number % 2
        dealt[worker] = running(dealt[worker], amounts)[-1]
        kernels[worker].add(rows)
        total = int(exact[-1])
    dealt_cents = sum(kernel.sums()[0].price_size for kernel in kernels)
    floats = float(double.total), float(sum(dealt)), float(single.total)
    right = {"float64": double.right, "float32": single.right}
    return Drift(ticks, total, dealt_cents, *floats, double.first, right)


def chunks(ticks: int) -> Iterator[Rows]:
    """The market's ticks."""
    market = Market(symbols=1)
    while left := ticks + 1 - market.next_seq:
        yield market.take(min(CHUNK, left))


def drift_chart(drift: Drift) -> Chart:
    """A line for each kind of number."""
    chart = Chart(
        "What a sum still knows",
        n=f"n = {drift.ticks:,} ticks",
        alt="The digits that are right of a running sum, over the ticks that are in "
        "it, on a logarithmic axis. Whole cents: all of them. float64 loses some of "
        "its sixteen, float32 nearly all of its seven.",
    )
    panel = chart.panel("added up (ticks)", "right (digits)", log="x")
    panel.axhline(DIGITS + 1, color=BLUE, linewidth=3)
    panel.text(drift.ticks, DIGITS + 1.7, "whole cents: all", color=BLUE, ha="right")
    for kind, colour in (("float64", ORANGE), ("float32", VERMILION)):
        ticks, right = zip(*drift.right[kind].items(), strict=True)
        panel.plot(ticks, right, "o-", color=colour, markersize=4)
        panel.text(ticks[-1], right[-1] + 1.3, kind, color=colour, ha="right")
    panel.set_xticks(NAMED, [f"{number:,}" for number in NAMED])
    panel.set_xticks([], minor=True)
    panel.set_ylim(0, DIGITS + 4)
    panel.set_yticks(range(0, DIGITS + 1, 4))
    return chart


# ---- what is claimed

CLAIMS = (
    Claim(
        "ten-million-floats-add-up",
        "the float64 sum of ten million amounts is the float nearest to the true sum",
        "the float64 sum of ten million amounts is not the true one",
        lambda drift: drift.float64 == drift.cents / 100,  # the nearest float
    ),
    Claim(
        "floats-depend-on-who-adds",
        "the same ticks, dealt to two workers: in floats it is another sum",
        "the same ticks, dealt to two workers: in floats, too, the same sum",
        lambda drift: drift.float64 != drift.dealt_float64,
    ),
    Claim(
        "whole-numbers-do-not",
        "the same ticks, dealt to two workers: in whole cents the same sum",
        "even in whole cents it matters who adds",
        lambda drift: drift.cents == drift.dealt_cents,
    ),
)
