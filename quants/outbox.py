"""The outbox: alerts wait in it, in order and bounded, until Redis has them.

From the first delivery that fails, until all are delivered, a file holds what
waits. So an alert outlives a pump that ends, or is killed, while Redis is away:
the next one with the same file delivers it first. One that had arrived without
our knowing is delivered again, and Redis knows its id.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Self

import msgspec

from quants.alerts import Alert
from quants.errors import EnvironmentFault, NotAsked, RedisFault

ALERTS_PER_CALL = 256

log = logging.getLogger(__name__)


def backoff(failures: int) -> float:
    """Seconds until the next attempt: doubling from 50 ms up to 0.4 s."""
    return min(0.05 * 2.0 ** min(failures - 1, 10), 0.4)


class Outbox:
    """Alerts on their way to Redis, in order; a full one loses the newest.

    Within its block it has a file; at the end what still waits is in there.

    Args:
        capacity: alerts it holds while Redis is away; about 1 KiB each.
        path: the file; without one, what waits ends with the pump.

    Attributes:
        delivered: by rule, those of this run.
        inherited: alerts of an earlier run that were found in the file.
        high_watermark: the most that ever waited.
        lost: alerts that found it full.
        failures: deliveries that failed.
    """

    def __init__(
        self,
        capacity: int = 10_000,
        path: Path | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.capacity, self._sleep = capacity, sleep
        self.journal = Journal(path)
        self.delivered: Counter[str] = Counter()
        self.inherited = self.high_watermark = 0
        self.lost = self.failures = 0
        self._waiting: deque[Alert] = deque()
        self._foreign = 0  # how many at its head are inherited
        self._not_empty, self._empty = asyncio.Event(), asyncio.Event()
        self._empty.set()

    def __repr__(self) -> str:
        return f"<Outbox {len(self)}/{self.capacity}, {self.lost} lost>"

    def __len__(self) -> int:
        return len(self._waiting)

    def __enter__(self) -> Self:
        if not self._waiting:  # else this run was here before, and knows them
            found = self.journal.read()
            self.inherited = self._foreign = len(found)
            self._accept(found)
        return self

    def __exit__(self, *exc: object) -> None:
        self._keep()

    def put(self, alerts: Sequence[Alert]) -> None:
        """Accept alerts for delivery."""
        accepted = alerts[: max(0, self.capacity - len(self._waiting))]
        self.lost += len(alerts) - len(accepted)
        self._accept(accepted)
        if self.journal.lines and accepted:
            self.journal.append(accepted)

    def _accept(self, alerts: Sequence[Alert]) -> None:
        self._waiting.extend(alerts)
        self.high_watermark = max(self.high_watermark, len(self._waiting))
        if self._waiting:
            self._empty.clear()
            self._not_empty.set()

    async def deliver(
        self, write: Callable[[Sequence[Alert]], Awaitable[object]]
    ) -> None:
        """Write what waits, for ever; what fails is tried again."""
        failed = 0  # attempts in a row
        while True:
            await self._not_empty.wait()
            alerts = list(islice(self._waiting, ALERTS_PER_CALL))
            try:
                await write(alerts)
            except RedisFault as fault:
                failed += 1
                self.failures += not isinstance(fault, NotAsked)
                self._keep()
                await self._sleep(backoff(failed))
            else:
                failed = 0
                self._delivered(alerts)

    def _delivered(self, alerts: Sequence[Alert]) -> None:
        foreign = min(self._foreign, len(alerts))
        self._foreign -= foreign
        self.delivered.update(alert.rule for alert in alerts[foreign:])
        for _ in alerts:
            self._waiting.popleft()
        if not self._waiting:
            self.journal.clear()
            self._not_empty.clear()
            self._empty.set()

    def _keep(self) -> None:
        """See to it that the file holds what waits, and not much more.

        Delivered alerts stay in it until all are. While Redis comes and goes it
        can grow to three times what may wait.
        """
        if self._waiting and not 0 < self.journal.lines <= 2 * self.capacity:
            self.journal.write(self._waiting)

    async def drained(self, seconds: float) -> bool:
        """Wait until all is delivered; False if that takes too long."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True


class Journal:
    """Alerts in a file, a line of JSON each; there is none while none waits.

    What was written survives kill -9, not a power cut: nothing waits for the
    disk, as the loop would wait with it.

    Args:
        path: the file; None keeps nothing.

    Attributes:
        lines: alerts in the file; 0 if it is not there, or not to be trusted.
        torn: lines that were no alerts; they are in a file of their own.
        fault: why the last write failed, None if it did not.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.lines = self.torn = 0
        self.fault: OSError | None = None

    def append(self, alerts: Sequence[Alert]) -> None:
        """Add alerts to the file."""
        if self.path is not None:
            with self._noticing(), self.path.open("ab") as file:
                file.write(lines_of(alerts))
                self.lines += len(alerts)

    def write(self, alerts: Sequence[Alert]) -> None:
        """Make these alerts all that the file holds."""
        if self.path is not None:
            part = self.path.with_name(f"{self.path.name}.part")
            with self._noticing():
                part.write_bytes(lines_of(alerts))
                part.replace(self.path)
                self.lines = len(alerts)

    def clear(self) -> None:
        """Remove the file, if there is one: all is delivered."""
        if self.path is not None:
            with self._noticing():
                self.path.unlink(missing_ok=True)
                self.lines = 0

    def read(self) -> list[Alert]:
        """The alerts that an earlier run left, in order.

        Raises:
            EnvironmentFault: the file is there and cannot be read.
        """
        if self.path is None or not self.path.exists():
            return []
        try:
            alerts, torn = alerts_in(self.path.read_bytes())
            if torn:
                self._set_aside(self.path, torn)
        except OSError as error:
            raise EnvironmentFault(
                f"alerts may wait in {self.path}: {error.strerror}; make it readable, "
                "or name another --log-file"
            ) from error
        self.write(alerts) if alerts else self.clear()
        return alerts

    def _set_aside(self, path: Path, torn: Sequence[bytes]) -> None:
        aside = path.with_name(f"{path.name}.torn")
        with aside.open("ab") as file:
            file.write(b"\n".join([*torn, b""]))
        self.torn += len(torn)
        log.warning("%s: %d lines are no alerts; see %s", path, len(torn), aside)

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except OSError as fault:
            # The next failed delivery writes all that waits anew.
            self.fault, self.lines = fault, 0
            log.warning("%s: %s; alerts wait in memory only", self.path, fault.strerror)
        else:
            self.fault = None


def lines_of(alerts: Sequence[Alert]) -> bytes:
    """A line of JSON for each alert."""
    return b"".join(msgspec.json.encode(alert) + b"\n" for alert in alerts)


def alerts_in(content: bytes) -> tuple[list[Alert], list[bytes]]:
    """The alerts of a file, and its lines that are none; the last may be torn."""
    alerts, torn = list[Alert](), list[bytes]()
    *lines, tail = content.split(b"\n")
    for line in lines:
        try:
            alerts.append(msgspec.json.decode(line, type=Alert))
        except msgspec.DecodeError:
            torn.append(line)
    return alerts, [*torn, tail] if tail else torn
