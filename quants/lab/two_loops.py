"""asyncio's own loop and uvloop's, each in a thread: an echo, and short naps.

A nap is an `await asyncio.sleep` of a millisecond or two. uvloop counts time in
whole milliseconds, and rounds: what rounds to none is no nap at all.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.live import BLUE, GREY, VERMILION
from quants.lab.own_loop import LoopThread, uvloop_factory
from quants.lab.session import session

ECHOES, TRIES = 1000, 5  # the quickest try counts
MESSAGE = bytes(100)
ASKED_MS = tuple(tenth / 10 for tenth in range(1, 31))
NAPS = 4  # of each length
EARLY = 0.9  # a nap is early below this share of what was asked


@dataclass(frozen=True)
class Loop:
    """What one loop did.

    Attributes:
        echo_us: CPU time of an echo, both its ends on this loop.
        naps: milliseconds asked for, and got.
    """

    name: str
    echo_us: float
    naps: tuple[tuple[float, float], ...]

    @property
    def early(self) -> int:
        """Naps that ended clearly too early."""
        return sum(got < EARLY * asked for asked, got in self.naps)

    def __repr__(self) -> str:
        return (
            f"{self.name}: an echo takes {self.echo_us:.0f} µs of CPU; {self.early} "
            f"of {len(self.naps)} naps ended early."
        )


@dataclass(frozen=True)
class Loops:
    """The same work on asyncio's loop and on uvloop's, where there is one."""

    all: tuple[Loop, ...]

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.all))

    def picture(self) -> Chart:
        """Naps: asked for, and got."""
        chart = Chart(
            "How long a short nap really is",
            n=f"n = {NAPS} naps of each length",
            alt="Milliseconds asked for across, milliseconds got upwards, one dot for "
            "each nap, and a line where both are the same. asyncio's dots lie above "
            "the line; uvloop's form stairs that cross it, and begin at nothing.",
        )
        panel = chart.panel("asked for (ms)", "got (ms)")
        panel.plot([0, 3], [0, 3], color=GREY, linewidth=1)
        colours = (BLUE, VERMILION)
        for loop, colour in zip(self.all, colours, strict=False):
            asked, got = zip(*loop.naps, strict=True)
            panel.plot(asked, got, "o", color=colour, alpha=0.5, markersize=4)
        panel.set_ylim(0, 5)  # a busy machine may wake one later still
        chart.key([loop.name for loop in self.all], colours)
        return chart


async def two_loops(echoes: int = ECHOES, naps: int = NAPS) -> Loops:
    """Try asyncio's loop, then uvloop's, each in a thread of its own."""
    await session()
    loops = [("asyncio", None), ("uvloop", uvloop_factory())]
    there = [(name, new) for name, new in loops if new or name == "asyncio"]
    return Loops(
        tuple([await asyncio.to_thread(tried, *each, echoes, naps) for each in there])
    )


def tried(
    name: str,
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None,
    echoes: int,
    naps: int,
) -> Loop:
    """What one loop does, in a thread of its own."""
    with LoopThread(new_loop) as thread:
        tries = [thread.start_task(echo(echoes)).result() for _ in range(TRIES)]
        return Loop(name, min(tries), thread.start_task(napped(naps)).result())


async def echo(times: int) -> float:
    """Send a message and await its echo, again and again; CPU µs of each."""
    server = await asyncio.start_server(send_back, "127.0.0.1", 0)
    async with server:
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        since = time.thread_time()
        for _ in range(times):
            writer.write(MESSAGE)
            await reader.readexactly(len(MESSAGE))
        used = time.thread_time() - since
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    return used / times * 1e6


async def send_back(reader: asyncio.StreamReader, writer: Any) -> None:
    """The other end: all that comes goes back."""
    while message := await reader.read(len(MESSAGE)):
        writer.write(message)
    writer.close()


async def napped(times: int) -> tuple[tuple[float, float], ...]:
    """Naps of all lengths, asked for and got, in milliseconds."""
    found = []
    for asked_ms in ASKED_MS * times:
        since = time.perf_counter()
        await asyncio.sleep(asked_ms / 1e3)
        found.append((asked_ms, 1e3 * (time.perf_counter() - since)))
    return tuple(found)


def wakes_early(loops: Loops) -> bool | None:
    """Whether uvloop ends naps too early, and asyncio none."""
    if len(loops.all) < 2:
        return None
    asyncio_loop, uvloop = loops.all
    return uvloop.early > 0 if not asyncio_loop.early else None


CLAIMS = (
    Claim(
        "uvloop-rounds-a-nap",
        "uvloop ends some naps before their time, asyncio none",
        "uvloop ends no nap before its time",
        wakes_early,
        "there is no uvloop here, or asyncio ended naps early as well",
    ),
)
