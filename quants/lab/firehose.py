"""The firehose: one tick a message, asked for more and more of them, live.

    await firehose.ramp()

The slider fills the messages. What one costs is measured in `message_cost`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import NamedTuple

from quants.lab.charts import Chart
from quants.lab.desk import Desk
from quants.lab.hose import Hose, flowing
from quants.lab.live import BLUE, GREY, INK, VERMILION

# A ramp begins with so many ticks/s, and each step asks for twice as many.
STEP_SECONDS, FIRST_RATE, DOUBLINGS = 0.35, 1600, 9


class Look(NamedTuple):
    """One look at a flow."""

    seconds: float
    asked: float  # ticks/s
    batch: int
    ticks: int
    messages: int


@dataclass(frozen=True)
class Ramp:
    """What came through while more and more was asked for."""

    looks: tuple[Look, ...]

    @property
    def ceiling(self) -> float:
        """Ticks/s at the end."""
        return rates(self.looks, 8)[-1][0]

    def __repr__(self) -> str:
        last = self.looks[-1]
        return (
            f"Asked for {last.asked:,.0f} ticks/s in messages of {last.batch:,}, "
            f"the feed brings {self.ceiling:,.0f}."
        )


def rates(looks: Sequence[Look], over: int = 4) -> list[tuple[float, float]]:
    """Ticks/s and messages/s at each look, over the last few."""
    found = []
    for i, now in enumerate(looks):
        then = looks[max(0, i - over)]
        seconds = (now.seconds - then.seconds) or inf
        ticks, messages = now.ticks - then.ticks, now.messages - then.messages
        found.append((ticks / seconds, messages / seconds))
    return found


class RampPicture(Chart):
    """What was asked, what came, and what is still owed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "How much comes through", n="n = 1 subscriber", panels=2,
            alt="Two panels over time, logarithmic. Left, a second: ticks asked for, "
            "ticks received, messages received. Right: ticks that were asked for and "
            "have not come.",
        )  # fmt: skip
        left = self.panel("time (s)", "per second (1/s)", log="y")
        right = self.panel("time (s)", "asked for, not here (ticks)")
        left.set_ylim(500, 5_000_000)
        right.set_yscale("symlog", linthresh=100)
        right.set_ylim(0, 10_000_000)
        right.set_yticks([0, 100, 10_000, 1_000_000], ["0", "100", "10k", "1M"])
        right.minorticks_off()
        for axes in (left, right):
            axes.set_xlim(0, seconds)
        (self.asked,) = left.plot([], [], "--", color=GREY)
        (self.ticks,) = left.plot([], [], color=BLUE, linewidth=3)
        (self.messages,) = left.plot([], [], color=VERMILION, linewidth=1.2)
        (self.owed,) = right.plot([], [], color=INK, linewidth=2)
        names = ["- - asked", "ticks", "messages"]
        self.key(names, [GREY, BLUE, VERMILION])

    def update(self, looks: Sequence[Look]) -> bool:
        """Show these looks; whether the axes had to change."""
        times = [look.seconds for look in looks]
        found = rates(looks)
        self.asked.set_data(times, [look.asked for look in looks])
        self.ticks.set_data(times[1:], [ticks for ticks, _ in found[1:]])
        self.messages.set_data(times[1:], [messages for _, messages in found[1:]])
        self.owed.set_data(times, owed(looks))
        axes = self.figure.axes
        if full := times[-1] > axes[0].get_xlim()[1]:
            for each in axes:
                each.set_xlim(0, times[-1] + 4)
        return full


def owed(looks: Sequence[Look]) -> list[float]:
    """Ticks asked for since the start and not received, at each look."""
    asked, found = 0.0, [0.0]
    for then, now in pairwise(looks):
        asked += then.asked * (now.seconds - then.seconds)
        found.append(max(0.0, asked - now.ticks))
    return found


async def ramp(batch: int = 1, seconds: float = 3.5) -> Ramp:
    """Ask a feed for more and more ticks, live; the slider fills the messages."""
    looks: list[Look] = []
    picture = RampPicture(seconds)
    live = picture.live(picture.asked, picture.ticks, picture.messages, picture.owed)
    live.draw()  # the first frame takes longest, and nothing flows yet
    async with flowing(Hose(batch, FIRST_RATE)) as flow:
        desk, began = Desk(live, seconds), time.monotonic()

        def look() -> bool:
            since = time.monotonic() - began
            asked = FIRST_RATE * 2.0 ** min(int(since / STEP_SECONDS), DOUBLINGS)
            if asked != flow.feed.tick_rate:
                flow.feed.tick_rate = asked
            size = flow.hose.batch
            looks.append(Look(since, asked, size, flow.ticks, flow.messages))
            if picture.update(looks):
                live.limits_changed()
            return True

        def still() -> RampPicture:
            whole = RampPicture(max(look.seconds for look in looks))
            whole.update(looks)
            whole.sample(f"n = {flow.ticks:,} ticks")
            return whole

        def fill(power: int) -> None:
            flow.hose.batch = 2**power

        desk.slider("ticks: 2^", range(12), batch.bit_length() - 1, fill)
        await desk.run(look, still)
    return Ramp(tuple(looks))
