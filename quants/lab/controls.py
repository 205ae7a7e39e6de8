"""Widgets that act on the loop, whichever thread their kernel calls them on.

Callbacks run on the main loop (ipykernel 7.4), on another thread with another
loop (7.0 to 7.3), or only when the cell has ended (6). One recipe holds on all
of them: capture the loop in the cell, let the callback do nothing but hop to
it. An error in a callback would be seen nowhere; it goes to an output widget.
"""

import asyncio
import inspect
import traceback
from collections.abc import Callable
from typing import Any

import ipywidgets
from IPython.core.getipython import get_ipython


class Controls:
    """Makes widgets whose actions run on one loop.

    Args:
        loop: where actions run; the one of the cell that makes the controls.

    Attributes:
        errors: what actions raised, for the reader to see.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.errors = ipywidgets.Output()
        self._tasks: set[asyncio.Task[Any]] = set()

    def slider(
        self, name: str, values: range, value: int, act: Callable[[int], Any]
    ) -> Any:
        """A slider; `act` gets each value it is moved to."""
        slider = ipywidgets.IntSlider(
            value, values.start, values.stop, values.step, description=name,
            readout_format=",", layout={"width": "30em"},
        )  # fmt: skip
        slider.observe(self.hop(lambda change: act(change["new"])), "value")
        return slider

    def button(self, name: str, tooltip: str, act: Callable[[], Any]) -> Any:
        """A button; `act` runs at each click."""
        button = ipywidgets.Button(description=name, tooltip=tooltip)
        button.on_click(self.hop(lambda _: act()))
        return button

    def hop(self, act: Callable[[Any], Any]) -> Callable[[Any], None]:
        """A callback for any thread; `act` may be a coroutine function."""

        def callback(event: Any) -> None:
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self._act, act, event)
            acknowledge()

        return callback

    def _act(self, act: Callable[[Any], Any], event: Any) -> None:
        try:
            result = act(event)
        except Exception as fault:
            self.show(fault)
            return
        if inspect.iscoroutine(result):
            task = self.loop.create_task(result)
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()):
            self.show(fault)

    def show(self, fault: BaseException) -> None:
        """Write an error below the controls."""
        self.errors.append_stderr("".join(traceback.format_exception(fault)))


def acknowledge() -> None:
    """Tell the page that the message which called us is handled.

    ipykernel 7.4 handles it while a cell awaits, but does not say so, and the
    page then keeps all later values of that widget to itself.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return
    try:
        parent = kernel.get_parent("shell")
    except LookupError:  # ipykernel 7.0, on a thread that is none of the kernel's
        return
    if parent and parent["header"]["msg_type"] == "comm_msg":
        idle = {"execution_state": "idle"}
        kernel.session.send(kernel.iopub_socket, "status", idle, parent=parent)
