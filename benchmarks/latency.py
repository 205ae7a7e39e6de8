"""p99 at 50,000 ticks/s: intended send to VWAP, against the competent pump.

Both feeds wake up every millisecond and send what `due` says; a tick's age
counts from when the first one of its wake-up should have left. Batches buy
headroom, not latency: the claim is that they cost none.
"""

from functools import partial

from msgspec.structs import replace

from benchmarks.checks import check
from benchmarks.runs import Plan, bench, run
from benchmarks.size import Size
from benchmarks.source import in_memory
from quants.evidence import Claim, Finding, find, in_turn

TICK_RATE = 50_000

CLAIM = Claim(
    "50,000 ticks/s: p99 from send to VWAP no worse than the competent pump's",
    "ours, binary", "competent", "ms", "no worse",
)  # fmt: skip


def measure(size: Size) -> list[Finding]:
    """The claim, from short runs in turn."""
    ticks = int(TICK_RATE * size.paced_seconds)
    with bench(min(size.loop_ticks, ticks)) as shared:
        source, medians = in_memory(shared.rows), dict[str, list[float]]()

        def p99(name: str, plan: Plan) -> float:
            sent, received = run(plan)
            check(plan, source, sent, received)
            medians.setdefault(name, []).append(received.p50 * 1e3)
            return received.p99 * 1e3

        ours, theirs = (
            replace(shared.plan(side, ticks), tick_rate=TICK_RATE)
            for side in ("ours", "competent")
        )
        sides = {
            "ours": partial(p99, "ours", ours),
            "competent": partial(p99, "competent", theirs),
            "again": partial(p99, "competent", theirs),
        }
        found = in_turn(sides, size.rounds)
    facts = [
        f"p50 of {name}: {min(values):.2f} to {max(values):.2f} ms"
        for name, values in medians.items()
    ]
    return [find(CLAIM, found["ours"], found["competent"], found["again"], facts)]
