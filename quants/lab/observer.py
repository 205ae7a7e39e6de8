"""What it costs a pump to be watched: per tick, per batch, per look.

Times are taken in turn, on a thread. How often something is read is counted,
with a clock on paper: that is the same on every machine.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from statistics import median

import prometheus_client

from quants import evidence
from quants.evidence import Finding, find, in_turn
from quants.histogram import Histogram, seconds_text
from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.live import BLUE, GREEN, INK, VERMILION
from quants.lab.timing import Call, stopwatch
from quants.market import Market
from quants.metrics import Registry
from quants.monitor import Monitor
from quants.server import MetricsServer
from quants.tick import Batch
from quants.vwap import Vwap

RATE, BATCH = 50_000, 50  # ticks/s, and ticks in a batch
BUDGET_NS = 1e9 / RATE
ROUNDS, CALLS, SCRAPES = 15, 500, 2
SECOND_NS, DURATION_NS = 1_000_000_000, 1_000_000

EACH_TICK, OURS, EACH_BATCH, LOOK = WAYS = (
    "each tick, prometheus_client",
    "each tick, Histogram",
    f"each batch of {BATCH}, Histogram",
    "one scrape a second",
)
COLOURS = dict(zip(WAYS, (VERMILION, VERMILION, BLUE, GREEN), strict=True))


# ---- what it takes


@dataclass(frozen=True)
class Overhead:
    """Nanoseconds per tick of each way to watch, and what is claimed of two."""

    ns: Mapping[str, float]
    batching: Finding

    def __repr__(self) -> str:
        lines = [f"{way:<30}{ns:>8,.1f} ns a tick" for way, ns in self.ns.items()]
        pause = seconds_text(self.ns[LOOK] * RATE / 1e9)
        lines.append(f"A scrape takes {pause}, in which no tick has its turn.")
        return "\n".join(lines)

    def picture(self) -> Chart:
        """A dot for each, beside the budget of a tick."""
        return overhead_chart(self)


async def overhead(rounds: int = ROUNDS) -> Overhead:
    """Measure every way to watch, in turn."""
    return await asyncio.to_thread(measured, rounds)


def measured(rounds: int) -> Overhead:
    """The same; blocks."""
    tried = calls()
    divisors = {EACH_BATCH: BATCH, LOOK: RATE}

    def seconds(way: str) -> float:
        times = SCRAPES if way == LOOK else CALLS
        return stopwatch(tried[way], times) / times / divisors.get(way, 1)

    sides = {way: (lambda way=way: seconds(way)) for way in WAYS}
    again = {"again": lambda: seconds(EACH_BATCH)}
    found = in_turn(sides | again, rounds)
    ns = {way: 1e9 * median(found[way]) for way in WAYS}
    batching = find(BATCHING, found[OURS], found[EACH_BATCH], found["again"])
    return Overhead(ns, batching)


def calls() -> dict[str, Call]:
    """What is done each time, by the way to watch."""
    theirs = prometheus_client.Histogram("lesson_seconds", "A lesson.", registry=None)
    ours, registry = Histogram(), Registry()
    Vwap(Market().symbols, registry)
    Monitor(registry)
    return {
        EACH_TICK: lambda: theirs.observe(DURATION_NS / 1e9),
        OURS: lambda: ours.record(DURATION_NS),
        EACH_BATCH: lambda: ours.record(DURATION_NS, BATCH),
        LOOK: registry.exposition,
    }


def overhead_chart(overhead: Overhead) -> Chart:
    """A row for each way, over the nanoseconds that it takes of a tick."""
    chart = Chart(
        "The observer's share of a tick",
        n=f"n = {ROUNDS} rounds, median",
        alt="A dot for each way to watch on a logarithmic axis of nanoseconds per "
        "tick, beside the budget of a tick. A record for each tick takes some "
        "hundreds, a record for each batch or a scrape each second some ten.",
        height=260,
    )
    panel = chart.panel("takes of a tick (ns)", "", log="x")
    panel.set_ylabel("way to watch ( )").set_visible(False)
    for row, way in enumerate(reversed(WAYS)):
        ns = overhead.ns[way]
        panel.plot([ns], [row], "o", color=COLOURS[way], markersize=9)
        panel.text(1.3 * ns, row, f"{ns:,.0f} ns", va="center", color=COLOURS[way])
    panel.axvline(BUDGET_NS, color=INK, linewidth=2)
    panel.text(0.93 * BUDGET_NS, 1.5, "budget", fontsize=9, ha="right", va="center")
    panel.set_yticks(range(len(WAYS)), [*reversed(WAYS)])
    panel.set_position((0.26, 0.22, 0.71, 0.58))  # the names need room
    panel.set_xlim(1, 30_000)
    panel.set_ylim(-0.6, len(WAYS) - 0.4)
    panel.set_xticks([1, 10, 100, 1000, 10_000], ["1", "10", "100", "1,000", "10,000"])
    panel.minorticks_off()
    return chart


# ---- how often something is read


@dataclass(frozen=True)
class Reads:
    """How often a metric was read, before anybody asked and by a crowd."""

    ticks: int
    unasked: int
    asks: int
    asked: int

    def __repr__(self) -> str:
        return (
            f"{self.ticks:,} ticks, and nobody asked: {self.unasked} reads. "
            f"{self.asks:,} scrapes in one second: {self.asked} reads."
        )


async def reads(ticks: int = 50_000, asks: int = 1000) -> Reads:
    """Count the reads of a metric: for so many ticks, then for so many scrapes."""
    market, registry, now, count = Market(), Registry(), 0.0, 0

    def read() -> int:
        nonlocal count
        count += 1
        return count

    registry.counter("lesson_reads_total", "How often this was read.", read)
    await Vwap(market.symbols, registry).run(batches(market, ticks))
    unasked = count
    server = MetricsServer(registry, port=0, clock=lambda: now)
    for ask in range(asks):
        now = ask / asks
        server.body("text/plain")
    return Reads(ticks, unasked, asks, count - unasked)


async def batches(market: Market, ticks: int) -> AsyncIterator[Batch]:
    """So many ticks, in batches."""
    for first in range(1, ticks + 1, BATCH):
        rows = market.take(min(BATCH, ticks + 1 - first))
        yield Batch(rows, first, len(rows), 0)


# ---- what is claimed

BATCHING = evidence.Claim(
    "a record for each tick costs 5 times one for each batch",
    "each tick", "each batch", "s", "at least", 5,
)  # fmt: skip
DECIDED = {"SUPPORTED": True, "REFUTED": False, "INCONCLUSIVE": None}


def pays_per_look(reads: Reads) -> bool | None:
    """Whether nothing was read before somebody asked."""
    return None if reads.asked == 0 else reads.unasked == 0


def shares_a_look(reads: Reads) -> bool | None:
    """Whether a crowd of a second causes five reads at most."""
    return None if reads.asks < 100 else 0 < reads.asked <= 5


CLAIMS = (
    Claim(
        "a-batch-shares-its-record",
        "one record for a batch costs a tick a small part of a record of its own",
        "one record for a batch costs a tick as much as a record of its own",
        lambda overhead: DECIDED[overhead.batching.verdict],
    ),
    Claim(
        "who-does-not-look-does-not-pay",
        "metrics are read when somebody asks, and not while ticks pass",
        "metrics are read while ticks pass, though nobody asks",
        pays_per_look,
        "nobody asked",
    ),
    Claim(
        "a-crowd-shares-a-look",
        "however many scrape in a second, they share a handful of bodies",
        "each scrape has the metrics read anew",
        shares_a_look,
        "too few have asked",
    ),
)
