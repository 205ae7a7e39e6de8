"""The exercise of notebook 01: run coroutines together, and miss nothing."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from quants.lab.exercise import Answer, Case, Exercise
from quants.lab.tasks import names

PATIENCE = 0.4  # seconds for one case


async def supervise(*coros: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run coroutines together; a list of their results, in order.

    When one fails, the others are cancelled, they get the time to tidy up,
    and then its error is raised, alone or in an ExceptionGroup.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coro) for coro in coros]
    return [task.result() for task in tasks]


class Trial:
    """Coroutines to supervise, and what they note on their way.

    Attributes:
        notes: what those that were cancelled did.
        started: set by the one that stays.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.started = asyncio.Event()

    async def gives(self, value: int, turns: int) -> int:
        """A value, after some turns of the loop."""
        for _ in range(turns):
            await asyncio.sleep(0)
        return value

    async def starts(self) -> int:
        """What another one waits for."""
        self.started.set()
        return 3

    async def fails(self) -> None:
        """An error, as soon as another one has started."""
        await self.started.wait()
        raise ValueError("no price")

    async def stays(self) -> None:
        """For ever; tidies up when cancelled, which takes a moment."""
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.notes.append("cancelled")
            await asyncio.sleep(0.01)
            self.notes.append("tidied up")


Work = Callable[[Trial], list[Coroutine[Any, Any, Any]]]
Look = Callable[[Any, list[str]], Any]  # at the outcome, and at the notes


def supervised(answer: Answer, work: Work, look: Look, stop: bool = False) -> Any:
    """What an answer makes of some coroutines; with `stop` it is cancelled."""
    trial = Trial()
    coros = work(trial)

    async def main() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        running = asyncio.ensure_future(answer(*coros))
        if stop:
            await asyncio.wait_for(trial.started.wait(), PATIENCE)
            running.cancel()
        done, _ = await asyncio.wait({running}, timeout=PATIENCE)
        return look(outcome(running) if done else "no end", trial.notes.copy())

    try:
        return asyncio.run(main())
    finally:
        for coro in coros:
            coro.close()  # one that nobody awaited would warn


def outcome(running: asyncio.Future[Any]) -> Any:
    """A result, or the names of the errors."""
    if running.cancelled():
        return "cancelled"
    fault = running.exception()
    return names(fault) if fault else running.result()


def the_outcome(outcome: Any, _: list[str]) -> Any:
    """What a case may look at: the result or the error,"""
    return outcome


def the_notes(_: Any, notes: list[str]) -> Any:
    """or what became of the one that stays."""
    return notes


SUPERVISE = Exercise(
    supervise,
    (
        Case(
            (lambda t: [t.started.wait(), t.starts()], lambda out, _: out != "no end"),
            True,
            "The first one waits for the last one, so they must run at the same "
            "time: start all of them, then wait.",
            supervised,
        ),
        Case(
            (lambda t: [t.gives(n, 9 - 3 * n) for n in (1, 2, 3)], the_outcome),
            [1, 2, 3],
            "The results belong in a list, in the order of the arguments, "
            "whichever ended first.",
            supervised,
        ),
        Case(
            (lambda t: [t.starts(), t.fails()], the_outcome),
            "ValueError: no price",
            "One of them raised ValueError, and it did not come out: a result "
            "that is an error is still an error.",
            supervised,
        ),
        Case(
            (lambda t: [t.stays(), t.fails()], lambda _, notes: notes[:1]),
            ["cancelled"],
            "One failed, and the other one is still running: cancel it.",
            supervised,
        ),
        Case(
            (lambda t: [t.stays(), t.fails()], the_notes),
            ["cancelled", "tidied up"],
            "The other one was cancelled and had no time to tidy up: a "
            "cancellation is a request, so wait for the end.",
            supervised,
        ),
        Case(
            (lambda t: [t.stays()], the_notes),
            ["cancelled", "tidied up"],
            "Who cancels `supervise` means all of them: pass the cancellation on.",
            partial(supervised, stop=True),
        ),
    ),
    "asyncio.TaskGroup does all of it but one: it forgets the results. Keep the "
    "tasks that it makes, and ask each for task.result() when the block is over.",
)
