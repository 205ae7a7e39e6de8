"""The exercise of notebook 11: a histogram of durations that can be merged."""

from collections.abc import Mapping
from typing import Any

from quants.lab.exercise import Case, Exercise

Counts = Mapping[float, int]


class LatencyHist:
    """How many durations there were of which size: self.counts[bound].

    A bucket is named by its upper bound in seconds; others may lack it.
    """

    def __init__(self, counts: Counts) -> None:
        """Begin with a dictionary's counts; it stays as it is."""
        self.counts = dict(counts)

    def merge(self, other: "LatencyHist") -> None:
        """Add all that other has counted; other stays as it is."""
        for bound, count in other.counts.items():
            self.counts[bound] = self.counts.get(bound, 0) + count

    def quantile(self, q: float) -> float | None:
        """The bound that a share q of the durations does not exceed.

        Of 200 durations and q = 0.99 that is the bucket in which the 198th
        lies, counted from the shortest. None if there are no durations.
        """
        reached, wanted = 0, q * sum(self.counts.values())
        for bound in sorted(self.counts):
            reached += self.counts[bound]
            if reached and reached >= wanted:
                return bound
        return None


# ---- how an answer is tried


def quantiles(answer: Any, counts: Counts, *qs: float) -> list[float | None]:
    """Some quantiles of one histogram."""
    histogram = answer(dict(counts))
    return [histogram.quantile(q) for q in qs]


def merged(answer: Any, *counts: Counts) -> dict[float, int]:
    """What a histogram has counted after others were merged into it."""
    first, *others = (answer(dict(each)) for each in counts)
    for other in others:
        first.merge(other)
    return {bound: count for bound, count in first.counts.items() if count}


def other_after(answer: Any, first: Counts, second: Counts) -> dict[float, int]:
    """What the second has counted, after it was merged into the first, twice."""
    one, other = answer(dict(first)), answer(dict(second))
    one.merge(other)
    one.merge(answer(dict(second)))
    return dict(other.counts)


def given_after(answer: Any, counts: Counts, second: Counts) -> dict[float, int]:
    """The dictionary that a histogram began with, after a merge."""
    given = dict(counts)
    answer(given).merge(answer(dict(second)))
    return given


def merged_quantile(answer: Any, q: float, *counts: Counts) -> float | None:
    """A quantile after merging."""
    first, *others = (answer(dict(each)) for each in counts)
    for other in others:
        first.merge(other)
    result: float | None = first.quantile(q)
    return result


MILLI, STALL = 0.001, 0.5
QUICK = {MILLI: 99, STALL: 1}

LATENCY_HIST = Exercise(
    LatencyHist,
    (
        Case(
            ({MILLI: 2, STALL: 1}, {MILLI: 3, STALL: 4}), {MILLI: 5, STALL: 5},
            "Both histograms have durations in both buckets. After a merge a bucket "
            "holds the counts of both: add them, none replaces the other.", merged,
        ),
        Case(
            ({MILLI: 2}, {0.002: 3}), {MILLI: 2, 0.002: 3},
            "The other histogram may have a bucket that this one lacks: begin it "
            "with nothing, self.counts.get(bound, 0).", merged,
        ),
        Case(
            ({}, {MILLI: 3}), {MILLI: 3},
            "After a merge into an empty histogram, another merge changed the other "
            "one: both have the same dictionary. Copy the counts.", other_after,
        ),
        Case(
            ({MILLI: 2}, {MILLI: 3}), {MILLI: 2},
            "A merge changed the dictionary that the histogram was given. Keep one "
            "of your own: dict(counts).", given_after,
        ),
        Case(
            (QUICK, 0.5), [MILLI],
            "Ninety-nine durations of a hundred are in the first bucket, so half of "
            "them are. Buckets are not alike: go by their counts, not by how many "
            "bounds there are.", quantiles,
        ),
        Case(
            (QUICK, 0.99), [MILLI],
            "Ninety-nine of a hundred are at most a millisecond, and that is a share "
            "of 0.99: the share is reached when the count is reached, not only when "
            "it is passed.", quantiles,
        ),
        Case(
            (QUICK, 0.999), [STALL],
            "The 99.9th of a hundred durations is beyond the ninety-ninth. Compare "
            "with q times the number of durations, as it is: cut off, it is too low.",
            quantiles,
        ),
        Case(
            (0.5, {STALL: 60}, {MILLI: 60}), MILLI,
            "A merge brought a shorter bucket after a longer one. A dictionary keeps "
            "the order in which things came: walk through sorted(self.counts).",
            merged_quantile,
        ),
        Case(
            ({}, 0.99), [None],
            "Of no durations there is no quantile: return None.", quantiles,
        ),
        Case(
            ({MILLI: 0, STALL: 0}, 0.99), [None],
            "A bucket may have counted nothing: where all are empty there are no "
            "durations, and no quantile lies in an empty one.", quantiles,
        ),
    ),
    "Merge: for each bound of the other one, add its count to your own. Quantile: go "
    "through the bounds from the shortest, add up their counts, and stop where q "
    "times all of them are reached.",
)  # fmt: skip
