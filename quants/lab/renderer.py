"""Drawing in a process of its own: the loop only hands over what has moved.

The process gets a copy of the figure once, and again when an axis has changed.
Of each frame it gets the data of what moves, some hundred bytes, and answers
with a picture. It needs a start of a second or two, and a core to run on.
"""

import asyncio
import multiprocessing
import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Self

from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from quants.lab.blit import Blit

State = tuple[Any, ...]


def state_of(artist: Artist) -> State:
    """What of an artist may change from frame to frame."""
    if isinstance(artist, Line2D):
        return tuple(artist.get_data())
    if isinstance(artist, Rectangle):
        return tuple(artist.get_bbox().bounds)
    if isinstance(artist, Text):
        return artist.get_text(), artist.get_position(), artist.get_color()
    raise TypeError(f"a {type(artist).__name__} cannot be drawn in another process")


def apply(state: State, artist: Artist) -> None:
    """Give an artist the state of its twin."""
    if isinstance(artist, Line2D):
        artist.set_data(*state)
    elif isinstance(artist, Rectangle):
        artist.set_bounds(*state)
    elif isinstance(artist, Text):
        text, position, colour = state
        artist.set_text(text)
        artist.set_position(position)
        artist.set_color(colour)


class Renderer:
    """A process that draws a figure; it ends with this block, or with us.

    Args:
        figure: copied when the block begins, and at `again`.
        moving: the artists of it whose states are handed over.
    """

    def __init__(self, figure: Figure, moving: Sequence[Artist]) -> None:
        self.figure, self.moving = figure, moving

    def __repr__(self) -> str:
        return f"<Renderer of {len(self.moving)} moving artists>"

    async def __aenter__(self) -> Self:
        # Never fork: a kernel has threads that hold locks.
        spawn = multiprocessing.get_context("spawn")
        self._ours, theirs = spawn.Pipe()
        self._process = spawn.Process(target=draw_frames, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.again()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ours.close()
        self._process.kill()  # it has nothing to finish
        await asyncio.to_thread(self._process.join)

    def again(self) -> None:
        """Hand the whole figure over; its axes have changed."""
        self._ours.send((self.figure, list(self.moving)))

    async def frame(self) -> bytes:
        """The picture of this moment, as a JPEG."""
        self._ours.send([state_of(each) for each in self.moving])
        return await asyncio.to_thread(self._ours.recv_bytes)


# ---- in the process


def draw_frames(pipe: Connection) -> None:
    """Draw what comes, until nobody listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Stop is meant for the kernel
    with suppress(EOFError, OSError):
        while True:
            match pipe.recv():
                case (Figure() as figure, moving):
                    blit = Blit(FigureCanvasAgg(figure), moving)
                case states:
                    for state, artist in zip(states, moving, strict=True):
                        apply(state, artist)
                    pipe.send_bytes(blit.jpeg())
