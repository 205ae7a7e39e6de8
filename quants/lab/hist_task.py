"""The exercise of notebook 11: a histogram of durations that can be merged."""

from collections.abc import Mapping
from typing import Any

from quants.lab.exercise import Case, Exercise

Counts = Mapping[float, int]


class LatencyHist(dict[float, int]):
    """How many durations lie in each bucket, by its upper bound in seconds."""

    def merge(self, other: Counts) -> None:
        """Add what other has counted; other stays as it is."""
        for bound, count in other.items():
            self[bound] = self.get(bound, 0) + count

    def quantile(self, q: float) -> float | None:
        """The lowest bound that a share q of all keeps within; None of nothing."""
        reached, wanted = 0, q * sum(self.values())
        for bound in sorted(self):
            reached += self[bound]
            if reached and reached >= wanted:
                return bound
        return None


# ---- how an answer is tried


def quantile(answer: Any, q: float, *counts: Counts) -> float | None:
    """A quantile of one histogram, after the others were merged into it."""
    result: float | None = after_merging(answer, *counts).quantile(q)
    return result


def merged(answer: Any, *counts: Counts) -> dict[float, int]:
    """What a histogram has counted, after the others were merged into it."""
    found = after_merging(answer, *counts)
    return {bound: count for bound, count in found.items() if count}


def other_after(answer: Any, first: Counts, second: Counts) -> dict[float, int]:
    """What the second has counted, after it was merged into the first."""
    other = answer(second)
    answer(first).merge(other)
    return dict(other)


def after_merging(answer: Any, *counts: Counts) -> Any:
    """A histogram into which the others were merged."""
    first, *others = map(answer, counts)
    for other in others:
        first.merge(other)
    return first


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
            "with nothing, self.get(bound, 0).", merged,
        ),
        Case(
            ({MILLI: 2}, {MILLI: 3, STALL: 4}), {MILLI: 3, STALL: 4},
            "The merge changed the other histogram, which may be still in use.",
            other_after,
        ),
        Case(
            (0.5, QUICK), MILLI,
            "Ninety-nine durations of a hundred are in the first bucket, so half of "
            "them are. Buckets are not alike: go by their counts, not by how many "
            "bounds there are.", quantile,
        ),
        Case(
            (0.99, QUICK), MILLI,
            "Ninety-nine of a hundred are at most a millisecond, and that is a share "
            "of 0.99: the share is reached when the count is reached, not only when "
            "it is passed.", quantile,
        ),
        Case(
            (0.999, QUICK), STALL,
            "A share of 0.999 is more than ninety-nine of a hundred. Compare with q "
            "times the number of durations, as it is: cut off, it is too low.",
            quantile,
        ),
        Case(
            (0.5, {STALL: 60}, {MILLI: 60}), MILLI,
            "A merge brought a shorter bucket after a longer one. A dictionary keeps "
            "the order in which things came: walk through sorted(self).", quantile,
        ),
        Case(
            (0.99, {}), None,
            "Of no durations there is no quantile: return None.", quantile,
        ),
        Case(
            (0.99, {MILLI: 0, STALL: 0}), None,
            "A bucket may have counted nothing: where all are empty there are no "
            "durations, and no quantile lies in an empty one.", quantile,
        ),
    ),
    "Merge: for each bound of the other one, add its count to your own. Quantile: go "
    "through the bounds from the shortest, add up their counts, and stop where q "
    "times all of them are reached.",
)  # fmt: skip
