"""A live picture in a cell while something runs, and then a still one."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import ipywidgets
from IPython.display import DisplayHandle

from quants.lab.live import Live, Picture
from quants.lab.session import Session, end


@asynccontextmanager
async def screen(
    lab: Session, live: Live, look: Callable[[], Any], still: Callable[[], Picture]
) -> AsyncIterator[None]:
    """Show a live picture inside the block, and leave a still one.

    Args:
        look: sets what moves, before each frame.
        still: the picture that stays.
    """
    handle = DisplayHandle()
    handle.display(ipywidgets.VBox([live.widget, live.words]))

    def update() -> bool:
        look()
        return True

    drawing = lab.start(live.run(update))
    try:
        yield
    finally:
        await end(drawing)
        handle.update(still())
