"""The exercise of notebook 02: what does one call of a function cost?

Answers are tried on a machine that is made up: its clock is a number, and what
its calls take is known. So a right answer is right on every real machine.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from quants.lab.exercise import Answer, Case, Exercise

TOLERANCE = 0.25  # of the true cost
MOST_CALLS = 200_000


def cost_of(fn: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Seconds that one call of fn takes, as long as nothing disturbs it.

    fn takes no arguments and may be called often, 100,000 times in all.
    clock() tells the time in seconds, as time.perf_counter does.
    """
    tries = []
    for _ in range(60):
        since = clock()
        for _ in range(50):
            fn()
        tries.append((clock() - since) / 50)
    return min(tries)


class Machine:
    """A computer that exists on paper: a clock, and a function to measure.

    Args:
        cost: seconds that a call takes.
        first: seconds more that the first one takes.
        step: the clock goes forward in steps of so many seconds.
        slice: after so many seconds of work another program has its turn,
            for as long.
    """

    def __init__(
        self,
        cost: float,
        first: float = 0.0,
        step: float = 1e-9,
        slice: float = float("inf"),
    ) -> None:
        self.cost, self.first, self.step, self.slice = cost, first, step, slice
        self.calls, self._now, self._turn_ends = 0, 0.0, slice

    def fn(self) -> None:
        """What is to be measured."""
        self.calls += 1
        if self.calls > MOST_CALLS:
            raise OverflowError(f"fn was called more than {MOST_CALLS:,} times")
        self._now += self.cost + (self.first if self.calls == 1 else 0.0)
        if self._now >= self._turn_ends:
            self._now += self.slice
            self._turn_ends = self._now + self.slice

    def clock(self) -> float:
        """The time; to ask takes no time."""
        return self._now // self.step * self.step


def is_right(answer: Answer, machine: Callable[[], Machine]) -> bool:
    """Whether an answer comes close enough, on a fresh machine."""
    made = machine()
    found = float(answer(made.fn, made.clock))
    return abs(found - made.cost) <= TOLERANCE * made.cost


def on(**machine: float) -> tuple[Callable[[], Machine]]:
    """The arguments of a case."""
    return (partial(Machine, **machine),)


COST_OF = Exercise(
    cost_of,
    (
        Case(
            on(cost=20e-6),
            True,
            "On a quiet machine a call takes 20 µs, that is 20e-6 seconds: divide "
            "by the number of calls, and stay with seconds.",
            is_right,
        ),
        Case(
            on(cost=20e-6, first=0.02),
            True,
            "The first call is slow, for nothing is in a cache yet. One look at "
            "the clock before it and one after it is not enough: try many times.",
            is_right,
        ),
        Case(
            on(cost=0.3e-6, step=1e-6),
            True,
            "This call is shorter than the step of the clock. Make many calls "
            "between two looks at it.",
            is_right,
        ),
        Case(
            on(cost=20e-6, slice=0.005),
            True,
            "Every 5 ms another program has a turn of 5 ms. An average pays for "
            "it, and so does a try that is longer than a turn. Take the fastest of "
            "many short tries.",
            is_right,
        ),
    ),
    "Two loops: the inner one makes some 50 calls between two looks at the clock, "
    "the outer one collects such tries, and min(...) chooses among them.",
)
