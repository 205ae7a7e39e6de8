"""What can be read of a running pump: its snapshot, and its metrics."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from operator import attrgetter

from quants.channel import Channel, Statistics
from quants.feed import Receiver
from quants.feed_client import Subscription
from quants.feed_server import FeedServer
from quants.metrics import Registry
from quants.monitor import Monitor
from quants.vwap import Vwap

Statistic = Callable[[], dict[str, Statistics]]  # of each consumer, now


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The counters of one moment; in ticks, conserved: see `channel`."""

    seconds: float  # since the first tick
    sent: int | None  # by the pump's own feed
    received: int
    gap_ticks: int
    duplicates: int
    consumers: dict[str, Statistics]


def register_consumers(
    registry: Registry, statistics: Statistic, channels: Mapping[str, Channel]
) -> None:
    """Metrics of the consumers and of the channels before them."""

    def each(field: str) -> Callable[[], dict[tuple[str, ...], float]]:
        read = attrgetter(field)
        return lambda: {(name,): read(s) for name, s in statistics().items()}

    def outcomes() -> dict[tuple[str, ...], float]:
        kinds = ("processed", "dropped", "conflated")
        counts = {name: asdict(s) for name, s in statistics().items()}
        return {(n, kind): counts[n][kind] for n in counts for kind in kinds}

    registry.counter(
        "quants_consumer_ticks_total",
        "Ticks a consumer is done with, by what became of them.",
        outcomes,
        ("consumer", "outcome"),
    )
    registry.counter(
        "quants_consumer_held_seconds_total",
        "How long a consumer had batches in hand, its waits included.",
        lambda: {(name,): c.held_ns / 1e9 for name, c in channels.items()},
        ("consumer",),
    )
    for name, help, field in (
        ("depth", "Batches queued.", "depth"),
        ("queued_ticks", "Ticks queued or in hand.", "queued"),
        ("high_watermark", "Most batches ever queued.", "high_watermark"),
    ):
        registry.gauge(f"quants_channel_{name}", help, each(field), ("consumer",))


def register_pump(
    registry: Registry,
    processed: Callable[[], int],
    receiver: Receiver,
    vwap: Vwap,
    monitor: Monitor,
) -> None:
    """What stands at the head: ticks, and the five first keys of the JSON."""
    registry.counter("quants_ticks_processed_total", "Ticks in the VWAP.", processed)
    registry.counter(
        "quants_gap_ticks_total", "Ticks missing.", lambda: receiver.gap_ticks
    )
    field = registry.json_field
    field("ticks_processed", processed)
    field("vwap_latency_p99", lambda: vwap.latency.quantile(0.99))
    field("memory_rss_mb", lambda: monitor.rss_bytes / 1e6)
    field("gc_collections", lambda: monitor.collections)
    field("gc_pause_p99_ms", lambda: monitor.pause.quantile(0.99) * 1e3)


def register_feed(
    registry: Registry, subscription: Subscription, own: FeedServer | None
) -> None:
    """What the two ends of the feed have met with."""
    receiver = subscription.receiver
    counter = registry.counter
    counter(
        "quants_feed_duplicate_ticks_total",
        "Ticks that came again and were discarded.",
        lambda: receiver.duplicates,
    )
    counter(
        "quants_feed_late_ticks_total",
        "Of the duplicates, those told missing before: out of order.",
        lambda: receiver.late,
    )
    counter(
        "quants_feed_refused_total",
        "Messages that broke the protocol.",
        lambda: receiver.refused,
    )
    counter(
        "quants_feed_reconnects_total",
        "Connections after the first one.",
        lambda: subscription.reconnects,
    )
    if own is not None:
        counter(
            "quants_feed_let_go_total",
            "Subscribers given up: slow, silent, or what they said was refused.",
            lambda: {(fault,): count for fault, count in own.let_go.items()},
            ("fault",),
        )
