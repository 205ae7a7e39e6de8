"""Does a pool help? A tick as a tuple, as an object, and from three pools.

found = pool_claim.weigh()    blocks of memory, collections, and time
print(found); found.picture()
"""

import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from quants.evidence import Claim as Ratio
from quants.evidence import Finding, find, in_turn
from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.pool_sides import TICKS, Four, sides
from quants.market import Market

BATCHES = 20  # in which collections are counted
ROUNDS, PASSES = 9, 3

# ---- what is weighed


def blocks(make: Callable[..., Any], ticks: list[Four]) -> int:
    """Blocks of memory that a tick takes while it is held, its numbers aside."""
    held: list[Any] = [None] * len(ticks)
    gc.collect()  # else the freed wait to be used again, and would not count
    before = sys.getallocatedblocks()
    for place, four in enumerate(ticks):
        held[place] = make(*four)
    return round((sys.getallocatedblocks() - before) / len(ticks))


def collections(total: Callable[[list[Four]], int], ticks: list[Four]) -> int:
    """How often the collector runs in some batches."""
    before = collections_so_far()
    for _ in range(BATCHES):
        total(ticks)
    return collections_so_far() - before


def collections_so_far() -> int:
    """Of all generations."""
    return sum(each["collections"] for each in gc.get_stats())


def nanoseconds(total: Callable[[list[Four]], int], ticks: list[Four]) -> float:
    """Time of a tick, in the fastest of some short passes."""
    passes = []
    for _ in range(PASSES):
        since = time.perf_counter_ns()
        total(ticks)
        passes.append(time.perf_counter_ns() - since)
    return min(passes) / len(ticks)


TIMES = Ratio(
    "a tick from the weakref pool takes at least 3 times as long as a tuple",
    "weakref pool", "tuple", "ns/tick", "at least", 3.0,
)  # fmt: skip


class Weight(NamedTuple):
    """What a tick costs: blocks held, collections in all batches, ns."""

    blocks: int
    collections: int
    ns: float


@dataclass(frozen=True)
class Weighed:
    """The weight of a tick, each way; and how sure the ratio of two times is."""

    weights: dict[str, Weight]
    finding: Finding

    def __repr__(self) -> str:
        head = f"{'a tick as, or from':<20}{'blocks':>8}{'collections':>13}{'ns':>8}"
        lines = [
            f"{name:<20}{w.blocks:>8}{w.collections:>13}{w.ns:>8,.0f}"
            for name, w in self.weights.items()
        ]
        return "\n".join([head, *lines])

    @property
    def helps(self) -> str:
        """Whether the weakref pool does, in a word."""
        pool, plain = self.weights["weakref pool"], self.weights["tuple"]
        return "yes" if pool.blocks < plain.blocks or pool.ns < plain.ns else "no"

    def picture(self) -> Chart:
        """Three panels of bars, a row for each way."""
        chart = Chart(
            "What a tick costs", n=f"n = {ROUNDS} rounds of {TICKS:,} ticks", panels=3,
            alt="Rows for a tuple, an object, a free list, TickPool and the weakref "
            "pool; bars for blocks of memory a tick, runs of the collector in "
            f"{BATCHES * TICKS:,} ticks, and nanoseconds a tick.",
        )  # fmt: skip
        names, colours = [*self.weights], [side.colour for side in sides().values()]
        panels = {
            "blocks": "blocks a tick (number)",
            "collections": f"collector runs (in {BATCHES * TICKS:,} ticks)",
            "ns": "time a tick (ns)",
        }
        for field, title in panels.items():
            axes = chart.panel(title, "way ( )")
            axes.set_ylabel("way ( )").set_visible(False)
            values = [getattr(w, field) for w in self.weights.values()]
            axes.barh(names, values, color=colours, height=0.6)
            axes.invert_yaxis()
            axes.grid(visible=False)
            axes.set_xlim(0, max(values) * 1.25 + 0.1)
            for row, value in enumerate(values):
                axes.text(value, row, f" {value:,.0f}", va="center", fontsize=8)
            if field != "blocks":
                axes.set_yticks([])
        chart.figure.axes[0].set_position((0.135, 0.22, 0.2, 0.58))  # for the names
        return chart


def weigh() -> Weighed:
    """Weigh a tick in each way; the times are measured in turn."""
    ticks = [tuple(row[:4]) for row in Market().take(TICKS).tolist()]
    all_sides = sides()
    counted = {
        name: (blocks(side.make, ticks), collections(side.total, ticks))
        for name, side in all_sides.items()
    }
    stretches = {
        name: partial(nanoseconds, side.total, ticks)
        for name, side in all_sides.items()
    }
    stretches["again"] = stretches["tuple"]
    found = in_turn(stretches, ROUNDS)
    weights = {name: Weight(*two, min(found[name])) for name, two in counted.items()}
    finding = find(TIMES, found["weakref pool"], found["tuple"], found["again"])
    return Weighed(weights, finding)


# ---- what is claimed


def allocates_less(found: Weighed) -> bool | None:
    """Whether a tick from the pool takes fewer blocks than a plain one."""
    pool, plain = (found.weights[name].blocks for name in ("weakref pool", "tuple"))
    return None if pool == plain else pool < plain


def spares_the_collector(found: Weighed) -> bool | None:
    """Whether the collector runs far less often; or far more often."""
    runs = {name: w.collections for name, w in found.weights.items()}
    pool, plain = runs["weakref pool"], runs["tuple"]
    if abs(pool - plain) < 10:
        return None  # a run or two are anybody's
    return False if pool > 2 * plain else True if plain > 2 * pool else None


def saves_time(found: Weighed) -> bool | None:
    """Whether the pool is faster than plain allocation; or three times slower."""
    if found.finding.verdict == "SUPPORTED":
        return False
    return True if found.finding.ratio * found.finding.band < 1 else None


def free_list_allocates_nothing(found: Weighed) -> bool | None:
    """Whether a free list, given back by hand, needs no memory for a tick."""
    return found.weights["free list"].blocks == 0


CLAIMS = (
    Claim(
        "a-weakref-pool-allocates-less",
        "a tick from the weakref pool takes fewer blocks of memory than a tuple",
        "to save one block, each lease from the weakref pool makes several others",
        allocates_less,
    ),
    Claim(
        "a-weakref-pool-spares-the-collector",
        "with the weakref pool the collector runs less often",
        "with the weakref pool the collector runs more often, not less",
        spares_the_collector,
        "the collector hardly runs either way",
    ),
    Claim(
        "a-weakref-pool-saves-time",
        "a tick from the weakref pool is there sooner than a tuple",
        "a tick from the weakref pool takes several times as long as a tuple",
        saves_time,
    ),
    Claim(
        "a-free-list-allocates-nothing",
        "a free list, with a release by hand, needs no new memory for a tick",
        "a free list allocates, too",
        free_list_allocates_nothing,
    ),
)
