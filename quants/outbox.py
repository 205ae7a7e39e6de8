"""The outbox: alerts wait in it, in order and bounded, until Redis has them."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

import redis

from quants.alerts import Alert

ALERTS_PER_CALL = 256


def backoff(failures: int) -> float:
    """Seconds until the next attempt: doubling from 50 ms up to 1 s."""
    return min(0.05 * 2.0 ** min(failures - 1, 10), 1.0)


class Outbox:
    """Alerts on their way to Redis, in order; a full one loses the newest.

    Args:
        capacity: alerts it holds while Redis is away; about 1 KiB each.
    """

    def __init__(
        self,
        capacity: int = 10_000,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.capacity, self._sleep = capacity, sleep
        self.delivered: Counter[str] = Counter()  # by rule
        self.lost = 0
        self.failures = 0
        self._waiting: deque[Alert] = deque()
        self._not_empty, self._empty = asyncio.Event(), asyncio.Event()
        self._empty.set()

    def __repr__(self) -> str:
        return f"<Outbox {len(self)}/{self.capacity}, {self.lost} lost>"

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, alert: Alert) -> None:
        """Accept an alert for delivery."""
        if len(self._waiting) >= self.capacity:
            self.lost += 1
            return
        self._waiting.append(alert)
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
            except (redis.RedisError, OSError):
                failed += 1
                self.failures += 1
                await self._sleep(backoff(failed))
            else:
                failed = 0
                self._delivered(alerts)

    def _delivered(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            self._waiting.popleft()
            self.delivered[alert.rule] += 1
        if not self._waiting:
            self._not_empty.clear()
            self._empty.set()

    async def drained(self, seconds: float) -> bool:
        """Wait until all is delivered; False if that takes too long."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True
