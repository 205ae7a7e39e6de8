"""A histogram of durations: integer nanoseconds, fixed buckets, mergeable.

The buckets are log-linear: each power of two from 1 us to 1074 s is cut into
16 equal parts, so a bucket is never wider than 1/16 of its values. Below 1 us
the same cut goes on in steps of 62.5 ns. As 1 us times a power of two is
always a bound, the cumulative counts a Prometheus server wants are exact.

A bucket holds its upper bound and not its lower one, as Prometheus' `le` says.
"""

from math import ceil, isnan, nan
from typing import NamedTuple

PARTS = 16  # buckets per power of two
POWERS = 31  # 1 us * 2**30 is 1074 s, the first bound above 1000 s
OVERFLOW = PARTS * POWERS  # the one bucket above all bounds
LARGEST_NS = 1000 << POWERS - 1


def upper_bound_ns(bucket: int) -> float:
    """The largest duration a bucket holds."""
    if bucket < PARTS:
        return 62.5 * (bucket + 1)
    shift = bucket // PARTS - 1
    return 62.5 * ((bucket - PARTS * shift + 1) << shift)


class Row(NamedTuple):
    """One line of a drawn histogram: durations in (above, up_to] seconds."""

    above: float
    up_to: float
    weight: int


class Histogram:
    """Counts of durations by size.

    Cost: 0.2 to 0.3 us a record, whatever its weight; 4 kB.

    Attributes:
        negative: weight of the durations below zero, which no bucket holds.
    """

    __slots__ = ("_counts", "_maximum_ns", "_sum_ns", "negative")

    def __init__(self) -> None:
        self._counts = [0] * (OVERFLOW + 1)
        self._sum_ns = self._maximum_ns = self.negative = 0

    def __repr__(self) -> str:
        p50, p99 = (seconds_text(self.quantile(q)) for q in (0.5, 0.99))
        return f"<Histogram {self.count} durations, p50 {p50}, p99 {p99}>"

    def record(self, duration_ns: int, weight: int = 1) -> None:
        """Count a duration `weight` times: once for each tick of a batch.

        In units of 62.5 ns the highest bit of a duration says which power of
        two it is, the four bits after it say which of the 16 parts.
        """
        if not 0 < duration_ns <= LARGEST_NS:
            return self._record_outside(duration_ns, weight)
        units = (2 * duration_ns - 1) // 125
        shift = units.bit_length() - 5
        bucket = PARTS * shift + (units >> shift) if shift > 0 else units
        self._counts[bucket] += weight
        self._sum_ns += duration_ns * weight
        if duration_ns > self._maximum_ns:
            self._maximum_ns = duration_ns

    def _record_outside(self, duration_ns: int, weight: int) -> None:
        if duration_ns < 0:
            self.negative += weight
            return
        self._counts[OVERFLOW if duration_ns else 0] += weight
        self._sum_ns += duration_ns * weight
        self._maximum_ns = max(self._maximum_ns, duration_ns)

    def merge(self, other: "Histogram") -> None:
        """Add what another histogram has counted, of a worker for example."""
        self._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]
        self._sum_ns += other._sum_ns
        self._maximum_ns = max(self._maximum_ns, other._maximum_ns)
        self.negative += other.negative

    @property
    def count(self) -> int:
        """How many durations were counted, the negative ones left out."""
        return sum(self._counts)

    @property
    def sum_seconds(self) -> float:
        """The sum of all durations counted."""
        return self._sum_ns / 1e9

    @property
    def maximum(self) -> float:
        """The longest duration in seconds, exact; nan if there is none."""
        return self._maximum_ns / 1e9 if self.count else nan

    def quantile(self, q: float) -> float:
        """The duration in seconds that a share `q` of all does not exceed.

        It is the upper bound of the bucket, never more than the maximum: at
        most 1/16 too long, never too short. nan if nothing was counted.
        """
        rank = max(1, ceil(q * self.count))
        reached = 0
        for bucket, count in enumerate(self._counts):
            reached += count
            if reached >= rank and bucket < OVERFLOW:
                return min(upper_bound_ns(bucket), self._maximum_ns) / 1e9
        return self.maximum

    def cumulative(self) -> list[tuple[float, int]]:
        """How many durations are at most 1 us, 2 us, 4 us, ... 1074 s, any.

        The bounds are in seconds, the last one is infinite; counts are exact.
        """
        found, reached = [], 0
        for power in range(POWERS):
            reached += sum(self._counts[PARTS * power : PARTS * (power + 1)])
            found.append(((1000 << power) / 1e9, reached))
        return [*found, (float("inf"), reached + self._counts[OVERFLOW])]

    def rows(self) -> list[Row]:
        """One row per power of two, from the shortest to the longest seen."""
        found, above, before = [], 0.0, 0
        for up_to, reached in self.cumulative():
            found.append(Row(above, up_to, reached - before))
            above, before = up_to, reached
        seen = [place for place, row in enumerate(found) if row.weight]
        return found[seen[0] : seen[-1] + 1] if seen else []


def seconds_text(seconds: float) -> str:
    """A duration with three digits and the unit that suits it."""
    if isnan(seconds):
        return "-"
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def text_histogram(title: str, histogram: Histogram, width: int = 40) -> str:
    """A histogram drawn with one bar per power of two, in plain ASCII."""
    rows = histogram.rows()
    if not rows:
        return f"{title}: none"
    longest = max(row.weight for row in rows)
    lines = [
        f"{title}: {histogram.count}, p50 {seconds_text(histogram.quantile(0.5))}, "
        f"p99 {seconds_text(histogram.quantile(0.99))}, "
        f"longest {seconds_text(histogram.maximum)}"
    ]
    for row in rows:
        bar = "#" * ceil(width * row.weight / longest)
        lines.append(
            f"  <= {seconds_text(row.up_to):>7} {row.weight:>9} {bar}".rstrip()
        )
    return "\n".join(lines)
