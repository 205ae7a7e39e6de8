"""The run report: what happened, as JSON for programs and text for people."""

import asyncio
import platform
from collections.abc import Iterator
from dataclasses import asdict
from operator import attrgetter
from typing import Any

from quants.histogram import Histogram, seconds_text, text_histogram
from quants.host import available_cores
from quants.outages import alert_losses, outage_lines, redis_line, redis_of
from quants.pipeline import LATE_SECONDS, Pipeline
from quants.stalls import Stall, Stalls, frame_text
from quants.sums import Sums
from quants.tick import Symbol
from quants.turns import gil_enabled
from quants.vwap import vwap_text

Report = dict[str, Any]
SPARE_SHARE = 0.5  # of a core, that the loop can give to VWAP beside its own work


def report_of(pipeline: Pipeline) -> Report:
    """Everything a run leaves behind, ready for JSON."""
    monitor, log, pool = pipeline.monitor, pipeline.log, pipeline.pool
    return {
        "settings": asdict(pipeline.settings),
        "host": host_facts(),
        "counts": counts_of(pipeline),
        "vwap": vwap_of(pipeline),
        "engine": engine_of(pipeline),
        "latency_seconds": quantiles(pipeline.vwap.latency),
        "loop_lag_seconds": quantiles(monitor.lag),
        "gc": {
            "collections": monitor.collections,
            "pauses": {str(g): quantiles(p) for g, p in monitor.pauses.items()},
            "p99_ms": finite(monitor.pause.quantile(0.99) * 1e3),
            "collected": sum(monitor.collected.values()),
            "uncollectable": sum(monitor.uncollectable.values()),
            "thresholds": monitor.thresholds,
        },
        "stall_count": monitor.stalls.count,
        "stalls": [stall_of(stall) for stall in monitor.stalls.last],
        "memory_rss_mb": monitor.rss_bytes / 1e6,
        "memory_uss_mb": finite(monitor.uss_bytes / 1e6),
        "log": {
            "path": str(log.path),
            "stream": log.segment.stream,
            "first_seq": log.segment.first_seq,
            "last_seq": pipeline.subscription.receiver.last_seq,
            "written_seq": log.written_seq,
            "durable_seq": log.durable_seq,
            "ticks": log.ticks,
            "bytes": log.bytes,
        },
        "pool": pool and {n: getattr(pool, n) for n in ("size", *POOL_COUNTERS)},
        "alerts": {n: asdict(c) for n, c in pipeline.risk.summary().items()},
        "redis": redis_of(pipeline.risk),
        "notes": pipeline.notes,
        "problems": problems(pipeline),
    }


POOL_COUNTERS = ("hits", "misses", "leaked")


def counts_of(pipeline: Pipeline) -> Report:
    """Ticks sent, received, missing, and what each consumer did with them."""
    now, receiver = pipeline.snapshot(), pipeline.subscription.receiver
    fields = ("received", "processed", "dropped", "conflated", "queued")
    return {
        "sent": now.sent,
        "received": now.received,
        "gaps": receiver.gaps,
        "gap_ticks": now.gap_ticks,
        "duplicates": now.duplicates,
        "late": receiver.late,
        "refused": receiver.refused,
        "reconnects": pipeline.subscription.reconnects,
        "restarts": dict(pipeline.supervisor.restarts),
        "consumers": {
            name: {field: getattr(statistics, field) for field in fields}
            for name, statistics in now.consumers.items()
        },
        "seconds": now.seconds,
    }


def vwap_of(pipeline: Pipeline) -> Report:
    """The VWAP of each symbol, with the exact integers it was made from."""
    statistics = pipeline.statistics()["vwap"]
    complete = not (
        pipeline.subscription.receiver.gap_ticks
        or statistics.dropped
        or statistics.conflated
    )
    return {
        symbol.name: vwap_row(symbol, sums, complete)
        for symbol, sums in zip(
            pipeline.vwap.symbols, pipeline.vwap.sums(), strict=True
        )
    }


def engine_of(pipeline: Pipeline) -> Report:
    """Where VWAP was computed, and what that took."""
    engine = pipeline.vwap.engine
    return {
        "name": pipeline.engine_name,
        "workers": engine.workers,
        "busy_seconds": engine.busy_seconds,
        "replaced": engine.replaced,
        "set_aside": engine.set_aside,
    }


def vwap_row(symbol: Symbol, sums: Sums, complete: bool) -> Report:
    """One symbol's VWAP and sums."""
    return {
        "vwap": vwap_text(sums, symbol),
        "price_size_sum": sums.price_size,
        "size_sum": sums.size,
        "price_decimals": symbol.price_decimals,
        "size_decimals": symbol.size_decimals,
        "ticks": sums.ticks,
        "complete": complete,
    }


def host_facts() -> Report:
    """What a figure must be read with: interpreter, machine, loop."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "gil": gil_enabled(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": available_cores(),
        "loop": type(asyncio.get_running_loop()).__module__.partition(".")[0],
    }


def stall_of(stall: Stall) -> Report:
    """A stall of the loop, with a line for each frame, innermost first."""
    return stall._asdict() | {"stack": list(map(frame_text, stall.stack))}


def quantiles(histogram: Histogram) -> dict[str, float | None]:
    """p50, p99 and p999 in seconds; None while empty."""
    points = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    return {name: finite(histogram.quantile(q)) for name, q in points.items()}


def finite(number: float) -> float | None:
    """JSON knows no NaN."""
    return number if number == number else None


def problems(pipeline: Pipeline) -> list[str]:
    """Sentences that make the exit code 1; empty for a good run."""
    found, now = list(pipeline.faults), pipeline.snapshot()
    if now.gap_ticks:
        found.append(f"{now.gap_ticks} ticks are missing: the feed skipped them")
    for name, statistics in now.consumers.items():
        if statistics.dropped:
            found.append(f"{name} dropped {statistics.dropped} ticks")
    found += alert_losses(pipeline.risk.outbox)
    duration, own = pipeline.settings.duration, pipeline.own_feed
    if own and duration and not own.stopping and now.seconds > duration + LATE_SECONDS:
        found.append(
            f"the ticks of {duration:g} s took {now.seconds:.1f} s: this machine "
            f"does not reach {pipeline.settings.tick_rate} ticks/s"
        )
    return found


def summary_of(report: Report, pipeline: Pipeline) -> str:
    """The closing text: counts, VWAP, latency, and the GC pause histogram."""
    counts, log = report["counts"], report["log"]
    seconds = counts["seconds"]
    rate = counts["received"] / seconds if seconds else 0
    lines = [
        f"{counts['received']:,} ticks in {seconds:.1f} s, {rate:,.0f} ticks/s; "
        f"{counts['gap_ticks']} missing, {counts['duplicates']} duplicates",
        *(consumer_line(n, c) for n, c in counts["consumers"].items()),
        "",
        *(vwap_line(name, row) for name, row in report["vwap"].items()),
        "",
        f"send -> VWAP  {latency_line(report['latency_seconds'])}",
        f"loop lag      {latency_line(report['loop_lag_seconds'])}",
        *stall_lines(pipeline.monitor.stalls),
        f"engine        {engine_line(report['engine'], seconds)}",
        f"log           {log['path']}: written to {log['written_seq']:,}, "
        f"durable to {log['durable_seq']:,}",
        f"pool          {pool_line(report['pool'])}",
        f"alerts        {alerts_line(report['alerts'])}",
        f"redis         {redis_line(report['redis'])}",
        *outage_lines(report["redis"]),
        f"memory        {memory_line(report)}",
        "",
        text_histogram("GC pauses", pipeline.monitor.pause),
    ]
    return "\n".join([*lines, *(f"problem: {p}" for p in report["problems"])])


def consumer_line(name: str, counts: dict[str, int]) -> str:
    """One consumer's ticks, which add up."""
    return f"  {name:<5}" + ", ".join(f"{n:,} {what}" for what, n in counts.items())


def vwap_line(name: str, row: Report) -> str:
    """One symbol's VWAP, to 6 decimals for the eye."""
    price = "no volume" if row["vwap"] is None else f"{float(row['vwap']):,.6f}"
    marker = "" if row["complete"] else "  (incomplete)"
    return f"  {name:<10}{price:>18}  {row['ticks']:>12,} ticks{marker}"


def latency_line(quantiles: dict[str, float | None]) -> str:
    """p50, p99, p99.9 in readable units."""
    texts = ("-" if q is None else seconds_text(q) for q in quantiles.values())
    return "  ".join(f"{n} {t}" for n, t in zip(quantiles, texts, strict=True))


def stall_lines(stalls: Stalls) -> Iterator[str]:
    """The longest of the last stalls, if there were any."""
    if stalls.last:
        longest = max(stalls.last, key=attrgetter("seconds"))
        yield f"stalls        {stalls.count}, the longest of the last: {longest}"


def memory_line(report: Report) -> str:
    """Resident, and how much of it is this process's alone."""
    own = report["memory_uss_mb"]
    alone = "" if own is None else f", {own:.0f} MB of it shared with nobody"
    return f"{report['memory_rss_mb']:.0f} MB resident{alone}"


def engine_line(engine: Report, seconds: float) -> str:
    """Where VWAP was computed, and whether that was needed."""
    if engine["name"] == "inline":
        return "inline, on the loop's core"
    busy = engine["busy_seconds"] / seconds if seconds else 0.0
    enough = "would" if busy < SPARE_SHARE else "would not"
    died = f", {engine['replaced']} replaced" if engine["replaced"] else ""
    return (
        f"{engine['name']}, {engine['workers']} workers{died}, busy {busy:.0%} of one "
        f"core: inline {enough} have sufficed"
    )


def pool_line(pool: dict[str, int] | None) -> str:
    """Leases from the pool, or that nothing needs it."""
    if pool is None:
        return "unused (--kernel python reads ticks through it)"
    return f"{pool['hits']:,} hits, {pool['misses']:,} misses, {pool['leaked']} leaked"


def alerts_line(alerts: dict[str, dict[str, int]]) -> str:
    """What each rule raised."""
    return "; ".join(
        f"{rule} {c['raised']} raised, {c['delivered']} delivered, "
        f"{c['suppressed']} suppressed"
        for rule, c in alerts.items()
    )
