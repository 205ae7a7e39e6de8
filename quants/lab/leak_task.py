"""The exercise of notebook 09: find the ring that keeps an object alive.

Answers climb in made-up graphs first, then in a photograph of a real leak.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from quants.lab.claims import Claim
from quants.lab.exercise import Answer, Case, Exercise
from quants.lab.referrers import photograph
from quants.lab.tallies import running

Holders = Callable[[Any], list[Any]]

MOST_QUESTIONS = 5000
RUNGS = 40  # of the ladder: 2^40 ways up, and 81 objects


def find_leak(thing: Any, holders: Holders) -> list[Any]:
    """The ring of objects that keeps a thing alive; [] if there is none.

    holders(x) is a list of all that hold x. In the ring each is held by the
    next one, and the last by the first. The thing itself may be in it or not.
    """
    finished = set()

    def climb(path: list[Any]) -> list[Any]:
        for holder in holders(path[-1]):
            for place, passed in enumerate(path):
                if passed is holder:
                    return path[place:]
            if id(holder) not in finished and (ring := climb([*path, holder])):
                return ring
        finished.add(id(path[-1]))
        return []

    return climb([thing])


# ---- made-up graphs


class Thing:
    """Something that can be held."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


class Twin(Thing):
    """Something that is equal to every other of its kind."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Twin)

    __hash__ = None  # type: ignore[assignment]


class Made:
    """A graph of things, from a text such as "batch < tally < share < tally".

    Each name is held by the one behind it. Names in capitals are twins.
    """

    def __init__(self, *chains: str) -> None:
        self.things: dict[str, Thing] = {}
        self._holders: dict[int, list[Thing]] = {}
        self.questions = 0
        for chain in chains:
            path = [self._thing(name) for name in chain.split(" < ")]
            for held, holder in pairwise(path):
                self._holders.setdefault(id(held), []).append(holder)

    def _thing(self, name: str) -> Thing:
        if name not in self.things:
            self.things[name] = (Twin if name.isupper() else Thing)(name)
        return self.things[name]

    def holders(self, thing: Thing) -> list[Thing]:
        """Those who hold a thing; with many questions, an error."""
        self.questions += 1
        if self.questions > MOST_QUESTIONS:
            raise OverflowError(f"holders was asked {MOST_QUESTIONS:,} times")
        return self._holders.get(id(thing), [])[:]


def is_ring(found: Any, holders: Holders) -> bool:
    """Whether each is held by the next one, and the last by the first."""
    if not isinstance(found, list) or not found:
        return False
    distinct = len({id(each) for each in found}) == len(found)
    pairs = zip(found, [*found[1:], found[0]], strict=True)
    return distinct and all(
        any(holder is each for each in holders(held)) for held, holder in pairs
    )


def climbed(answer: Answer, *chains: str) -> tuple[Made, Any]:
    """A graph, and what an answer finds above its first thing."""
    made = Made(*chains)
    first = made.things[chains[0].partition(" < ")[0]]
    return made, answer(first, made.holders)


def finds_something(answer: Answer, *chains: str) -> bool:
    """Whether it finds anything."""
    return bool(climbed(answer, *chains)[1])


def finds_ring(answer: Answer, *chains: str) -> bool:
    """Whether it finds a ring, and that only."""
    made, found = climbed(answer, *chains)
    made.questions = 0
    return is_ring(found, made.holders)


def finds(answer: Answer, *chains: str) -> Any:
    """What it finds."""
    return climbed(answer, *chains)[1]


LADDER = tuple(
    f"{below} < {side}{rung} < top{rung}"
    for rung in range(RUNGS)
    for below in [f"top{rung - 1}" if rung else "batch"]
    for side in ("left", "right")
)

FIND_LEAK = Exercise(
    find_leak,
    (
        Case(
            ("batch < share < tally < batch",), True,
            "A batch is held by a share, the share by a tally, the tally by the "
            "batch: that is [batch, share, tally]. Ask for the holders of the "
            "holders, and go on until you meet one that you have passed.",
            finds_ring,
        ),
        Case(
            ("batch < tally < share < list < tally",), True,
            "You found nothing, but there is a ring: the batch hangs on it and is "
            "not part of it. You will not come back to the thing you began with; "
            "look for *any* object that you have passed on your way.",
            finds_something,
        ),
        Case(
            ("batch < tally < share < list < tally",), True,
            "The batch hangs on the ring [tally, share, list], it is not part of it. "
            "Cut your path where the object that you met twice stands first.",
            finds_ring,
        ),
        Case(
            ("batch < log", "batch < tally < share < tally"), True,
            "The first holder led nowhere, and you gave up: the ring is above the "
            "second one. Try every holder.",
            finds_ring,
        ),
        Case(
            ("batch < left < top", "batch < right < top"), [],
            "There are two ways up to `top`, and nothing above it: no ring. To meet "
            "an object again is a ring only if it is on the path that you are on.",
            finds,
        ),
        Case(
            ("batch < TALLY < SHARE",), [],
            "Two objects were equal, and yet they are two: this was no ring. Compare "
            "with `is`. (`in` compares with ==.)",
            finds,
        ),
        Case(
            LADDER, [],
            f"A ladder of {RUNGS} rungs has two ways past each, so 2^{RUNGS} ways up. "
            "Note the objects above which you found nothing, and do not climb from "
            "them again.",
            finds,
        ),
    ),
    "Write an inner function climb(path). For each holder of path[-1]: if it is on the "
    "path, return path[place:]; else climb([*path, holder]), and return what that "
    "finds. When no holder is left, note id(path[-1]) as finished and return [].",
)  # fmt: skip


# ---- the real one


@dataclass(frozen=True)
class Found:
    """What an answer found above a batch of the stage that leaks."""

    names: tuple[str, ...]
    ring: bool

    def __repr__(self) -> str:
        if not self.ring:
            return f"No ring: {', '.join(self.names) or 'nothing'}."
        around = " is held by ".join([*self.names, self.names[0]])
        return f"The ring: {around}."


async def hunted(answer: Answer) -> Found:
    """Let the stage leak, and send an answer to find why."""
    async with running("collector off") as run:
        return hunt(answer, await run.done_batch())


def hunt(answer: Answer, thing: object) -> Found:
    """What an answer finds above a thing; of the thing, nothing is kept."""
    taken = photograph(thing)
    found = answer(taken.thing, taken.holders)
    names = tuple(type(each).__name__ for each in found)
    return Found(names, is_ring(found, taken.holders))


# ---- what is claimed


def is_the_culprit(found: Found) -> bool | None:
    """Whether it is a ring of the tally and its shares."""
    return found.ring and {"Tally", "Share"} <= set(found.names)


CLAIMS = (
    Claim(
        "the-ring-is-found",
        "each of these objects is held by the next, and the last by the first",
        "these objects do not hold each other in a ring",
        is_the_culprit,
    ),
)
