"""When ticks leave: at a steady rate, or at the times they were recorded.

A pace decides and never waits. The server asks it how many ticks are due, how
long until the next one is, and when that one should have left: the latter is
what latency is measured from, so a stall cannot hide itself.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from quants.frame import MAX_ROWS
from quants.tick import NO_ROWS, Rows, Symbol

MAX_WAKE_UP_ROWS = 16 * MAX_ROWS  # then the loop gets its turn
AS_FAST_AS_TAKEN = math.inf  # a tick rate, and a replay speed


class Source(Protocol):
    """Where ticks come from: a market, a recording."""

    @property
    def symbols(self) -> Sequence[Symbol]:
        """The table that the rows' symbol column points into."""

    def take(self, n: int) -> Rows:
        """The next n rows, or fewer when the source ends."""


@runtime_checkable
class Gapped(Protocol):
    """A source that lacks some of its ticks, and knows where."""

    def missing(self) -> int:
        """How many it lacks before its next row; each hole is told once."""


class Recorded(Source, Protocol):
    """A source that ends, knows its times, and can be read again."""

    @property
    def holes(self) -> Mapping[int, int]:
        """Ticks that it lacks, by how many it has before them."""

    @property
    def ticks(self) -> int:
        """How many there are."""

    @property
    def first_time_ns(self) -> int:
        """Event time of the first tick."""

    @property
    def last_time_ns(self) -> int:
        """The latest event time."""

    def rewind(self) -> None:
        """Begin again with the first tick."""


class Pace(Protocol):
    """When to send; `now` is a clock in seconds, `sent` counts all ticks."""

    def begin(self, now: float, sent: int) -> None:
        """The first tick is due now."""

    def due(self, now: float, sent: int) -> int:
        """Ticks to send now."""

    def wait(self, now: float, sent: int) -> float:
        """Seconds until the next tick is due."""

    def intended(self, now: float, sent: int) -> float:
        """Seconds after the beginning at which the next tick should leave."""


def due(elapsed: float, tick_rate: float, sent: int) -> int:
    """Ticks to send now: tick k leaves no earlier than k / tick_rate."""
    if tick_rate == AS_FAST_AS_TAKEN:
        return MAX_WAKE_UP_ROWS
    owed = math.floor(elapsed * tick_rate) + 1 - sent
    return min(max(0, owed), MAX_WAKE_UP_ROWS)


def carried(elapsed: float, tick_rate: float, sent: int) -> float:
    """Ticks owed at a change of rate: a late one's wait, or less than a whole."""
    return 0.0 if tick_rate == AS_FAST_AS_TAKEN else elapsed * tick_rate - sent


def intended(elapsed: float, tick_rate: float, sent: int) -> float:
    """Seconds after the first tick at which the next one should leave."""
    return elapsed if tick_rate == AS_FAST_AS_TAKEN else sent / tick_rate


class SteadyPace:
    """So many ticks a second; the rate can be turned while it runs."""

    def __init__(self, tick_rate: float, now: float = 0.0) -> None:
        self.tick_rate = tick_rate
        self.begin(now, 0)

    def __str__(self) -> str:
        return f"{self.tick_rate:g} ticks/s"

    def begin(self, now: float, sent: int) -> None:
        """The first tick is due now."""
        self._began = self._since = now
        self._sent = sent  # before `since`, which a turn moves

    def turn(self, tick_rate: float, now: float, sent: int) -> None:
        """Another rate from now on; no tick is early or forgotten."""
        owed = carried(now - self._since, self.tick_rate, sent - self._sent)
        self._since, self._sent = now - owed / tick_rate, sent
        self.tick_rate = tick_rate

    def due(self, now: float, sent: int) -> int:
        """Ticks to send now."""
        return due(now - self._since, self.tick_rate, sent - self._sent)

    def wait(self, now: float, sent: int) -> float:
        """Seconds until the next tick is due."""
        return self._since + (sent - self._sent) / self.tick_rate - now

    def intended(self, now: float, sent: int) -> float:
        """Seconds after the beginning at which the next tick should leave."""
        seconds = intended(now - self._since, self.tick_rate, sent - self._sent)
        return self._since - self._began + seconds


class Replay:
    """A recording as a source that sets its own pace.

    Args:
        recording: read from its beginning.
        speed: 1 keeps the original gaps, 2 halves them; infinity keeps none.
        loop_times: how often it is read; event times go on growing.
    """

    def __init__(
        self, recording: Recorded, speed: float = 1.0, loop_times: int = 1
    ) -> None:
        self.recording, self.speed, self.loops_left = recording, speed, loop_times - 1
        self._ahead, self._offsets = NO_ROWS, np.empty(0)
        self._holes, self._taken = dict(recording.holes), 0
        self._shift_ns = 0  # of this reading's event times
        self._latest = 0.0  # seconds; times that step back do not

    def __str__(self) -> str:
        return f"replay at speed {self.speed:g}"

    @property
    def symbols(self) -> Sequence[Symbol]:
        """The recording's table."""
        return self.recording.symbols

    def take(self, n: int) -> Rows:
        """The next n rows, or fewer: up to a hole, or what was read ahead."""
        self._read_ahead()
        holes = (hole for hole in self._holes if hole > self._taken)
        n = min(n, next(holes, self._taken + n) - self._taken)
        rows, self._ahead = self._ahead[:n], self._ahead[n:]
        self._offsets = self._offsets[n:]
        self._taken += len(rows)
        return rows

    def missing(self) -> int:
        """How many ticks are missing before the next one; told once."""
        self._read_ahead()
        return self._holes.pop(self._taken, 0)

    def begin(self, now: float, sent: int) -> None:
        """The first tick is due now."""
        self._began = now

    def due(self, now: float, sent: int) -> int:
        """Ticks to send now; one at the end, so that `take` says it is over."""
        self._read_ahead()
        ready = np.searchsorted(self._offsets, now - self._began, side="right")
        return int(ready) if len(self._ahead) else 1

    def wait(self, now: float, sent: int) -> float:
        """Seconds until the next tick is due."""
        self._read_ahead()
        return float(self._offsets[0]) - (now - self._began)

    def intended(self, now: float, sent: int) -> float:
        """Seconds after the beginning at which the next tick should leave."""
        if self.speed == AS_FAST_AS_TAKEN or not len(self._offsets):
            return now - self._began
        return float(self._offsets[0])

    def _read_ahead(self) -> None:
        """Hold the next rows and when each is due, unless it is all over."""
        if len(self._ahead):
            return
        rows = self.recording.take(MAX_WAKE_UP_ROWS)
        if not len(rows) and self.loops_left > 0:
            rows = self._again()
        if self._shift_ns:
            rows = rows.copy()
            rows["time_ns"] += self._shift_ns
        self._ahead, self._offsets = rows, self._due_seconds(rows)

    def _again(self) -> Rows:
        first, last = self.recording.first_time_ns, self.recording.last_time_ns
        mean_gap = (last - first) // max(1, self.recording.ticks - 1)
        self._shift_ns += last - first + mean_gap
        self.loops_left -= 1
        for before, missing in self.recording.holes.items():
            at = self._taken + before
            self._holes[at] = self._holes.get(at, 0) + missing
        self.recording.rewind()
        return self.recording.take(MAX_WAKE_UP_ROWS)

    def _due_seconds(self, rows: Rows) -> npt.NDArray[np.float64]:
        seconds = (rows["time_ns"] - self.recording.first_time_ns) / 1e9 / self.speed
        if len(seconds):
            seconds = np.maximum.accumulate(np.maximum(seconds, self._latest))
            self._latest = float(seconds[-1])
        return seconds
