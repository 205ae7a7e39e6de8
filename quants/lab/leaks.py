"""The pump's memory grows: see it, ask where it was born, cut the ring.

await leaks.grow()                  the collector is off, as in some pumps; live
await leaks.lived("ring cut")       the same without a picture
await leaks.births()                the lines that allocate what stays
await leaks.who_holds()             who holds a batch that is done
leaks.pictured(growth, ...)         some of them in one picture
"""

import asyncio
import linecache
from dataclasses import dataclass
from pathlib import Path

from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.desk import Desk
from quants.lab.live import BLUE, FRAME_SECONDS, GREEN, GREY, INK, VERMILION
from quants.lab.referrers import Graph, photograph
from quants.lab.tallies import Growth, Look, Way, running
from quants.memory import Allocation, top_allocations

LIVE_SECONDS, SECONDS = 5.0, 2.5
COLLECT_AT = 0.8  # of the live time, by hand; then it grows again
MOST_MB = 100  # alive; then a growth ends early
COLOURS: dict[Way, str] = {
    "collector off": VERMILION, "collector on": BLUE, "ring cut": GREEN
}  # fmt: skip


async def grow(seconds: float = LIVE_SECONDS) -> Growth:
    """The stage without a collector, live; near the end it is run by hand."""
    picture = GrowthPicture(seconds)
    live = picture.live(picture.done, picture.alive, picture.rss, picture.bytes)
    live.draw()  # the first frame takes memory, which is not the stage's
    async with running("collector off") as run:
        desk = Desk(live, seconds)

        def look() -> bool:
            due = run.look().seconds > COLLECT_AT * seconds
            if due and run.collect():
                picture.mark(run.looks[-1].seconds)
                live.limits_changed()
            if picture.update(run.looks):
                live.limits_changed()
            return run.looks[-1].live_mb < MOST_MB

        def still() -> GrowthPicture:
            whole = GrowthPicture(run.looks[-1].seconds)
            whole.update(run.looks)
            whole.mark(run.growth().before.seconds)
            whole.sample(f"n = {run.stage.done:,} batches")
            return whole

        desk.slider("1,000/s", range(10, 401, 10), run.thousands, run.turn)
        await desk.run(look, still)
        return run.growth()


async def lived(way: Way, seconds: float = SECONDS) -> Growth:
    """The stage at work for some time, then one run of the collector."""
    async with running(way) as run:
        # Looks are due by the clock, and there is no event to wait for.
        while run.look().seconds < seconds:  # noqa: ASYNC110
            await asyncio.sleep(FRAME_SECONDS)
        return run.growth()


# ---- pictures


class GrowthPicture(Chart):
    """Batches done and alive; memory as the system and as Python counts it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "A stage that keeps nothing", n="n = 0 batches", panels=2,
            alt="Two panels over time. Left: batches done, and batches of those that "
            "are still alive. Right: how much memory the process has more than at the "
            "start, as the system counts it (RSS), and what of it is alive.",
        )  # fmt: skip
        left = self.panel("time (s)", "batches (number)")
        right = self.panel("time (s)", "memory, growth (MB)")
        for axes, top in ((left, 1000), (right, 10)):
            axes.set_xlim(0, seconds)
            axes.set_ylim(0, top)
        (self.done,) = left.plot([], [], "--", color=GREY)
        (self.alive,) = left.plot([], [], color=BLUE, linewidth=2)
        (self.rss,) = right.plot([], [], color=VERMILION, linewidth=2)
        (self.bytes,) = right.plot([], [], color=BLUE, linewidth=2)
        self.key(["- - done", "alive", "RSS"], [GREY, BLUE, VERMILION])

    def mark(self, seconds: float) -> None:
        """Say when the collector was run."""
        for axes in self.figure.axes:
            axes.axvline(seconds, color=INK, linewidth=1, linestyle=":")
        axes.text(
            seconds, 0.93, "gc.collect() ", color=INK, fontsize=8, ha="right",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip

    def update(self, looks: list[Look]) -> bool:
        """Show what was seen; whether the axes had to change."""
        seconds, done, alive, live, rss = zip(*looks, strict=True)
        self.done.set_data(seconds, done)
        self.alive.set_data(seconds, alive)
        self.rss.set_data(seconds, rss)
        self.bytes.set_data(seconds, live)
        left, right = self.figure.axes
        changed = False
        for axes, most in ((left, max(done)), (right, max(*rss, *live))):
            if most > axes.get_ylim()[1]:
                axes.set_ylim(0, most * 1.5)
                changed = True
            if seconds[-1] > axes.get_xlim()[1]:
                axes.set_xlim(0, seconds[-1] * 1.5)
                changed = True
        return changed


def pictured(*growths: Growth) -> Chart:
    """How many batches are alive, in each way."""
    done = sum(growth.before.done for growth in growths)
    chart = Chart(
        "Batches that are alive", n=f"n = {done:,} batches",
        alt="Batches alive over time, a line each for "
        f"{', '.join(growth.way for growth in growths)}, up to the moment at which "
        "the collector was run by hand.",
    )  # fmt: skip
    axes = chart.panel("time (s)", "batches alive (number)")
    for growth in growths:
        looks = growth.looks[: growth.looks.index(growth.before) + 1]
        seconds, alive = (
            [look.seconds for look in looks],
            [look.alive for look in looks],
        )
        axes.plot(seconds, alive, color=COLOURS[growth.way], linewidth=2)
    chart.key([growth.way for growth in growths], [COLOURS[g.way] for g in growths])
    return chart


# ---- where it was born


@dataclass(frozen=True)
class Births:
    """The lines that allocated most of what stayed, within some seconds."""

    lines: tuple[Allocation, ...]
    seconds: float

    def __repr__(self) -> str:
        return "\n".join(
            f"{line.bytes / 1000:6,.0f} kB  {Path(line.file).name:<11} "
            f"{linecache.getline(line.file, line.line).strip()}"
            for line in self.lines
        )


async def births(seconds: float = 1.0, n: int = 4) -> Births:
    """Where what stays alive is allocated, with the collector off."""
    async with running("collector off"):
        return Births(tuple(await top_allocations(seconds, n)), seconds)


async def who_holds() -> Graph:
    """Who holds a batch that the stage has done long ago, and who holds those."""
    async with running("collector off") as run:
        return photograph(await run.done_batch()).graph()


# ---- what is claimed


def hangs_on_a_ring(graph: Graph) -> bool | None:
    """Whether a ring holds the thing, and nothing else holds it or the ring."""
    return bool(graph.ring) and all(
        k in graph.ring or not k.distance for k in graph.kinds
    )


def outlives(ring: tuple[bool, int, bool]) -> bool | None:
    """Whether a ring of two was alive, was found, and then was not."""
    before, found, after = ring
    return before and found >= 2 and not after


def frees_what_is_done(growth: Growth) -> bool | None:
    """Whether no more than the batch in hand was alive before a collection."""
    before = growth.before
    if before.done < 3:
        return None
    return True if before.alive <= 1 else False if before.alive == before.done else None


def only_the_collector_frees(growth: Growth) -> bool | None:
    """Whether all were alive before the collection, and none after it."""
    if frees_what_is_done(growth) is not False:
        return None
    return growth.after.alive <= 1


CLAIMS = (
    Claim(
        "what-is-done-is-freed",
        "a batch that is done is freed at once",
        "nobody keeps a batch that is done, and every one of them is still alive",
        frees_what_is_done,
        "some of them were freed and some were not",
    ),
    Claim(
        "the-collector-frees-them",
        "one run of the garbage collector, and only the batch in hand is alive",
        "the garbage collector does not free them either",
        only_the_collector_frees,
        "there was nothing left for it to free",
    ),
    Claim(
        "a-batch-hangs-on-a-ring",
        "what holds the batch holds itself, by way of others, and nobody else holds it",
        "somebody holds the batch who is not held by himself",
        hangs_on_a_ring,
    ),
    Claim(
        "a-weak-link-cuts-the-ring",
        "with one weak reference in the ring a batch that is done is freed at once",
        "the ring is cut, and every batch is still alive",
        frees_what_is_done,
        "some of them were freed and some were not",
    ),
    Claim(
        "a-ring-outlives-its-names",
        "two objects that hold each other live on without a name, until a collection",
        "two objects that hold each other are freed with their last name",
        outlives,
    ),
)
