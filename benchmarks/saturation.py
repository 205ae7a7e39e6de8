"""As fast as it goes: feed -> VWAP + log on disk + risk with Redis.

Three sides in turn: ours on the binary wire, ours with one JSON message a
tick, and the competent pump. Every run is checked, row by row.
"""

from functools import partial
from statistics import median
from typing import Literal

from msgspec.structs import replace

from benchmarks.checks import check
from benchmarks.runs import Bench, Plan, Report, bench, run
from benchmarks.size import Size
from benchmarks.source import in_memory
from quants.evidence import Claim, Finding, find, in_turn
from quants.feed import Wire

BINARY = Claim(
    "binary frames: at least 20 times the ticks/s of the competent pump",
    "ours, binary", "competent", "ticks/s", "at least", 20.0,
)  # fmt: skip
JSON = Claim(
    "one JSON message a tick: at least 1.3 times the competent pump",
    "ours, JSON", "competent", "ticks/s", "at least", 1.3,
)  # fmt: skip

# Ticks for a second of each, about: so that runs take equally long.
PER_SECOND = {"binary": 8_000_000, "json": 400_000, "competent": 300_000}


def measure(size: Size) -> list[Finding]:
    """Both claims, from one sweep."""
    with bench(size.loop_ticks) as shared:
        source, reports = in_memory(shared.rows), dict[str, list[Report]]()

        def rate(name: str, plan: Plan) -> float:
            sent, received = run(plan)
            check(plan, source, sent, received)
            reports.setdefault(name, []).extend((sent, received))
            return received.rate

        plans = {
            "binary": planned(shared, size, "ours", "binary"),
            "json": planned(shared, size, "ours", "json"),
            "competent": planned(shared, size, "competent"),
        }
        sides = {name: partial(rate, name, plan) for name, plan in plans.items()}
        rates = in_turn({**sides, "again": sides["competent"]}, size.rounds)
        facts = [f"generator: {shared.generated_rate:,.0f} ticks/s"]
        facts += [cost(name, plans[name], both) for name, both in reports.items()]
    return [
        find(BINARY, rates["binary"], rates["competent"], rates["again"], facts),
        find(JSON, rates["json"], rates["competent"], rates["again"]),
    ]


def planned(
    shared: Bench, size: Size, side: Literal["ours", "competent"], wire: Wire = "binary"
) -> Plan:
    """A run of about `size.seconds`."""
    name = wire if side == "ours" else side
    ticks = max(1000, int(PER_SECOND[name] * size.seconds))
    return replace(shared.plan(side, ticks), wire=wire)


def cost(name: str, plan: Plan, reports: list[Report]) -> str:
    """CPU time a tick of feed and pump: what a busy machine distorts least."""
    feed, pump = (
        median(report.cpu_seconds / report.ticks * 1e9 for report in part)
        for part in (reports[::2], reports[1::2])
    )
    return (
        f"{name}: CPU a tick {pump:,.0f} ns in the pump, {feed:,.0f} ns in the feed; "
        f"{plan.ticks:,} ticks a run, nothing lost, VWAP and log verified"
    )
