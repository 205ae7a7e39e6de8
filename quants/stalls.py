"""What the event loop was doing when it stalled.

A loop that is stuck cannot look at itself, but a thread can: when a heartbeat
is late by the limit it asks for the GIL, and Python code gives it up within
5 ms, a call in C as soon as it returns, in the function that made the call.

`faulthandler.dump_traceback_later` would look at once, without the GIL. That
is its price: it reads frames while they change, and ended this process with
SIGSEGV in six of eight runs of our tests (CPython 3.11).

A stack that ends in `select` blames nobody here: the machine had no time for
us. One in which objects are made may have been the garbage collector's pause.
"""

import logging
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Thread, get_ident
from types import TracebackType
from typing import NamedTuple, Self

from quants.histogram import seconds_text
from quants.metrics import Registry
from quants.sampler import Frame, Stack, stack_of

log = logging.getLogger(__name__)

DEPTH = 12  # frames a person reads
LOOP = {
    ("asyncio.events", "Handle._run"),  # calls what is due
    ("asyncio.runners", "Runner.run"),  # uvloop does that in C, below this one
    ("IPython.core.interactiveshell", "InteractiveShell.run_code"),  # runs cells
}


class Stall(NamedTuple):
    """One time that the loop did not come round.

    Attributes:
        at_seconds: since the heartbeat began, when the stall was over.
        seconds: how late the heartbeat was.
        stack: module, function and line, innermost first; empty if it could
            not be seen.
    """

    at_seconds: float
    seconds: float
    stack: Stack

    def __str__(self) -> str:
        where = " < ".join(map(frame_text, self.stack)) or "a stack that was not seen"
        return f"{seconds_text(self.seconds)} in {where}"


def frame_text(frame: Frame) -> str:
    """A frame as a person reads it."""
    module, function, line = frame
    return f"{function} ({module}:{line})"


@dataclass(slots=True)
class Beat:
    """A heartbeat that is to come."""

    thread: int  # of the loop
    due: float
    missed: bool = False  # once it is late by the limit
    stack: Stack = ()  # what the loop was doing then


class Stalls:
    """Counts the stalls of a loop, and keeps the last ones with their stacks.

    Cost: a thread that wakes up some ten times a second, to find that all is
    well; nothing at a heartbeat.

    Args:
        limit_seconds: a heartbeat later than this is a stall; asyncio's debug
            mode calls the same time slow.
        keep: how many of the last stalls.
        clock: a monotonic one.
    """

    def __init__(
        self,
        registry: Registry,
        limit_seconds: float = 0.1,
        keep: int = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit_seconds, self._clock = limit_seconds, clock
        self.count = 0
        self.last: deque[Stall] = deque(maxlen=keep)
        self._next: Beat | None = None  # set before each sleep of the heartbeat
        registry.counter(
            "quants_event_loop_stalls_total",
            f"Heartbeats of the event loop at least {limit_seconds:g} s late.",
            lambda: self.count,
        )

    def __repr__(self) -> str:
        return f"<Stalls {self.count}, {self.last[-1] if self.last else 'none kept'}>"

    def __enter__(self) -> Self:
        self._over = Event()
        self._watchdog = Thread(target=self._watch, name="stalls", daemon=True)
        self._watchdog.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._watchdog.join()

    def expect(self, seconds: float) -> None:
        """The next beat is due after so long, on this very thread."""
        self._next = Beat(get_ident(), self._clock() + seconds)

    def beat(self, late_seconds: float, at_seconds: float = 0.0) -> None:
        """The beat came, so late."""
        expected, self._next = self._next, None
        if late_seconds < self.limit_seconds:
            return
        stack = expected.stack if expected else ()
        self.last.append(Stall(at_seconds, late_seconds, stack))
        self.count += 1
        log.debug("the loop stalled: %s", self.last[-1])

    def _watch(self) -> None:
        while not self._over.wait(self.patience()):
            beat = self._next
            if beat and self.patience() <= 0:
                beat.missed = True
                here = sys._current_frames().get(beat.thread)
                beat.stack = trimmed(stack_of(here)[::-1])
                del here  # it keeps alive what is in it

    def patience(self) -> float:
        """Seconds until the loop has stalled, if the next beat does not come."""
        beat = self._next
        if beat is None or beat.missed:
            return self.limit_seconds
        return beat.due + self.limit_seconds - self._clock()


def trimmed(stack: Stack) -> Stack:
    """What the loop ran, without the loop; the innermost frame in any case."""
    loop = (i for i, frame in enumerate(stack) if frame[:2] in LOOP)
    return stack[: min(max(1, next(loop, DEPTH)), DEPTH)]


class WatcherThread(Thread):
    """Looks where a thread is, from Python: how a culprit is *not* found.

    To look it needs the GIL. A call that is too long must give it up, which is
    what `Stalls` lives on; a loop of many short ones gives it up where it asks
    for news. Of one that works 95 % of the time, in steps of 0.2 ms, 131 to 174
    of 200 samples said `select`, and none or one said work. Without a GIL it
    sees all.

    Attributes:
        seen: how often it found each function.
    """

    def __init__(self, thread: int, interval: float = 0.005) -> None:
        super().__init__(name="watcher", daemon=True)
        self.watched, self.interval = thread, interval
        self.seen: Counter[str] = Counter()
        self._over = Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        """Take a sample each interval until the end of the `with`."""
        while not self._over.wait(self.interval):
            if frame := sys._current_frames().get(self.watched):
                self.note(frame.f_code.co_qualname)
                del frame  # it keeps alive what is in it

    def note(self, function: str) -> None:
        """Count one sample."""
        self.seen[function] += 1
