"""The exercise of notebook 08: a limit that is there, however Redis is."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from quants.breaker import Breaker
from quants.errors import RedisFault
from quants.lab.exercise import Answer, Case, Exercise

Ask = Callable[[str], Awaitable[str | None]]


class RiskGate:
    """Knows the limit of each symbol, however Redis is.

    ask(symbol) is a coroutine; it may never end, or raise RedisFault.
    """

    def __init__(self, ask: Ask, breaker: Breaker, seconds: float) -> None:
        self.ask, self.breaker, self.seconds = ask, breaker, seconds
        self.known: dict[str, str | None] = {}

    async def limit(self, symbol: str) -> str | None:
        """What ask says within `seconds`; else what it said last, or None."""
        if self.breaker.admits():
            try:
                async with asyncio.timeout(self.seconds):
                    self.known[symbol] = await self.ask(symbol)
                self.breaker.succeeded()
            except (TimeoutError, RedisFault):
                self.breaker.failed()
        return self.known.get(symbol)


# ---- how an answer is tried

Reply = str | Literal["none", "never", "fault"]  # a limit, no limit, ...
Step = tuple[str, Reply]  # the symbol that is asked for, and what Redis does

SECONDS = 0.05  # the deadline that a gate is given
STUCK = "stuck"  # for a call that has not ended at ten times of it
LATER = 1.0  # from step to step by the breaker's clock; its pause is 2.5


class Scripted:
    """A Redis that does what it is told to, and counts the questions."""

    def __init__(self) -> None:
        self.reply: Reply = "none"
        self.questions = 0

    async def ask(self, symbol: str) -> str | None:
        """Answer, or not."""
        self.questions += 1
        if self.reply == "never":
            await asyncio.Event().wait()
        if self.reply == "fault":
            raise RedisFault("Redis: connection refused")
        return None if self.reply == "none" else self.reply


class Played(NamedTuple):
    """What a gate did: the limits it told, and what it cost."""

    limits: list[str | None]
    questions: int
    outages: int  # that the breaker was told of


async def played(answer: Answer, steps: Sequence[Step]) -> Played:
    """Ask a gate step by step, by a clock that jumps."""
    redis, now, told = Scripted(), [0.0], list[str | None]()
    breaker = Breaker(probe_seconds=2.5 * LATER, clock=lambda: now[0])
    gate = answer(redis.ask, breaker, SECONDS)
    for symbol, redis.reply in steps:
        now[0] += LATER
        try:
            async with asyncio.timeout(10 * SECONDS) as patience:
                told.append(await gate.limit(symbol))
        except TimeoutError:
            if not patience.expired():
                raise  # by the gate itself
            told.append(STUCK)
    return Played(told, redis.questions, breaker.opened)


def looked(field: str, answer: Answer, *steps: Step) -> Any:
    """One fact about what a gate did."""
    return getattr(asyncio.run(played(answer, steps)), field)


def is_stuck(answer: Answer, *steps: Step) -> bool:
    """Whether it left anybody waiting; one that gives up does not."""
    try:
        return STUCK in limits(answer, *steps)
    except TimeoutError:
        return False


limits, questions, outages = (
    partial(looked, field) for field in ("limits", "questions", "outages")
)
GONE: tuple[Step, ...] = (("AAPL", "200"), *[("AAPL", "fault")] * 6)

RISK_GATE = Exercise(
    RiskGate,
    (
        Case(
            (("AAPL", "200"), ("MSFT", "500")), ["200", "500"],
            "Redis is well and answers at once: limit(symbol) should return what "
            "await self.ask(symbol) says.", limits,
        ),
        Case(
            (("AAPL", "200"), ("AAPL", "never")), False,
            "Redis never answered, and whoever called limit() still waits. Give the "
            "question a deadline: async with asyncio.timeout(self.seconds).", is_stuck,
        ),
        Case(
            (("AAPL", "200"), ("AAPL", "never")), ["200", "200"],
            "Redis said 200 once, then no more. The deadline ended the question, and "
            "200 still holds: catch TimeoutError, return what was said last.", limits,
        ),
        Case(
            (("AAPL", "200"), ("AAPL", "fault")), ["200", "200"],
            "Redis refused the connection: ask raised RedisFault. That is no answer, "
            "either, and no reason to forget what is known.", limits,
        ),
        Case(
            (("AAPL", "never"),), [None],
            "Nothing was ever known of this symbol: None says so.", limits,
        ),
        Case(
            (
                *(("AAPL", "200"), ("MSFT", "500")),
                *(("AAPL", "never"), ("MSFT", "500"), ("AAPL", "200")),
            ),
            ["200", "500", "200", "500", "200"],
            "One symbol got the limit of another. Keep what was said last for each "
            "of them, in a dict.", limits,
        ),
        Case(
            (("AAPL", "200"), ("AAPL", "none"), ("AAPL", "never")),
            ["200", None, None],
            "Somebody removed the limit, Redis answered None, and the old limit was "
            "back. None is an answer, too: keep it like any other.", limits,
        ),
        Case(
            GONE, 1,
            "Six questions in a row failed, and the breaker heard of no outage. Tell "
            "it: self.breaker.failed(), after a fault and after a deadline.", outages,
        ),
        Case(
            GONE, 4,
            "The breaker was open, and Redis was asked all the same, or too seldom. "
            "Ask only if self.breaker.admits(), and call that once.", questions,
        ),
        Case(
            (
                *(("AAPL", "200"), ("AAPL", "fault"), ("AAPL", "fault")),
                *[("AAPL", "210")] * 3, ("AAPL", "220"), ("AAPL", "230"),
            ),
            ["200", "200", "200", "200", "200", "210", "220", "230"],
            "Redis was back, a probe had its answer, and still hardly anybody asked. "
            "Who closes the breaker? self.breaker.succeeded().", limits,
        ),
    ),
    "A dict for what was said last. If the breaker admits the question: try, with a "
    "deadline around the await; an answer goes into the dict, a TimeoutError or "
    "RedisFault to the breaker. At the end, always, return what the dict knows.",
)  # fmt: skip
