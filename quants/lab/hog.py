"""A hog: somebody else's program, that takes its share of the processor."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

HOGS = 2  # threads: three that want the GIL leave each a third of the time


@contextmanager
def hog() -> Iterator[Callable[[], None]]:
    """Threads that work for nothing, like any other program; call to start them."""
    over = Event()

    def work() -> None:
        while not over.is_set():
            sum(range(1000))

    threads = [Thread(target=work, name="hog", daemon=True) for _ in range(HOGS)]

    def start() -> None:
        for thread in threads:
            if not thread.ident:
                thread.start()

    try:
        yield start
    finally:
        over.set()
        for thread in threads:
            if thread.ident:
                thread.join()
