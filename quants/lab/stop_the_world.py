"""A heartbeat beside a log that waits for its disk, live.

await stop_the_world.each_tick()   on the loop, with a slider for the rate
stop_the_world.lags(runs...)       how late heartbeats came, in each way
"""

import time
from collections.abc import Sequence

from quants.lab.charts import Chart
from quants.lab.desk import Desk
from quants.lab.disks import Arriving, Beat, Counted, Heart, Logged, Way, write
from quants.lab.live import BLUE, GREEN, GREY, VERMILION
from quants.lab.session import end, session

CALM_RATE, CALM_SECONDS = 60, 1.5  # before the market gets busy
BUSY_RATE = 1000
MOST_TICKS = 550  # so that no reader waits for a disk longer than some seconds
SECONDS = 5.0
COLOURS: dict[Way, str] = {"each tick": VERMILION, "groups": BLUE, "TickLog": GREEN}


class StallPicture(Chart):
    """How late each heartbeat came, and what was confirmed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "A heartbeat, and a log on the same loop", n="n = 0 beats", panels=2,
            alt="Two panels over time. Left: how late each heartbeat of the loop came, "
            "logarithmic. Right: ticks that arrived and ticks that the disk confirmed, "
            "a dot wherever the picture could look.",
        )  # fmt: skip
        left = self.panel("time (s)", "heartbeat late by (ms)", log="y")
        right = self.panel("time (s)", "ticks (number)")
        left.set_ylim(0.1, 10_000)
        left.set_yticks([0.1, 10, 1000], ["0.1", "10", "1000"])
        left.minorticks_off()
        right.set_ylim(0, MOST_TICKS * 1.1)
        for axes in (left, right):
            axes.set_xlim(0, seconds)
        (self.late,) = left.plot([], [], ".", color=VERMILION, markersize=4)
        (self.arrived,) = right.plot([], [], ".--", color=GREY, markersize=4)
        (self.confirmed,) = right.plot([], [], ".-", color=BLUE, markersize=7)
        self.key(["- - arrived", "confirmed"], [GREY, BLUE])

    def update(
        self, beats: Sequence[Beat], looks: Sequence[tuple[float, int, int]]
    ) -> bool:
        """Show beats and counts; whether the axes had to change."""
        late = [max(0.1, beat.late * 1e3) for beat in beats]
        self.late.set_data([beat.due for beat in beats], late)
        times, arrived, confirmed = zip(*looks, strict=True)
        self.arrived.set_data(times, arrived)
        self.confirmed.set_data(times, confirmed)
        axes = self.figure.axes
        full = float(times[-1]) > axes[0].get_xlim()[1]
        if full:
            for each in axes:
                each.set_xlim(0, times[-1] + 3)
        return full


async def each_tick(seconds: float = SECONDS) -> Logged:
    """Write and sync each tick on the loop: calmly at first, then at a busy rate."""
    lab, sync, looks = await session(), Counted(), list[tuple[float, int, int]]()
    path = lab.folder / f"{time.monotonic_ns()}.log"
    picture = StallPicture(seconds)
    live = picture.live(picture.late, picture.arrived, picture.confirmed)
    live.draw()  # the first frame takes longest, and nothing is logged yet
    desk, began, turned = Desk(live, seconds), time.monotonic(), False
    arriving, heart = Arriving(CALM_RATE, MOST_TICKS), Heart()
    tasks = lab.start(heart.run()), lab.start(write("each tick", arriving, path, sync))

    def look() -> bool:
        now = time.monotonic() - began
        if now > CALM_SECONDS and not turned and arriving.rate == CALM_RATE:
            arriving.turn(BUSY_RATE)
        looks.append((now, arriving.sent + arriving.due, sync.calls))
        if picture.update(heart.beats, looks):
            live.limits_changed()
        return not tasks[1].done()

    def still() -> StallPicture:
        whole = StallPicture(looks[-1][0])
        whole.update(heart.beats, looks)
        whole.sample(f"n = {len(heart.beats):,} beats, {sync.calls:,} ticks")
        return whole

    def turn(rate: int) -> None:
        nonlocal turned
        turned = True
        arriving.turn(rate)

    desk.slider("ticks/s", range(20, BUSY_RATE, 20), CALM_RATE, turn)
    try:
        await desk.run(look, still)
    finally:
        await end(*tasks)
    lab.raise_faults()
    took = time.monotonic() - began
    return Logged("each tick", sync.calls, sync.calls, took, tuple(heart.beats))


def lags(*runs: Logged) -> Chart:
    """The share of heartbeats that came later than so much."""
    beats = sum(len(run.beats) for run in runs)
    chart = Chart(
        "How late the loop's heartbeat comes", n=f"n = {beats:,} beats",
        alt="The share of heartbeats that came later than a time, which is "
        f"logarithmic; a line each for {', '.join(run.way for run in runs)}.",
    )  # fmt: skip
    axes = chart.panel("late by more than (ms)", "heartbeats (%)", log="x")
    for run in runs:
        late = sorted(max(0.01, beat.late * 1e3) for beat in run.beats)
        shares = [100 * (1 - i / len(late)) for i in range(len(late))]
        axes.step(late, shares, color=COLOURS[run.way], linewidth=2)
    axes.set_ylim(0, 102)
    axes.set_xticks([0.01, 0.1, 1, 10, 100, 1000])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    chart.key([run.way for run in runs], [COLOURS[run.way] for run in runs])
    return chart
