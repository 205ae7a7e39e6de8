"""A pump whose collector comes when a policy calls it.

await policed.policed(GcPolicy, walked)
"""

import asyncio
import gc
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from quants.histogram import seconds_text
from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.gc_policy_task import GcPolicy, Load
from quants.lab.guests import BUFFER_BYTES, Client, Guests
from quants.lab.live import BLUE, GREY, INK
from quants.lab.pauses import Held, Pause, Walks, Watch, no_collector, set_aside
from quants.lab.session import session

STEPS, KEPT, CLIENTS = 60, 10_000, 100  # in a step: containers, clients
MOST_WALKED, MOST_MB = 100_000, 2.0  # the budgets; a pause is a walk
CALLS: dict[str, Callable[[], object]] = {"collect": gc.collect, "freeze": gc.freeze}
PRUDENT = 2.0  # times the measured time of a walk: the machine has more to do
SLACK = 1.2  # clients, and what the notebook makes meanwhile, are walked too

Decide = Callable[[Load, Load], list[str]]


@dataclass(frozen=True)
class Run:
    """What waited at each step, and every pause."""

    waited_mb: tuple[float, ...]
    pauses: tuple[Pause, ...]

    @property
    def walked(self) -> int:
        """Containers in the longest walk."""
        return max((pause.walked for pause in self.pauses), default=0)

    def __str__(self) -> str:
        longest = max((pause.seconds for pause in self.pauses), default=0.0)
        return (
            f"longest pause {seconds_text(longest)}, longest walk {self.walked:,} "
            f"containers, up to {max(self.waited_mb):.1f} MB of dead clients"
        )


@dataclass(frozen=True)
class Policed:
    """The same pump with Python's own thresholds, and with a policy."""

    own: Run
    policy: Run
    budget: Load

    def __repr__(self) -> str:
        return (
            f"Python's own: {self.own}.\nThis policy:  {self.policy}.\n"
            f"Budgets: {self.budget.pause_ms:.1f} ms, which is {MOST_WALKED:,} "
            f"containers, and {self.budget.garbage_mb:g} MB."
        )

    def picture(self) -> Chart:
        """Pauses and garbage, beside their budgets."""
        runs = (self.own, GREY), (self.policy, BLUE)
        pauses = sum(len(run.pauses) for run, _ in runs)
        chart = Chart(
            "A pump with two budgets",
            n=f"n = {pauses:,} collections",
            alt="Two panels against containers kept, each with a budget as a dashed "
            "line. Left: pauses; Python's own climb above the line, the policy's stay "
            "near it. Right: megabytes of dead clients, which stay below the line.",
            panels=2,
        )
        kept = "containers kept (thousands)"
        left = chart.panel(kept, "pause (ms)", log="y")
        right = chart.panel(kept, "dead clients (MB)")
        steps = [step * KEPT / 1e3 for step in range(1, STEPS + 1)]
        for run, colour in runs:
            alive = [pause.alive / 1e3 for pause in run.pauses]
            taken = [1e3 * pause.seconds for pause in run.pauses]
            left.plot(alive, taken, ".", color=colour, markersize=6)
            right.plot(steps, run.waited_mb, color=colour, linewidth=2)
        for axes, most in zip((left, right), self.budget, strict=True):
            axes.axhline(most, linestyle="--", color=INK, linewidth=1)
        left.yaxis.set_major_formatter("{x:g}")
        left.minorticks_off()
        right.set_ylim(0)
        names = ["Python's own", "this policy", "- - budget"]
        chart.key(names, [GREY, BLUE, INK])
        return chart


async def policed(policy: type[GcPolicy], walks: Walks) -> Policed:
    """Keep containers while clients come and go, without a policy and with it."""
    await session()
    each_ms = 1e3 * PRUDENT * walks.each_seconds
    budget = Load(each_ms * MOST_WALKED, MOST_MB)
    own = await run(None, each_ms)
    return Policed(own, await run(policy(*budget).calls, each_ms), budget)


async def run(decide: Decide | None, each_ms: float) -> Run:
    """One run; the collector comes by itself if nobody decides."""
    held, pauses, guests, waited, frozen = Held(), list[Pause](), Guests(), [], 0
    automatic = nullcontext() if decide is None else no_collector()
    with set_aside(), automatic, Watch(held, pauses):
        for _ in range(STEPS):
            held.extend([i] for i in range(KEPT))
            for _ in range(CLIENTS):
                Client(guests)
            waited.append(guests.megabytes)
            unfrozen = len(held) - frozen
            for call in decide(*loads(unfrozen, guests, each_ms)) if decide else ():
                CALLS[call]()
                frozen = len(held) if call == "freeze" else frozen
            await asyncio.sleep(0)
    held.clear()
    return Run(tuple(waited), tuple(pauses))


def loads(unfrozen: int, guests: Guests, each_ms: float) -> tuple[Load, Load]:
    """What the collector has before it: now, and a step later."""
    more_mb = CLIENTS * BUFFER_BYTES / 1e6
    now = Load(unfrozen * each_ms, guests.megabytes)
    return now, Load((unfrozen + KEPT) * each_ms, now.garbage_mb + more_mb)


# ---- what is claimed


def keeps_both(found: Policed) -> bool | None:
    """Whether no walk was too long, and never too much waited."""
    if found.own.walked <= SLACK * MOST_WALKED:
        return None  # Python's own would do
    short = found.policy.walked <= SLACK * MOST_WALKED
    return short and max(found.policy.waited_mb) <= MOST_MB


CLAIMS = (
    Claim(
        "a-policy-keeps-both-budgets",
        "with this policy no walk was too long and never too much garbage waited",
        "this policy broke a budget",
        keeps_both,
        "Python's own thresholds kept the budget as well",
    ),
)
