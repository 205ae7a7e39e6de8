"""What a frame of a live plot takes from the loop: blitted, or drawn anew.

The inline way makes a figure for each frame and turns it into a PNG, as a
notebook does that shows a new one again and again. Both draw the bell's picture
of the same readings. Counted is CPU time, all of it on the loop's thread.
"""

import io
import time
from collections.abc import Callable, Sequence

from benchmarks.size import Size
from quants.evidence import Claim, Finding, find, in_turn
from quants.lab.live import Live
from quants.lab.panels import WINDOW_SECONDS, BellPicture, Reading

CLAIM = Claim(
    "a live frame blocks the loop at least 5 times less than a new inline figure",
    "new figure", "blitted", "ms/frame", "at least", 5.0,
)  # fmt: skip
STAGE_US = {"receive": 5.0, "vwap": 2.0, "log": 40.0, "risk": 90.0}
FRAMES_PER_SECOND = 20  # of a run's seconds, about


def readings(count: int) -> Sequence[Reading]:
    """A ring of the bell, eight looks a second."""
    return [
        Reading(n / 8, 1000.0, 125 * n, 120 * n, 5 * n, 0.001 * n, STAGE_US)
        for n in range(1, count + 1)
    ]


def measure(size: Size) -> list[Finding]:
    """The claim: the same frames, both ways in turn."""
    frames = max(2, int(FRAMES_PER_SECOND * size.seconds))
    looks = readings(64)

    def blitted() -> float:
        picture = BellPicture("naive", WINDOW_SECONDS, live=True)
        live = Live(picture, picture.moving)
        picture.update(looks)
        live.draw()  # the first one draws the background

        def frame() -> None:
            picture.update(looks)
            live.draw()

        return timed(frames, frame)

    def anew() -> float:
        return timed(frames, lambda: inline(looks))

    sides = {"new figure": anew, "blitted": blitted, "again": blitted}
    found = in_turn(sides, size.rounds)
    return [find(CLAIM, found["new figure"], found["blitted"], found["again"])]


def inline(looks: Sequence[Reading]) -> bytes:
    """One frame as the inline backend makes it."""
    picture = BellPicture("naive", WINDOW_SECONDS, live=True)
    picture.update(looks)
    file = io.BytesIO()
    picture.figure.savefig(file, format="png", bbox_inches="tight")
    return file.getvalue()


def timed(frames: int, draw: Callable[[], object]) -> float:
    """CPU milliseconds of a frame."""
    start = time.process_time()
    for _ in range(frames):
        draw()
    return (time.process_time() - start) / frames * 1e3
