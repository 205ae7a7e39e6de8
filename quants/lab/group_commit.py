"""What a confirmation costs a tick, when more and more of them share it.

await group_commit.probe()   what the reader's own disk takes
await group_commit.sizes()   µs a tick against ticks a group, on two disks
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from quants.disk import Sync, sync_to_disk
from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.disks import SLOW_SECONDS, Logged, slow_sync
from quants.lab.live import BLUE, GREY, INK, VERMILION
from quants.lab.session import session
from quants.market import Market

GROUPS = (1, 10, 100, 1000, 10_000)  # ticks
TIMES = 12  # groups of each size
BUDGET_US = 20.0  # of a tick, at 50,000 a second


@dataclass(frozen=True)
class Probe:
    """How long a disk took to confirm a tick, each time."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds."""
        return median(self.seconds)

    def __repr__(self) -> str:
        each = self.median, max(self.seconds), SLOW_SECONDS
        typical, worst, scripted = (f"{1e3 * seconds:.3g} ms" for seconds in each)
        return (
            f"This disk confirms a tick in {typical}, the slowest of "
            f"{len(self.seconds)} took {worst}; the scripted one takes {scripted}."
        )


async def probe(times: int = 50, sync: Sync = sync_to_disk) -> Probe:
    """Write a tick and sync it, some times, in a thread."""
    lab = await session()
    return await asyncio.to_thread(probed, lab.folder / "probe", times, 1, sync)


def probed(path: Path, times: int, ticks: int, sync: Sync) -> Probe:
    """Time writes of some ticks, each with its sync; blocks."""
    rows, found = Market().take(ticks).tobytes(), []
    with open(path, "ab", buffering=0) as file:
        for _ in range(times):
            since = time.perf_counter()
            file.write(rows)
            sync(file.fileno())
            found.append(time.perf_counter() - since)
    return Probe(tuple(found))


@dataclass(frozen=True)
class Sizes:
    """Seconds that a group of so many ticks took, the median, on two disks."""

    scripted: Mapping[int, float]
    own: Mapping[int, float]

    @property
    def within_budget(self) -> float:
        """Ticks a group needs on the scripted disk for 20 µs a tick."""
        return self.scripted[1] * 1e6 / BUDGET_US

    def __repr__(self) -> str:
        one, many = self.scripted[1] * 1e6, self.scripted[1000] * 1e3
        return (
            f"On the scripted disk a tick alone costs {one:,.0f} µs, one of a thousand "
            f"{many:.1f} µs; {self.within_budget:.0f} must share a confirmation."
        )

    def picture(self) -> Chart:
        """Dots as measured, lines of one confirmation shared by n ticks."""
        chart = Chart(
            "What a confirmation costs a tick",
            n=f"n = {TIMES} groups of each size, median",
            alt="Microseconds a tick against ticks in a group, both logarithmic: dots "
            "for the scripted disk and for your own, each with the line of one "
            "confirmation shared by all, beside the budget of 20 microseconds.",
        )  # fmt: skip
        axes = chart.panel("group (ticks)", "cost of a tick (µs)", log="xy")
        for seconds, colour in ((self.scripted, VERMILION), (self.own, BLUE)):
            shared = [seconds[1] * 1e6 / n for n in GROUPS]
            axes.plot(GROUPS, shared, "--", color=GREY, linewidth=1)
            found = [seconds[n] * 1e6 / n for n in GROUPS]
            axes.plot(GROUPS, found, "o", color=colour, markersize=7)
        axes.axhline(BUDGET_US, color=INK, linewidth=1.5)
        axes.text(GROUPS[-1], BUDGET_US * 1.2, "budget 20 µs", fontsize=8, ha="right")
        names = ["scripted disk", "your disk", "- - one, shared by n"]
        chart.key(names, [VERMILION, BLUE, GREY])
        return chart


async def sizes() -> Sizes:
    """Write and sync groups of each size, on both disks, in a thread."""
    path = (await session()).folder / "groups"

    def measured(sync: Sync) -> dict[int, float]:
        return {n: probed(path, TIMES, n, sync).median for n in GROUPS}

    scripted = await asyncio.to_thread(measured, slow_sync)
    return Sizes(scripted, await asyncio.to_thread(measured, sync_to_disk))


# ---- what is claimed


def stops_the_loop(each: Logged, groups: Logged) -> bool | None:
    """Whether heartbeats came much later where the loop itself waited."""
    ratio = each.median_late / groups.median_late
    return True if ratio >= 5 else False if ratio < 2 else None


def shares_a_wait(*runs: Logged) -> bool | None:
    """Whether at least three ticks shared a confirmation; it is counted."""
    return all(run.syncs * 3 <= run.ticks for run in runs)


def divides_the_cost(found: Sizes) -> bool | None:
    """Whether a tick of a hundred costs less than a tenth of a tick alone."""
    ratio = found.scripted[1] / (found.scripted[100] / 100)
    return True if ratio >= 10 else False if ratio < 3 else None


CLAIMS = (
    Claim(
        "a-blocking-disk-stops-the-loop",
        "while the loop waits for a disk, everything else on it waits too",
        "the loop feels nothing of a disk that it waits for",
        stops_the_loop,
    ),
    Claim(
        "a-group-shares-one-wait",
        "what arrives while the disk is busy shares the next confirmation",
        "each tick waits for a confirmation of its own",
        shares_a_wait,
    ),
    Claim(
        "a-confirmation-is-paid-per-group",
        "the disk is paid per confirmation, and hardly per tick",
        "the disk is paid per tick, grouped or not",
        divides_the_cost,
    ),
)
