"""A ride through a brown-out, live, and the same with a deadline.

await brownout.watch()    checks that wait as long as it takes, with a slider
await brownout.again()    checks with a deadline
brownout.pictured(ride)   all of a ride
"""

import asyncio

from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.desk import Desk
from quants.lab.live import BLUE, GREY, VERMILION
from quants.lab.shared_pool import CALM_MS, OVER, THREADS, Ride, riding

LEAST_MS, MOST_MS = 0.1, 5000.0
MOST_INSIDE = 150
SLIDER = range(CALM_MS, 401, CALM_MS)
NAMES = ["checks", "log writes"]


class RidePicture(Chart):
    """What each call took, and how many checks were inside."""

    def __init__(self, seconds: float, way: str = "") -> None:
        super().__init__(
            f"Redis gets slow{way}", n="n = 0 calls", panels=2,
            alt="Two panels over time. Left: milliseconds that each check and each "
            "write of the log took, logarithmic, at the moment it began. Right: how "
            "many checks were inside, beside the number of threads.",
        )  # fmt: skip
        left = self.panel("begun at (s)", "took (ms)", log="y")
        right = self.panel("time (s)", "checks inside (number)")
        left.set_ylim(LEAST_MS, MOST_MS)
        left.set_yticks([0.1, 1, 10, 100, 1000], ["0.1", "1", "10", "100", "1000"])
        left.minorticks_off()
        right.set_ylim(0, MOST_INSIDE)
        for axes in (left, right):
            axes.set_xlim(0, seconds)
        (self.checks,) = left.plot([], [], ".", color=BLUE, markersize=4)
        (self.writes,) = left.plot([], [], "D", color=VERMILION, markersize=3.5)
        (self.inside,) = right.plot([], [], color=BLUE, linewidth=1.5)
        right.axhline(THREADS, color=GREY, linewidth=1)
        right.text(0.02, THREADS + 2, f"{THREADS} threads", fontsize=8, color=GREY)
        self.key(NAMES, [BLUE, VERMILION])

    def update(self, ride: Ride) -> bool:
        """Show what has come so far; whether the axes had to change."""
        for dots, calls in ((self.checks, ride.checks), (self.writes, ride.writes)):
            took = [max(LEAST_MS, call.took * 1e3) for call in calls]
            dots.set_data([call.begun for call in calls], took)
        times = [look.seconds for look in ride.looks]
        inside = [look.inside for look in ride.looks]
        self.inside.set_data(times, inside)
        left, right = self.figure.axes
        full = bool(times) and times[-1] > left.get_xlim()[1]
        if full:
            left.set_xlim(0, times[-1] + 2)
            right.set_xlim(0, times[-1] + 2)
        if over := max(inside, default=0) > right.get_ylim()[1]:
            right.set_ylim(0, 1.5 * max(inside))
        return full or over


def pictured(ride: Ride) -> RidePicture:
    """All of a ride, as a still picture."""
    way = f", and checks have {'a' if ride.way == 'deadline' else 'no'} deadline"
    picture = RidePicture(ride.looks[-1].seconds, way)
    picture.update(ride)
    calls = len(ride.checks) + len(ride.writes)
    picture.sample(f"n = {calls:,} calls; {ride.server}")
    return picture


async def watch(seconds: float = OVER) -> Ride:
    """Checks without a deadline; the slider says how long Redis takes."""
    picture = RidePicture(seconds)
    live = picture.live(picture.checks, picture.writes, picture.inside)
    live.draw()
    desk, turned = Desk(live, seconds), False
    async with riding("no deadline") as going:

        def look() -> bool:
            if not turned:
                going.script()
            if picture.update(going.ride()):
                live.limits_changed()
            return True

        def turn(milliseconds: int) -> None:
            nonlocal turned
            turned = True
            going.turn(milliseconds)

        desk.slider("Redis (ms)", SLIDER, CALM_MS, turn)
        await desk.run(look, lambda: None)
    ride = going.ride()
    desk.handle.update(pictured(ride))
    return ride


async def again() -> Ride:
    """The same brown-out, and checks that have a deadline."""
    async with riding("deadline") as going:
        while going.script():  # noqa: ASYNC110 - it has to be played
            await asyncio.sleep(0.01)
    return going.ride()


# ---- what is claimed


def stalls_the_log(ride: Ride) -> bool | None:
    """Whether the log's writes took much longer while Redis was slow."""
    slow, calm = (ride.took(ride.writes, when) for when in (True, False))
    if not slow or not calm:  # one of them was not seen
        return None
    return True if slow >= 5 * calm else False if slow < 2 * calm else None


def leaves_room(without: Ride, ride: Ride) -> bool | None:
    """Whether a deadline keeps fewer checks inside than there are threads."""
    if without.inside <= THREADS:
        return None
    return ride.inside <= THREADS


CLAIMS = (
    Claim(
        "a-full-pool-stalls-who-shares-it",
        "a slow Redis fills the pool, and stalls a log that never asks Redis",
        "a slow Redis costs those who ask it, and nobody else",
        stalls_the_log,
    ),
    Claim(
        "a-deadline-leaves-room",
        "with a deadline fewer checks are inside than there are threads",
        "checks fill the pool, deadline or not",
        leaves_room,
        "the pool was not full without a deadline, either",
    ),
)
