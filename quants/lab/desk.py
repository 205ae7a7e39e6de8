"""A live picture with its controls, until a deadline; then a still one.

desk = Desk(live, seconds=5)
desk.slider("ticks a message", range(1, 100), 1, turn)
await desk.run(look, still)

Who touches the slider gets more time. The still picture stays in the notebook.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import ipywidgets
from IPython.display import DisplayHandle

from quants.lab.controls import Controls
from quants.lab.live import Live, Picture

TOUCHED_SECONDS = 12.0  # more time for who turns something


class Desk:
    """Shows a live picture in a cell, with what turns it.

    Args:
        live: what moves.
        seconds: how long, if nobody touches anything.
    """

    def __init__(self, live: Live, seconds: float) -> None:
        self.live, self.seconds = live, seconds
        self.handle = DisplayHandle()
        self.deadline = 0.0  # set when it runs; 0 again when stopped
        self._controls = Controls(asyncio.get_running_loop())
        self._row = [self._controls.button("Stop", "End this now", self.stop)]

    def slider(
        self, name: str, values: range, value: int, act: Callable[[int], Any]
    ) -> None:
        """A slider left of the stop button; `act` gets each new value."""

        def touched(value: int) -> Any:
            self.deadline = max(self.deadline, time.monotonic() + TOUCHED_SECONDS)
            return act(value)

        self._row.insert(-1, self._controls.slider(name, values, value, touched))

    def stop(self) -> None:
        """End at the next frame."""
        self.deadline = 0.0

    async def run(
        self, look: Callable[[], bool], still: Callable[[], Picture | None]
    ) -> None:
        """Look and draw until the deadline, or until a look says it is over.

        Args:
            look: reads what is shown and updates the picture.
            still: the picture that stays, of all that was seen.
        """
        self.deadline = time.monotonic() + self.seconds
        row, live = ipywidgets.HBox(self._row), self.live
        parts = [row, live.widget, live.words, self._controls.errors]
        self.handle.display(ipywidgets.VBox(parts))
        try:
            await live.run(lambda: look() and time.monotonic() < self.deadline)
        finally:
            if picture := still():
                self.handle.update(picture)
