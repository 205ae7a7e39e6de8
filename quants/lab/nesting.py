"""What nest_asyncio does to a process: looked at in another one.

It lets a running loop be run again, which `asyncio.run` refuses in a cell. For
that it replaces the tasks of the whole process, and never puts them back.
"""

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass

from quants.host import running
from quants.lab.claims import Claim

SECONDS = 20.0  # for all of it

FUNCTIONS = """\
def first():
    order.append("the first begins")
    loop.run_until_complete(asyncio.sleep(0))
    order.append("the first ends")

loop.call_soon(first)
loop.call_soon(order.append, "the second runs")"""

NESTED = f"""
import asyncio, json, nest_asyncio, time

async def nothing(): pass

async def microseconds(n=2000):
    since = time.process_time()
    for _ in range(n):
        await asyncio.create_task(nothing())
    return (time.process_time() - since) / n * 1e6

def cost(loop):
    return min(loop.run_until_complete(microseconds()) for _ in range(20))

loop, order = asyncio.new_event_loop(), []
plain = cost(loop)
nest_asyncio.apply(loop)

{FUNCTIONS}
loop.run_until_complete(asyncio.sleep(0.01))
print(json.dumps([asyncio.Task.__module__, plain, cost(loop), order]))
"""


@dataclass(frozen=True)
class Nested:
    """What nest_asyncio did to a process.

    Attributes:
        tasks_from: the module that tasks come from; C's is `_asyncio`.
        plain_us, nested_us: a task, made and awaited, before and after.
        order: what two plain functions noted that were called in turn.
    """

    tasks_from: str
    plain_us: float
    nested_us: float
    order: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"{', '.join(self.order)}; a task took {self.plain_us:.1f} µs before "
            f"and {self.nested_us:.1f} µs after, {self.nested_us / self.plain_us:.1f} "
            f"times as long, for tasks are made by {self.tasks_from} now."
        )


async def nested() -> Nested | None:
    """Apply nest_asyncio in a process of its own; None if that has none."""
    return await asyncio.to_thread(_nested)


def _nested() -> Nested | None:
    command = [sys.executable, "-c", NESTED]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with running(command, **pipes) as child:
        told = child.communicate(timeout=SECONDS)[0]
    if child.returncode != 0:
        return None
    tasks_from, plain, after, order = json.loads(told)
    return Nested(tasks_from, plain, after, tuple(order))


def lets_others_in(found: Nested | None) -> bool | None:
    """Whether a function without an await was interrupted by another one."""
    if found is None:
        return None
    return found.order[1] == "the second runs"


CLAIMS = (
    Claim(
        "nesting-lets-others-in",
        "with nested loops, a plain function is interrupted in the middle",
        "with nested loops, a plain function still runs to its end undisturbed",
        lets_others_in,
        "nest_asyncio is not installed here, or refuses this Python",
    ),
)
