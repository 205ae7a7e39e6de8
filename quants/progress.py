"""Progress: a bar for who waits at a terminal, and nothing in a pipe.

Work that counts moves its bar itself, which is drawn on the way. Work that
does not is looked at from beside, twice a second: a thread asks the file where
it is, or the server what it sent. Either way a row pays nothing.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import BinaryIO

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from quants.onlooker import onlooker

FRAMES_PER_SECOND = 2

Look = Callable[[], tuple[float, float]]  # how much is done, and of how much


def bar_on(console: Console) -> Progress:
    """A bar that is drawn when it is told to, and gone in the end."""
    return Progress(
        console=console,
        transient=True,
        auto_refresh=False,
        redirect_stdout=False,  # what is printed belongs to stdout, bar or not
        disable=not console.is_interactive,
    )


@contextmanager
def progress(
    title: str, total: float, console: Console | None = None
) -> Iterator[Callable[[float], None]]:
    """A bar that the work moves by calling what the block gets."""
    with bar_on(console or Console(stderr=True)) as bar:
        task = bar.add_task(escape(title), total=total)
        due = time.monotonic()

        def advance(more: float) -> None:
            nonlocal due
            bar.advance(task, more)
            if time.monotonic() >= due:
                due = time.monotonic() + 1 / FRAMES_PER_SECOND
                bar.refresh()

        yield advance


@contextmanager
def watched(title: str, look: Look, console: Console | None = None) -> Iterator[None]:
    """A bar that a thread moves for as long as the block runs."""
    with bar_on(console or Console(stderr=True)) as bar:
        if bar.disable:
            yield
            return
        task, over = bar.add_task(escape(title), total=None), Event()

        def draw() -> None:
            done, total = look()
            bar.update(task, completed=done, total=total, refresh=True)

        def keep_drawing() -> None:
            while not over.wait(1 / FRAMES_PER_SECOND):
                draw()

        thread = Thread(target=keep_drawing, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            draw()


@contextmanager
def reading(title: str, console: Console | None = None) -> Iterator[None]:
    """A bar for each file that is read in the block, one after the other."""
    files = deque[BinaryIO](maxlen=1)
    token = onlooker.set(files.append)
    try:
        with watched(title, lambda: position(*files), console):
            yield
    finally:
        onlooker.reset(token)


def position(file: BinaryIO | None = None) -> tuple[int, int]:
    """Bytes that were read of a file, and its size."""
    if file is None:
        return 0, 1
    try:
        return file.tell(), max(1, os.fstat(file.fileno()).st_size)
    except ValueError:  # it is closed: somebody is done with it
        return 1, 1
