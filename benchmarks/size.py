"""How much is measured: enough for a verdict, a quick look, or a test."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """How long and how often.

    Attributes:
        rounds: of a comparison; in each, every side runs once.
        seconds: of a saturated run, about.
        paced_seconds: of a run at a fixed rate.
        long_seconds: of the run that must not grow.
        loop_ticks: held in memory by a feed.
    """

    rounds: int
    seconds: float
    paced_seconds: float
    long_seconds: float
    loop_ticks: int


FULL = Size(9, 3.0, 5.0, 60.0, 10_000_000)
QUICK = Size(3, 1.0, 2.0, 10.0, 1_000_000)
TINY = Size(1, 0.01, 0.2, 1.0, 5_000)
