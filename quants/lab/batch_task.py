"""The exercise of notebook 06: the smallest batch that is worth sending."""

from typing import NamedTuple

from quants.lab.exercise import Case, Exercise


class Costs(NamedTuple):
    """What a batch costs the process that has it, in microseconds of CPU time.

    To sum n ticks itself: n * sum_us. To hand them over: fixed_us + n * pack_us.
    """

    fixed_us: float  # a batch, however small
    pack_us: float  # a tick more in it
    sum_us: float  # a tick, summed here
    most: int  # ticks; no batch can be larger

    def __str__(self) -> str:
        return (
            f"A batch costs {self.fixed_us:.3g} µs to hand over, and each tick in it "
            f"{self.pack_us:.2g} µs more; to sum a tick here, {self.sum_us:.2g} µs."
        )


def choose_batch(costs: Costs) -> int | None:
    """The smallest batch that costs less to hand over than to sum here.

    Costs are costs.fixed_us + n * costs.pack_us against n * costs.sum_us.
    In ticks, a whole number; None if no batch up to costs.most does.
    """
    saved_us = costs.sum_us - costs.pack_us
    if saved_us <= 0:
        return None
    batch = int(costs.fixed_us // saved_us) + 1
    return batch if batch <= costs.most else None


CHOOSE_BATCH = Exercise(
    choose_batch,
    (
        Case(
            (Costs(10.0, 0.0, 4.0, 4096),), 3,
            "2 ticks cost 8 here and 10 there, 3 cost 12 and 10: the answer is 3. "
            "Divide, and take the next whole number above.",
        ),
        Case(
            (Costs(12.0, 0.0, 4.0, 4096),), 4,
            "3 ticks cost 12 here and 12 there: that is not less yet. 4 is the answer.",
        ),
        Case(
            (Costs(10.0, 2.0, 4.0, 4096),), 6,
            "Each tick saves 4 here and costs 2 to pack, so it is worth 2: the fixed "
            "10 are earned by the sixth. Subtract pack_us first.",
        ),
        Case(
            (Costs(10.0, 4.0, 4.0, 4096),), None,
            "To pack a tick costs as much as to sum it: no batch is large enough, and "
            "nothing can be divided by 0. That is None.",
        ),
        Case(
            (Costs(10.0, 5.0, 4.0, 4096),), None,
            "To pack a tick costs more than to sum it: no batch is ever worth it. A "
            "batch of less than 0 ticks is no answer; None is.",
        ),
        Case(
            (Costs(10_000.0, 0.0, 1.0, 4096),), None,
            "It takes 10,001 ticks, and no batch holds more than costs.most. None.",
        ),
        Case(
            (Costs(4095.0, 0.0, 1.0, 4096),), 4096,
            "costs.most itself is allowed.",
        ),
    ),
    "Write down n * sum > fixed + n * pack, and solve it for n: "
    "n > fixed / (sum - pack). Then think of what the right side can be.",
)  # fmt: skip
