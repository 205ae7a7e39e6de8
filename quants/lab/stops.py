"""A worker is told to stop: it passes the cancellation on, or swallows it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias

from quants.lab.claims import Claim
from quants.lab.session import session

Step: TypeAlias = Callable[[], Awaitable[None]]
Say: TypeAlias = Callable[[str], object]
Worker = Callable[[Step, Say], Coroutine[Any, Any, None]]

PATIENCE = 0.5  # seconds from a cancellation on


async def swallows(step: Step, say: Say) -> None:
    """Take steps until somebody stops it."""
    while True:
        try:
            await step()
        except asyncio.CancelledError:
            say("told to stop, tidied up")


async def passes_on(step: Step, say: Say) -> None:
    """Take steps until somebody stops it."""
    while True:
        try:
            await step()
        except asyncio.CancelledError:
            say("told to stop, tidied up")
            raise


class Released(Exception):
    """The way out for a worker that no cancellation stops."""


@dataclass(frozen=True)
class Stop:
    """What a worker did when it was cancelled.

    Attributes:
        said: its own words.
        ended: whether it had ended by the deadline.
    """

    worker: str
    said: tuple[str, ...]
    ended: bool

    def __repr__(self) -> str:
        then = "ended" if self.ended else "was still at work at the deadline"
        return f"{self.worker}: {', '.join(self.said)}; {then}."


async def cancel(worker: Worker, patience: float = PATIENCE) -> Stop:
    """Start a worker, cancel it, and see whether it has ended by a deadline."""
    lab, said, released = await session(), list[str](), asyncio.Event()

    async def step() -> None:
        await released.wait()
        raise Released

    task = lab.loop.create_task(worker(step, said.append))
    await asyncio.sleep(0)  # its first step
    task.cancel()
    # Not wait_for: that cancels, and then waits for ever for the end.
    await asyncio.wait({task}, timeout=patience)
    ended = task.done()
    released.set()
    await asyncio.wait({task}, timeout=patience)
    if task.done() and not task.cancelled():
        task.exception()  # it was Released; now it counts as seen
    return Stop(worker.__name__, tuple(said), ended)


def needs_the_raise(keeps: Stop, passes: Stop) -> bool | None:
    """Whether only the one that passes its cancellation on could be stopped."""
    return passes.ended and not keeps.ended


CLAIMS = (
    Claim(
        "a-swallowed-cancellation-stops-nothing",
        "of two workers that were cancelled, only the one that re-raises ended",
        "a worker need not re-raise its cancellation to end",
        needs_the_raise,
    ),
)
