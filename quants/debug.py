"""Debug records: from every module to stderr, and never written on the loop.

A record costs its caller a queue's append; a thread formats and writes it. One
a second of each kind passes: those between are counted, and the next of their
kind, or the end, says how many there were.
"""

import logging
import logging.handlers
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOGGERS = ("quants", "asyncio")
FORMAT = "%(asctime)s %(name)s %(message)s"


class Repeats(logging.Filter):
    """Lets the first record of a kind pass, then one a second, and counts.

    A kind is a logger with its unformatted message.
    """

    def __init__(
        self, seconds: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self.seconds, self._clock = seconds, clock
        self._passed: dict[tuple[str, str], float] = {}
        self.counted: dict[tuple[str, str], int] = {}  # since the last that passed

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write this one; adds the count of those that were not."""
        kind, now = (record.name, str(record.msg)), self._clock()
        if now - self._passed.get(kind, float("-inf")) < self.seconds:
            self.counted[kind] = self.counted.get(kind, 0) + 1
            return False
        self._passed[kind] = now
        if more := self.counted.pop(kind, 0):
            record.msg = f"{record.msg} (and {more} before)"
        return True


@contextmanager
def debug_records(wanted: bool) -> Iterator[None]:
    """Write the debug records of the package and of asyncio while this lasts."""
    if not wanted:
        yield
        return
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(records)
    repeats = Repeats()
    handler.addFilter(repeats)
    screen = logging.StreamHandler()
    screen.setFormatter(logging.Formatter(FORMAT))
    listener = logging.handlers.QueueListener(records, screen)
    before = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.DEBUG)
    listener.start()
    try:
        yield
    finally:
        for (name, message), more in repeats.counted.items():
            last = {"name": name, "msg": f"{more} more: {message}"}
            handler.emit(logging.makeLogRecord(last))
        for name, level in before.items():
            logging.getLogger(name).removeHandler(handler)
            logging.getLogger(name).setLevel(level)
        listener.stop()
