"""What an outage of Redis did to a run: facts for the report, and sentences."""

from collections.abc import Iterator
from typing import Any

from quants.histogram import Histogram
from quants.outbox import Outbox
from quants.risk import Risk

Report = dict[str, Any]


def redis_of(risk: Risk) -> Report:
    """How Redis was spoken to, how long it was away, and what waited meanwhile."""
    redis, outbox, journal = risk.redis, risk.outbox, risk.outbox.journal
    return {
        "threads": redis.threads,
        "threads_because": redis.why,
        "limits_tracked": risk.tracker.tracked,
        "limits_untracked_because": risk.tracker.refused or None,
        "outages": redis.breaker.opened,
        "away_seconds": redis.breaker.away_seconds,
        "calls_refused": redis.breaker.refused + redis.busy,
        "call_seconds_p99": p99(redis.seconds),
        "staleness_seconds_p99": p99(risk.staleness),
        "waited_at_most": outbox.high_watermark,
        "waiting": len(outbox),
        "inherited": outbox.inherited,
        "lost": outbox.lost,
        "outbox_file": str(journal.path),
    }


def p99(histogram: Histogram) -> float | None:
    """JSON knows no NaN: None while it is empty."""
    return histogram.quantile(0.99) if histogram.count else None


def alert_losses(outbox: Outbox) -> Iterator[str]:
    """Sentences about alerts that no later run can deliver."""
    if outbox.lost:
        yield f"{outbox.lost} alerts are lost: {outbox.capacity} waited already"
    if len(outbox) and (fault := outbox.journal.fault):
        file = outbox.journal.path
        yield f"{len(outbox)} alerts are lost: {file}: {fault.strerror}"


def redis_line(redis: Report) -> str:
    """How many threads may wait for Redis, and how limits are kept fresh."""
    limits = "tracked" if redis["limits_tracked"] else "polled"
    if reason := redis["limits_untracked_because"]:
        limits += f" ({reason})"
    return f"{redis['threads']} threads ({redis['threads_because']}); limits {limits}"


def outage_lines(redis: Report) -> Iterator[str]:
    """What outages there were, and where alerts wait; nothing after a quiet run."""
    waiting, inherited = redis["waiting"], redis["inherited"]
    left = f"{waiting} wait in {redis['outbox_file']}; the next run delivers them"
    if redis["outages"]:
        yield (
            f"outages       Redis was away for {redis['away_seconds']:.1f} s, the "
            f"breaker opened {times(redis['outages'])}; at most "
            f"{redis['waited_at_most']} alerts waited, "
            f"{left if waiting else 'all of them are delivered'}"
        )
    elif waiting:
        yield f"outbox        {left}"
    if inherited:
        yield f"outbox        {inherited} alerts of an earlier run came first"


def times(number: int) -> str:
    """A number of occasions, in words."""
    return "once" if number == 1 else f"{number} times"
