"""A consumer that raises or hangs is started again; too often, and all ends.

The batch it had in hand is lost to it, so it counts as dropped: what follows is
marked incomplete. An error of our own (`QuantsError`: a full disk, sums that
cannot be trusted) knows what it says, and no second try would change it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterable
from typing import Protocol

from quants.channel import Channel
from quants.errors import StageFailed, our_own, sole
from quants.metrics import Registry
from quants.tick import Batch

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
FAREWELL_SECONDS = 1.0  # for a cancelled stage; one that stays is left behind


class Stage(Protocol):
    """A consumer: runs until its batches end."""

    async def run(self, batches: AsyncIterable[Batch]) -> None:
        """Consume what the channel brings."""


class Supervisor:
    """Runs stages, and counts how often each had to be started again.

    Args:
        notes: gets a sentence for each restart.
        budget: restarts of one stage; the fault after them ends the pump.
        hang_seconds: a batch in hand for longer, and the stage hangs.

    Attributes:
        restarts: by the name of the stage's channel.
    """

    def __init__(
        self,
        registry: Registry,
        notes: list[str],
        budget: int = 3,
        hang_seconds: float = 30.0,
    ) -> None:
        self.notes, self.budget, self.hang_seconds = notes, budget, hang_seconds
        self.restarts: Counter[str] = Counter()
        registry.counter(
            "quants_consumer_restarts_total",
            "Times a consumer raised or hung and was started again.",
            lambda: {(name,): count for name, count in self.restarts.items()},
            ("consumer",),
        )

    async def run(self, stage: Stage, channel: Channel) -> None:
        """Run a stage until its channel ends.

        Raises:
            QuantsError: the stage says why no restart would help.
            StageFailed: the budget is spent.
        """
        name = channel.name
        while True:
            try:
                return await self._watch(stage, channel)
            except Exception as error:
                if told := our_own(error):
                    raise told from error
                lost, fault = channel.abandon(), sole(error)
                if self.restarts[name] == self.budget:
                    raise StageFailed(name, self.budget, fault) from error
                self.restarts[name] += 1
                note = f"{name} lost {lost} ticks and restarted: {fault!r}"
                self.notes.append(note)
                log.warning("%s", note)
                log.debug("where %s failed", name, exc_info=error)

    async def _watch(self, stage: Stage, channel: Channel) -> None:
        """Run it once; a batch that it holds for too long is a fault as well."""
        running = asyncio.ensure_future(stage.run(channel))
        try:
            while not running.done():
                await asyncio.wait([running], timeout=LOOK_SECONDS)
                if not running.done() and channel.in_hand_seconds > self.hang_seconds:
                    raise TimeoutError(f"hung for {self.hang_seconds:g} s")
            running.result()
        finally:
            running.cancel()
            await asyncio.wait([running], timeout=FAREWELL_SECONDS)
