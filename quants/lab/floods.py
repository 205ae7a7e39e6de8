"""A flood: a consumer that is too slow, and what each policy makes of it.

await floods.flood()       no bound: depth, memory and age, live
await floods.policies()    the same feed through bounded channels
await floods.fanned(mine)  the same feed through the reader's own fan-out
"""

import asyncio
from collections.abc import Sequence

from quants.lab.charts import Chart
from quants.lab.desk import Desk
from quants.lab.live import BLUE, FRAME_SECONDS, GREEN, ORANGE, VERMILION
from quants.lab.slow_consumers import (
    SLOWER,
    WAYS,
    Flood,
    Way,
    running,
)  # fmt: skip

LIVE_SECONDS, SECONDS = 3.0, 2.0
END_SECONDS = 5.0  # what a fan-out may take to finish when the feed has ended
COLOURS = dict(zip(WAYS, (VERMILION, BLUE, GREEN, ORANGE), strict=True))


async def flood(way: Way = "unbounded", seconds: float = LIVE_SECONDS) -> Flood:
    """A flood, live; the slider is the consumer's speed."""
    picture = FloodPicture([way], seconds)
    live = picture.live(*picture.lines[way])
    live.draw()  # the first frame takes longest, and nothing flows yet
    async with running(way) as run:
        desk = Desk(live, seconds)

        def look() -> bool:
            more = run.look()
            if picture.update(run.flood()):
                live.limits_changed()
            return more

        def turn(thousands: int) -> None:
            run.consumer.speed = thousands * 1000

        slow = run.rate // SLOWER // 1000
        desk.slider("1,000/s", range(slow // 5, 8 * slow, slow // 5), slow, turn)
        await desk.run(look, lambda: pictured(run.flood()))
    return run.flood()


async def policies(seconds: float = SECONDS) -> list[Flood]:
    """The same flood under each of the three policies, one after the other."""
    found = []
    for way in WAYS[1:]:
        async with running(way) as run:
            # Looks are due by the clock, and there is no event to wait for.
            while run.look() and run.looks[-1].seconds < seconds:  # noqa: ASYNC110
                await asyncio.sleep(FRAME_SECONDS)
        found.append(run.flood())
    return found


# ---- pictures


class FloodPicture(Chart):
    """What is queued, what memory is held, and how old the ticks are."""

    def __init__(self, ways: Sequence[Way], seconds: float) -> None:
        super().__init__(
            "A consumer that is too slow", n="n = 1 consumer", panels=3,
            alt="Three panels over time: megabytes queued, megabytes of memory "
            "more than at the start, and how old a tick is when the consumer takes "
            f"it. Lines for {', '.join(ways)}.",
        )  # fmt: skip
        panels = [
            self.panel("time (s)", "queued ticks (MB)"),
            self.panel("time (s)", "memory, growth (MB)"),
            self.panel("time (s)", "age when taken (s)"),
        ]
        for axes, top in zip(panels, (20, 20, 1), strict=True):
            axes.set_xlim(0, seconds)
            axes.set_ylim(0, top)
        self.lines = {
            way: [
                axes.plot([], [], color=COLOURS[way], linewidth=2)[0] for axes in panels
            ]
            for way in ways
        }
        self.key(ways, [COLOURS[way] for way in ways])

    def update(self, flood: Flood) -> bool:
        """Show a flood; whether the axes had to change."""
        times = [look.seconds for look in flood.looks]
        found = zip(*(look[2:] for look in flood.looks), strict=True)
        columns = [[look.queued_mb for look in flood.looks], *found]
        changed = False
        for line, values in zip(self.lines[flood.way], columns, strict=True):
            line.set_data(times, values)
            axes = line.axes
            assert axes is not None
            for limit, grow, most in (
                (axes.get_ylim()[1], axes.set_ylim, max(values)),
                (axes.get_xlim()[1], axes.set_xlim, times[-1]),
            ):
                if most > limit:
                    grow(0, most * 1.5)
                    changed = True
        return changed


def pictured(*floods: Flood) -> FloodPicture:
    """One or more floods in one picture."""
    longest = max(flood.looks[-1].seconds for flood in floods)
    picture = FloodPicture([flood.way for flood in floods], longest)
    for flood in floods:
        picture.update(flood)
    received = sum(flood.counts.received for flood in floods)
    picture.sample(f"n = {received:,} ticks")
    return picture


FATES = ("processed", "dropped", "conflated", "queued")


def fates(*floods: Flood) -> Chart:
    """Where every tick of each flood is."""
    received = sum(flood.counts.received for flood in floods)
    chart = Chart(
        "Where every tick is", n=f"n = {received:,} ticks",
        alt="A bar for each policy, as long as the ticks it received, cut into those "
        "processed, dropped, conflated and queued.",
    )  # fmt: skip
    axes = chart.panel("ticks (millions)", "policy ( )")
    axes.set_ylabel("policy ( )").set_visible(False)
    colours = (GREEN, VERMILION, ORANGE, BLUE)
    starts = [0.0] * len(floods)
    for fate, colour in zip(FATES, colours, strict=True):
        widths = [getattr(flood.counts, fate) / 1e6 for flood in floods]
        rows = [flood.way for flood in floods]
        axes.barh(rows, widths, left=starts, color=colour, height=0.6)
        starts = [a + b for a, b in zip(starts, widths, strict=True)]
    axes.set_position((0.13, 0.22, 0.84, 0.58))  # the names need room
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=10)
    chart.key(FATES, colours)
    return chart
