"""A circuit breaker: when not to ask somebody who does not answer.

    closed     every call may ask; `threshold` failures in a row open it
    open       nobody asks, for `probe_seconds`
    half open  one call asks: an answer closes the breaker, a failure opens it

It neither calls nor waits: who calls asks it first and tells it what came.
"""

import time
from collections.abc import Callable
from enum import IntEnum


class State(IntEnum):
    """What a breaker does with calls; the number is the metric's."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Decides whether a call may be made.

    Attributes:
        open_since: clock reading of the outage's begin; None while closed.
        opened: outages; a probe that fails does not begin a new one.
        refused: calls that were not admitted.
    """

    def __init__(
        self,
        threshold: int = 2,
        probe_seconds: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.threshold, self.probe_seconds = threshold, probe_seconds
        self.state = State.CLOSED
        self.open_since: float | None = None
        self.opened = self.refused = 0
        self._clock = clock
        self._failures = 0  # in a row
        self._probe_at = 0.0  # clock reading from which a call may ask
        self._past_seconds = 0.0  # of the outages that are over

    def __repr__(self) -> str:
        state = self.state.name.lower().replace("_", " ")
        return f"<Breaker {state}, opened {self.opened}, {self.refused} refused>"

    @property
    def away_seconds(self) -> float:
        """How long it was not closed, all outages together."""
        if self.open_since is None:
            return self._past_seconds
        return self._past_seconds + self._clock() - self.open_since

    def admits(self) -> bool:
        """Whether a call may be made now."""
        if self.state is State.CLOSED:
            return True
        now = self._clock()
        if now < self._probe_at:
            self.refused += 1
            return False
        self.state = State.HALF_OPEN
        # If nobody tells what became of this probe, another one may go then.
        self._probe_at = now + self.probe_seconds
        return True

    def succeeded(self) -> None:
        """A call was answered."""
        self._past_seconds = self.away_seconds
        self.state, self.open_since, self._failures = State.CLOSED, None, 0

    def failed(self) -> None:
        """A call was not answered."""
        self._failures += 1
        if self.state is State.HALF_OPEN:
            self._open()
        elif self.state is State.CLOSED and self._failures >= self.threshold:
            self.opened += 1
            self.open_since = self._clock()
            self._open()

    def _open(self) -> None:
        self.state = State.OPEN
        self._probe_at = self._clock() + self.probe_seconds
