"""The whole pump with the python kernel, saturated: one core or two workers.

The ticks are read through pooled leases, the dearest way there is, so that the
VWAP is what the pump waits for. Feed, pump, workers and Redis share the cores
of the machine: on two of them the gain is what the feed leaves over.
"""

from functools import partial
from statistics import median

from msgspec.structs import replace

from benchmarks.checks import check
from benchmarks.runs import Report, bench, run
from benchmarks.size import Size
from benchmarks.source import in_memory
from quants.evidence import Claim, Finding, find, in_turn

CORES = Claim(
    "--kernel python, saturated: --cores 2 does more than inline",
    "--cores 2", "inline", "ticks/s", "at least", 1.0,
)  # fmt: skip
PER_SECOND = 600_000  # ticks of one core, about


def measure(size: Size) -> list[Finding]:
    """Inline, two workers, and inline again, in turn."""
    ticks = max(1000, int(PER_SECOND * size.seconds))
    with bench(size.loop_ticks) as shared:
        source, reports = in_memory(shared.rows), dict[int, list[Report]]()

        def rate(cores: int) -> float:
            plan = replace(shared.plan("ours", ticks), kernel="python", cores=cores)
            sent, received = run(plan)
            check(plan, source, sent, received)
            reports.setdefault(cores, []).append(received)
            return received.rate

        sides = {"inline": 1, "two": 2, "again": 1}
        rates = in_turn({n: partial(rate, c) for n, c in sides.items()}, size.rounds)
    facts = [cost(cores, found) for cores, found in sorted(reports.items())]
    return [find(CORES, rates["two"], rates["inline"], rates["again"], facts)]


def cost(cores: int, reports: list[Report]) -> str:
    """What it costs the pump's own process, whose loop serves all the others."""
    pump = median(report.cpu_seconds / report.ticks * 1e9 for report in reports)
    return f"--cores {cores}: {pump:,.0f} ns a tick in the pump's own process"
