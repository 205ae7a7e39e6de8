"""What the live page shows: one mapping, of the readings the terminal shows too.

The server builds it for all viewers at once, at most five times a second, from
plain counters; a tick pays nothing for it. The page itself is page.html.
"""

import time
from dataclasses import asdict
from typing import Any, Protocol

from quants.channel import Channel
from quants.engines import EngineName
from quants.feed_client import Subscription
from quants.histogram import Histogram
from quants.monitor import Monitor
from quants.readings import Snapshot
from quants.risk import Risk
from quants.settings import Settings
from quants.ticklog import TickLog
from quants.vwap import Vwap, vwap_text

SYMBOLS = 20  # rows of the VWAP table; each costs 4 us

Shown = dict[str, Any]


class Pump(Protocol):
    """What can be looked at: an open `Pipeline`."""

    settings: Settings
    subscription: Subscription
    channels: dict[str, Channel]
    engine_name: EngineName
    vwap: Vwap
    log: TickLog
    risk: Risk
    monitor: Monitor
    notes: list[str]

    def snapshot(self) -> Snapshot:
        """The counters of this moment."""


def shown(pump: Pump) -> Shown:
    """Everything the page shows, at this moment; ready for JSON but for NaN.

    Cost: 0.3 ms with 8 symbols.
    """
    now, monitor = pump.snapshot(), pump.monitor
    return {
        "seconds": now.seconds,
        "tick_rate": None if now.sent is None else pump.settings.tick_rate,
        "sent": now.sent,
        "received": now.received,
        "gaps": pump.subscription.receiver.gaps,
        "gap_ticks": now.gap_ticks,
        "duplicates": now.duplicates,
        "consumers": {
            name: asdict(s) | {"held_seconds": pump.channels[name].held_ns / 1e9}
            for name, s in now.consumers.items()
        },
        "engine": engine_of(pump),
        "vwap": vwap_of(pump.vwap),
        "latency": histogram_of(pump.vwap.latency),
        "lag": histogram_of(monitor.lag),
        "gc": histogram_of(monitor.pause),
        "alerts": alerts_of(pump.risk),
        "log": {"written": pump.log.written_seq, "durable": pump.log.durable_seq},
        "cpu_seconds": time.process_time(),
        "rss_bytes": monitor.rss_bytes,
        "notes": pump.notes,
    }


def engine_of(pump: Pump) -> Shown:
    """Where VWAP is computed, and how its workers are."""
    engine = pump.vwap.engine
    return {
        "name": pump.engine_name,
        "workers": engine.workers,
        "busy_seconds": engine.busy_seconds,
        "replaced": engine.replaced,
        "set_aside_ticks": pump.vwap.set_aside,
    }


def vwap_of(vwap: Vwap) -> Shown:
    """The first symbols with their exact VWAP and ticks, and how many there are."""
    pairs = list(zip(vwap.symbols, vwap.sums(), strict=True))
    rows = [(s.name, vwap_text(sums, s), sums.ticks) for s, sums in pairs[:SYMBOLS]]
    return {"rows": rows, "symbols": len(pairs)}


def histogram_of(histogram: Histogram) -> Shown:
    """Three figures, and the weight of each power of two by its upper bound."""
    return {
        "count": histogram.count,
        "p50": histogram.quantile(0.5),
        "p99": histogram.quantile(0.99),
        "maximum": histogram.maximum,
        "rows": [(row.up_to, row.weight) for row in histogram.rows()],
    }


def alerts_of(risk: Risk) -> Shown:
    """What each rule raised, what waits or is lost, and the last few.

    `redis` is the state of its breaker: closed while it answers.
    """
    return {
        "redis": risk.redis.breaker.state.name.lower(),
        "rules": {rule: asdict(counts) for rule, counts in risk.summary().items()},
        "waiting": len(risk.outbox),
        "lost": risk.outbox.lost,
        "latest": [asdict(alert) for alert in reversed(risk.rules.latest)],
    }
