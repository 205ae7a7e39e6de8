"""A minute at 50,000 ticks/s: nothing is lost, and memory does not grow.

A leak of one byte a tick would be 3 MB, 4 % of what the pump holds. Half of
that is allowed: the allocator settles for some ten seconds.
"""

import numpy as np
from msgspec.structs import replace

from benchmarks.checks import check
from benchmarks.latency import TICK_RATE
from benchmarks.runs import Report, bench, run
from benchmarks.size import Size
from benchmarks.source import in_memory
from quants.evidence import Claim, Finding, judge

CLAIM = Claim(
    "50,000 ticks/s for a minute: nothing lost, memory grows < 2 %",
    "memory at the end", "after a quarter", "MB", "at most", 1.02,
)  # fmt: skip


def measure(size: Size) -> list[Finding]:
    """The claim, from one long run; a straight line is fitted to the memory."""
    ticks = int(TICK_RATE * size.long_seconds)
    with bench(min(size.loop_ticks, ticks)) as shared:
        plan = replace(shared.plan("ours", ticks), tick_rate=TICK_RATE)
        sent, received = run(plan)
        check(plan, in_memory(shared.rows), sent, received)
    start, end, slope = grown(received)
    settled = size.long_seconds >= 60
    verdict = judge(CLAIM, end / start, 1.0, 1) if settled else "INCONCLUSIVE"
    facts = [
        f"{received.ticks:,} ticks in {received.seconds:.1f} s, none lost, "
        f"memory {slope:+.2f} MB a minute",
        f"latency p50 {received.p50 * 1e3:.2f} ms, p99 {received.p99 * 1e3:.2f} ms; "
        f"CPU {received.cpu_seconds / received.seconds:.0%} of a core in the pump, "
        f"{sent.cpu_seconds / sent.seconds:.0%} in the feed",
    ]
    return [Finding(CLAIM, end, start, end / start, 1.0, 1, verdict, facts)]


def grown(report: Report) -> tuple[float, float, float]:
    """Memory after a quarter and at the end, and its slope between, in MB."""
    seconds, size = np.array(report.rss).T
    settled = seconds >= seconds[-1] / 4
    slope, start = np.polyfit(seconds[settled], size[settled] / 1e6, 1)
    quarter = start + slope * seconds[settled][0]
    return quarter, start + slope * seconds[-1], slope * 60
