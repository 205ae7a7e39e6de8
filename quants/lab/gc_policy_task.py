"""The exercise of notebook 10: when to collect, and when to freeze."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

from quants.lab.exercise import Case, Exercise


class Load(NamedTuple):
    """What the collector has before it, now or a step later."""

    pause_ms: float  # of a full collection
    garbage_mb: float  # dead cycles that wait for one


class GcPolicy:
    """Tells a pump without automatic collections when to collect and freeze."""

    def __init__(self, pause_ms: float, garbage_mb: float) -> None:
        """No pause may be longer, and no more garbage may wait."""
        self.most = Load(pause_ms, garbage_mb)

    def calls(self, now: Load, soon: Load) -> list[str]:
        """A list of what to call, in order: "collect", "freeze", both, or neither.
        now and soon tell pause_ms, of a collection, and garbage_mb, which waits.
        """
        if soon.pause_ms > self.most.pause_ms:
            return ["collect", "freeze"]
        if soon.garbage_mb > self.most.garbage_mb:
            return ["collect"]
        return []


# ---- a pump of numbers


class Step(NamedTuple):
    """What a pump does until the next question.

    Attributes:
        kept_ms: by how much longer a full collection takes.
        garbage_mb: cycles that die.
        guests_mb: cycles that come, and die in the next step.
    """

    kept_ms: float = 0.0
    garbage_mb: float = 0.0
    guests_mb: float = 0.0


class Day:
    """A pump that does what its script says and its policy calls.

    Attributes:
        longest_ms: pause.
        most_mb: of garbage that waited.
        frozen_mb: garbage that no collection will find any more.
    """

    def __init__(self) -> None:
        self.pause_ms = self.garbage_mb = self.guests_mb = 0.0
        self.longest_ms = self.most_mb = self.frozen_mb = 0.0
        self.collections = 0

    def soon(self, step: Step) -> Load:
        """What the collector has before it when a step is done."""
        pause_ms = self.pause_ms + step.kept_ms
        return Load(pause_ms, self.garbage_mb + self.guests_mb + step.garbage_mb)

    def go(self, step: Step) -> None:
        """Do a step: last step's guests die, new ones come."""
        self.pause_ms, self.garbage_mb = self.soon(step)
        self.guests_mb = step.guests_mb
        self.most_mb = max(self.most_mb, self.garbage_mb)

    def collect(self) -> None:
        """Find the dead cycles that are not frozen."""
        self.collections += 1
        self.longest_ms = max(self.longest_ms, self.pause_ms)
        self.garbage_mb = 0.0

    def freeze(self) -> None:
        """Hide all there is; the guests of now will die unseen."""
        self.frozen_mb += self.garbage_mb + self.guests_mb
        self.pause_ms = self.garbage_mb = self.guests_mb = 0.0


def played(policy: Any, steps: list[Step]) -> Day:
    """The day that a policy makes of a script."""
    day = Day()
    for step, following in pairwise(steps):
        day.go(step)
        now = Load(day.pause_ms, day.garbage_mb)
        for call in policy.calls(now, day.soon(following)):
            getattr(day, call)()
    return day


# ---- the cases

PAUSE_MS, GARBAGE_MB = 10.0, 10.0  # the budgets
STEPS = 60
Fact = Callable[[Day], bool]


def holds(answer: Callable[..., Any], fact: Fact, *steps: Step) -> bool:
    """Whether a fact is true of the day with a policy; steps repeat."""
    script = [*steps] * (STEPS // len(steps))
    return fact(played(answer(PAUSE_MS, GARBAGE_MB), script))


def case(fact: Fact, *steps: Step, hint: str) -> Case:
    """A day, what must be true of it, and what to think of if it is not."""
    return Case((fact, *steps), True, hint, ask=holds)


GC_POLICY = Exercise(
    GcPolicy,
    (
        case(
            lambda day: day.most_mb <= 2 * GARBAGE_MB,
            Step(garbage_mb=1),
            hint="1 MB of garbage dies in each step, and nothing ever comes for it: "
            "after 60 steps 60 MB wait. Without a collector somebody must collect.",
        ),
        case(
            lambda day: day.most_mb <= 2 * GARBAGE_MB,
            Step(garbage_mb=6),
            hint="A busy hour: 6 MB a step instead of 1, and far more than the budget "
            "waits. Do not count steps or containers; look at soon.garbage_mb.",
        ),
        case(
            lambda day: day.collections == 0,
            Step(),
            hint="A quiet day: nothing is kept and nothing dies, and yet you collect. "
            "That is a pause for nothing.",
        ),
        case(
            lambda day: day.most_mb <= GARBAGE_MB,
            Step(garbage_mb=3),
            hint="3 MB a step, and the budget is 10: at 9 there is still time, at 12 "
            "it is broken. Ask soon, not now, about the garbage.",
        ),
        case(
            lambda day: day.longest_ms <= 2 * PAUSE_MS,
            Step(kept_ms=1, garbage_mb=0.5),
            hint="The pump keeps ever more, so each collection takes longer than the "
            "one before. What is frozen is not walked.",
        ),
        case(
            lambda day: day.frozen_mb == 0,
            Step(kept_ms=1, garbage_mb=0.5),
            hint="Garbage was frozen: no collection will ever find it. First "
            "collect, then freeze.",
        ),
        case(
            lambda day: day.longest_ms <= PAUSE_MS,
            Step(kept_ms=3, garbage_mb=0.1),
            hint="3 ms a step, and the budget is 10: at 9 you can still collect and "
            "freeze, at 12 the pause is too long. Ask soon, not now, about the pause.",
        ),
        case(
            lambda day: day.frozen_mb == 0,
            Step(garbage_mb=2, guests_mb=2),
            hint="The pauses are short here, but you freeze all the same; guests who "
            "are still there die frozen. Freeze only for the pause's sake.",
        ),
    ),
    "Two budgets, two questions about soon. If the pause would break its budget, "
    'return ["collect", "freeze"]; else, if the garbage would, ["collect"]; else [].',
)
