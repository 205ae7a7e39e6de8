"""Objects go, and their memory stays: what a process gives back, and what not.

found = await pages.tide()   make trades, drop nearly all of them, make as many
print(found); found.picture()
"""

import asyncio
import sys
from dataclasses import dataclass
from typing import NamedTuple

import psutil

from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.live import BLUE, VERMILION

TRADES = 400_000  # some 50 MB
KEPT = 20  # one in so many is kept; a page has room for some fifty

Trade = tuple[int, int]  # price, size


class Mark(NamedTuple):
    """Memory when something had been done; more than at the start."""

    done: str
    live_mb: float
    rss_mb: float


@dataclass(frozen=True)
class Tide:
    """Memory after each of: made, most dropped, as many made, all dropped."""

    marks: tuple[Mark, ...]

    @property
    def stays(self) -> float:
        """Of the memory that was dropped, the share the process still has."""
        made, dropped, *_ = self.marks
        return 1 - (made.rss_mb - dropped.rss_mb) / (made.live_mb - dropped.live_mb)

    @property
    def taken_again(self) -> float:
        """Of what was made again, the share for which memory was taken."""
        _, dropped, again, _ = self.marks
        return (again.rss_mb - dropped.rss_mb) / (again.live_mb - dropped.live_mb)

    def __repr__(self) -> str:
        return "\n".join(
            f"{mark.done:<14}{mark.live_mb:6.1f} MB live {mark.rss_mb:6.1f} MB RSS"
            for mark in self.marks
        )

    def picture(self) -> Chart:
        """What is alive, and what the process has, after each."""
        chart = Chart(
            "Objects go, memory stays", n=f"n = {TRADES:,} trades",
            alt="After each step two bars in megabytes: what is alive and what the "
            "process has. When most trades are dropped the first shrinks and the "
            "second does not; when as many are made again it does not grow.",
        )  # fmt: skip
        axes = chart.panel("", "memory, growth (MB)")
        axes.set_xlabel("step ( )").set_visible(False)
        places = range(len(self.marks))
        sides = ((-0.2, BLUE, "live_mb"), (0.2, VERMILION, "rss_mb"))
        for shift, colour, name in sides:
            heights = [getattr(mark, name) for mark in self.marks]
            axes.bar([x + shift for x in places], heights, 0.36, color=colour)
        axes.set_xticks(places, [mark.done for mark in self.marks])
        axes.tick_params(axis="x", labelsize=10)
        chart.key(["live bytes", "RSS"], [BLUE, VERMILION])
        return chart


async def tide(trades: int = TRADES) -> Tide:
    """Make trades, keep one in twenty, make as many again, drop all."""
    process, marks = psutil.Process(), list[Mark]()
    before = process.memory_info().rss

    async def mark(done: str, *held: list[Trade]) -> None:
        live, rss = sum(map(bytes_of, held)), process.memory_info().rss - before
        marks.append(Mark(done, live / 1e6, rss / 1e6))
        await asyncio.sleep(0)  # so that Stop has a chance

    made = make(trades)
    await mark("made", made)
    kept = made[::KEPT]
    del made
    await mark("most dropped", kept)
    made = make(trades - len(kept))
    await mark("as many made", kept, made)
    del kept, made
    await mark("all dropped")
    return Tide(tuple(marks))


def make(trades: int) -> list[Trade]:
    """Trades of numbers that no other trade shares."""
    return [(10_000_000 + n, 20_000_000 + n) for n in range(trades)]


def bytes_of(trades: list[Trade]) -> int:
    """Bytes of a list of trades: they are all alike."""
    one = trades[0]
    return sys.getsizeof(trades) + len(trades) * sum(map(sys.getsizeof, (one, *one)))


# ---- what is claimed

MOST, FEW = 0.6, 0.3  # of the memory in question


def goes_back(found: Tide) -> bool | None:
    """Whether the process gave back what was dropped."""
    return False if found.stays > MOST else True if found.stays < FEW else None


def is_used_again(found: Tide) -> bool | None:
    """Whether what is made then fits into what was dropped before."""
    taken = found.taken_again
    return True if taken < FEW else False if taken > MOST else None


CLAIMS = (
    Claim(
        "what-is-freed-goes-back-to-the-system",
        "when objects are freed the process gets smaller by them",
        "the objects are gone, and the process keeps nearly all of their memory",
        goes_back,
    ),
    Claim(
        "what-is-freed-is-used-again",
        "as many objects as before need hardly any new memory",
        "each time as many objects need new memory",
        is_used_again,
    ),
)
