"""Figures that say what they show, and the way to make one move.

A live picture costs its loop time, so only what moves is drawn again: the
rest is copied from a background (blitting), and frames are left out until
drawing takes a tenth of the loop at most. Never pyplot: its figures are global,
and callbacks of some kernels run on other threads.
"""

import asyncio
import platform
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from html import escape
from typing import Any, Literal

import ipywidgets
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from quants.errors import QuantsError
from quants.host import available_cores
from quants.lab.blit import Blit, picture_of, saved
from quants.lab.renderer import Renderer

Render = Literal["loop", "process"]

DPI = 100
FRAME_SECONDS = 1 / 8  # between two looks, and frames at the soonest
SHARE = 0.1  # of the loop's time, at most
# Colours that colour-blind readers tell apart (Okabe and Ito, 2008).
BLUE, SKY, GREEN, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00"
VERMILION, PURPLE, GREY, INK = "#D55E00", "#CC79A7", "#8A8A8A", "#222222"


FOR_SCREEN_READERS = '<span style="position: absolute; left: -9999px">{}</span>'


class Undescribed(QuantsError):
    """A figure that does not say what it shows."""


class Picture:
    """A figure with a title, units, a sample size and a text for the blind.

    Subclasses draw into `figure`; it is refused while something is missing.

    Attributes:
        title: what is seen, one line.
        n: the sample, such as "n = 4,990 ticks".
        alt: what a reader who cannot see it needs to know.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        self.canvas = FigureCanvasAgg(self.figure)
        self.title = self.n = self.alt = ""

    def undescribed(self) -> list[str]:
        """What the figure does not say."""
        said = {"a title": self.title, "n": self.n, "an alt text": self.alt}
        missing = [name for name, text in said.items() if not text]
        return missing + [
            name for axes in self.figure.axes for name in unlabelled(axes)
        ]

    def refuse_undescribed(self) -> None:
        """Raise Undescribed unless everything is said."""
        if missing := self.undescribed():
            raise Undescribed(f"figure {self.title!r} lacks {', '.join(missing)}")

    def png(self) -> bytes:
        """The figure as it stands; in few colours, for it is committed."""
        self.refuse_undescribed()
        self.canvas.draw()
        few = picture_of(self.canvas).quantize(128, dither=Image.Dither.NONE)
        return saved(few, "PNG", optimize=True)

    def bundle(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The figure for IPython: the picture, and the text in its place."""
        shown = {"alt": self.alt, "width": self.width, "height": self.height}
        return {"image/png": self.png(), "text/plain": self.alt}, {"image/png": shown}

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.bundle()


def unlabelled(axes: Axes) -> list[str]:
    """The axes of a panel without a label that names its unit in brackets."""
    labels = {"x": axes.get_xlabel(), "y": axes.get_ylabel() or axes.get_title("left")}
    shown = {"x": axes.xaxis.get_visible(), "y": axes.yaxis.get_visible()}
    return [
        f"a unit on the {name} axis"
        for name, label in labels.items()
        if shown[name] and "(" not in label
    ]


def interpreter() -> str:
    """What a figure must be read with: interpreter and cores."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    cores = available_cores()
    return f"{python}, {cores} core{'s' if cores > 1 else ''}"


def frame_is_due(since_last: float, draw_seconds: float) -> bool:
    """Whether a frame fits into a tenth of the loop's time; one a second does."""
    return since_last >= min(1.0, draw_seconds / SHARE)


class Live:
    """A picture that moves, in an image widget.

    Args:
        picture: what is shown; described before its first frame.
        moving: the artists that change between frames, lowest first.
        render: where it is drawn; another process takes nothing from the loop.
    """

    def __init__(
        self,
        picture: Picture,
        moving: Sequence[Artist],
        render: Render = "loop",
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        picture.refuse_undescribed()
        self.picture, self.moving, self.render = picture, moving, render
        self.widget = ipywidgets.Image(
            format="jpeg", width=picture.width, height=picture.height
        )
        self.widget.add_class("live-picture")
        # An image widget takes no alt text, and its view fails on a tooltip.
        self.words = ipywidgets.HTML(FOR_SCREEN_READERS.format(escape(picture.alt)))
        self.frames = 0
        self.draw_seconds = 0.0  # of the loop, for the last frame that only moved
        self._clock, self._sleep = clock, sleep
        self._blit = Blit(picture.canvas, moving)
        self._renderer: Renderer | None = None

    def limits_changed(self) -> None:
        """The next frame draws axes and ticks again; some ten times the cost."""
        self._blit.limits_changed()
        if self._renderer is not None:
            self._renderer.again()

    def draw(self) -> None:
        """Draw one frame and hand it to the widget."""
        self._blit.prepare()
        begun = self._clock()
        self._show(self._blit.jpeg(), self._clock() - begun)

    def _show(self, jpeg: bytes, seconds: float) -> None:
        self.widget.value = jpeg
        self.frames += 1
        self.draw_seconds = seconds

    async def run(self, update: Callable[[], bool]) -> None:
        """Update, and draw when that is due, until `update` says it is over."""
        async with AsyncExitStack() as stack:
            if self.render == "process":
                drawn = Renderer(self.picture.figure, self.moving)
                self._renderer = await stack.enter_async_context(drawn)
            last = -1.0
            while update():
                if frame_is_due((now := self._clock()) - last, self.draw_seconds):
                    await self._frame()
                    last = now
                await self._sleep(FRAME_SECONDS)
        self._renderer = None

    async def _frame(self) -> None:
        if self._renderer is None:
            self.draw()
        else:
            self._show(await self._renderer.frame(), 0.0)
