"""Checks at a steady rate, whatever became of those before; and what came of each.

A market does not wait until the last question is answered. So each check is a
task of its own, and while answers are slow more and more of them are inside.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple, Self

from quants.lab.session import end

Fate = Literal["answered", "gave up", "not asked"]

LEAST_SECONDS = 0.002  # between two wake-ups
PATIENCE = 5.0  # seconds for those that are inside at the end


class Check(NamedTuple):
    """One check: seconds since the first, seconds it took, and how it ended."""

    begun: float
    took: float
    fate: Fate


class Look(NamedTuple):
    """How many checks were inside at a moment."""

    seconds: float
    inside: int


class Checks:
    """Asks `rate` times a second within its block, then waits for the answers.

    Attributes:
        done: the checks that have ended, in that order.
        looks: how many were inside, whenever it woke up.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[Fate]],
        rate: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.rate, self.begun = rate, 0
        self.done: list[Check] = []
        self.looks: list[Look] = []
        self._ask, self._clock = ask, clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._faults: list[BaseException] = []

    def __repr__(self) -> str:
        return f"<Checks {len(self.done)} done, {self.inside} inside>"

    @property
    def inside(self) -> int:
        """Checks that have begun and not ended."""
        return self.begun - len(self.done)

    @property
    def now(self) -> float:
        """Seconds since the first one."""
        return self._clock() - self._since

    async def __aenter__(self) -> Self:
        self._since = self._clock()
        self._asking = asyncio.create_task(self._keep_asking())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await end(self._asking)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE)
        self._look()
        await end(*self._tasks)
        if self._faults:
            raise self._faults[0]

    def _look(self) -> None:
        self.looks.append(Look(self.now, self.inside))

    async def _keep_asking(self) -> None:
        while True:
            while self.begun / self.rate <= self.now:
                self._begin()
            self._look()
            due = self.begun / self.rate - self.now
            await asyncio.sleep(max(due, LEAST_SECONDS))

    def _begin(self) -> None:
        task = asyncio.create_task(self._check(self.begun / self.rate))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        self.begun += 1

    async def _check(self, due: float) -> None:
        # From when it was due: a loop that is late makes its check late, too.
        fate = await self._ask()
        self.done.append(Check(due, self.now - due, fate))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()):
            self._faults.append(fault)
