"""What the event loop was doing when it stalled.

A loop that is stuck cannot look at itself, and a thread that looks needs the
GIL, which the culprit may hold. `faulthandler` needs none: before each sleep
the heartbeat has it write down every stack, unless the next beat comes in time.
A stack that ends in `select` blames nobody here: the machine had no time for
us. One in which objects are made may have been the garbage collector's pause.
"""

import faulthandler
import logging
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event, Lock, Thread, get_ident
from types import TracebackType
from typing import NamedTuple, Self

from quants.histogram import seconds_text
from quants.metrics import Registry

log = logging.getLogger(__name__)

DEPTH = 12  # frames a person reads
THREAD = re.compile(r"^(?:Current t|T)hread 0x(\w+)", re.MULTILINE)
FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)
LOOP = {
    ("asyncio/events.py", "_run"),  # calls what is due
    ("asyncio/runners.py", "run"),  # uvloop does that in C, below this one
    ("core/interactiveshell.py", "run_code"),  # IPython, which runs cells
}


class Frame(NamedTuple):
    """A function that was running, and where in it."""

    function: str
    file: str  # with the folder it lies in
    line: int

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})"


class Stall(NamedTuple):
    """One time that the loop did not come round.

    Attributes:
        at_seconds: since the heartbeat began, when the stall was over.
        seconds: how late the heartbeat was.
        stack: innermost first; empty if it could not be seen.
    """

    at_seconds: float
    seconds: float
    stack: tuple[Frame, ...]

    def __str__(self) -> str:
        where = " < ".join(map(str, self.stack)) or "a stack that was not seen"
        return f"{seconds_text(self.seconds)} in {where}"


class Stalls:
    """Counts the stalls of a loop, and keeps the last ones with their stacks.

    A process has one such timer. Who enters first has it; others count, and
    see no stack. A timer that somebody else set by `dump_traceback_later` is
    lost, nobody can ask for it; `faulthandler.enable` is another matter.

    Cost: 25 us, and waking a thread twice, to set the timer anew. So one timer
    serves as many beats as it can: it goes off when one of them is late by a
    third of the limit at least, by the limit at most.

    Args:
        limit_seconds: a heartbeat later than this is a stall; asyncio's debug
            mode calls the same time slow.
        keep: how many of the last stalls.
        clock: the one that faulthandler goes by.
    """

    _timer = Lock()  # the process's, like the timer itself

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
        self._file: FileIO | None = None  # where the timer writes, if it is ours
        self._goes_off = 0.0  # when it does
        registry.counter(
            "quants_event_loop_stalls_total",
            f"Heartbeats of the event loop at least {limit_seconds:g} s late.",
            lambda: self.count,
        )

    def __repr__(self) -> str:
        return f"<Stalls {self.count}, {self.last[-1] if self.last else 'none kept'}>"

    def __enter__(self) -> Self:
        if self._timer.acquire(blocking=False):
            try:
                self._file = TemporaryFile(buffering=0)
            except OSError:  # nowhere to write: stalls are counted all the same
                self._timer.release()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is None:
            return
        # The timer writes to a file number, which may soon be another file's.
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        self._file = None
        self._timer.release()

    def expect(self, seconds: float) -> None:
        """The next beat is due after so long: look if it is late by the limit."""
        now = self._clock()
        due = now + max(0.0, seconds)
        if self._file is None or self._goes_off >= due + self.limit_seconds / 3:
            return
        self._dumped()  # and forget it: that beat was no stall
        self._goes_off = due + self.limit_seconds
        faulthandler.dump_traceback_later(self._goes_off - now, file=self._file)

    def beat(self, late_seconds: float, at_seconds: float = 0.0) -> None:
        """The beat came, so late; to be called on the loop's own thread."""
        if late_seconds < self.limit_seconds:
            return
        stack = trimmed(stack_in(self._dumped(), get_ident()))
        self.last.append(Stall(at_seconds, late_seconds, stack))
        self.count += 1
        log.debug("the loop stalled: %s", self.last[-1])

    def _dumped(self) -> str:
        """Stop the timer; what it has written."""
        if self._file is None:
            return ""
        faulthandler.cancel_dump_traceback_later()
        self._goes_off = 0.0
        if not self._file.tell():
            return ""
        self._file.seek(0)
        dump = self._file.read().decode("ascii", "replace")
        self._file.seek(0)
        self._file.truncate()
        return dump


def stack_in(dump: str, thread: int) -> tuple[Frame, ...]:
    """A thread's stack in what faulthandler wrote; empty if it is not there."""
    _, *parts = THREAD.split(dump)  # number, stack, number, stack...
    stacks = {int(parts[i], 16): parts[i + 1] for i in range(0, len(parts), 2)}
    return tuple(
        Frame(function, "/".join(Path(file).parts[-2:]), int(line))
        for file, line, function in FRAME.findall(stacks.get(thread, ""))
    )


def trimmed(stack: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """What the loop ran, without the loop; the innermost frame in any case."""
    loop = (i for i, each in enumerate(stack) if (each.file, each.function) in LOOP)
    return stack[: min(max(1, next(loop, DEPTH)), DEPTH)]


class WatcherThread(Thread):
    """Looks where a thread is, from Python: how a culprit is *not* found.

    To look it needs the GIL, and a loop lets go of it where it asks for news.
    Of a loop that works 95 % of the time, in steps of 0.2 ms, 131 to 174 of 200
    samples say `select` and none or one says work. A call in C it never sees.
    Without a GIL it sees all.

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
