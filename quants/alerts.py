"""Alerts: raised once per cooldown, written to Redis once each.

One call writes them: a script sets the alert's id if nobody has, and only then
appends to the stream. A delivery whose answer got lost is repeated without harm.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import redis

STREAM = "quants:alerts"
STREAM_LENGTH = 100_000  # about; Redis trims whole nodes
ID_SECONDS = 3600  # how long a redelivery is recognised

ADD_ONCE = """
if redis.call('SET', KEYS[1], '', 'NX', 'EX', ARGV[1]) then
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', unpack(ARGV, 3))
end
"""


@dataclass(frozen=True, slots=True)
class Alert:
    """A tick beyond a limit; value and limit are decimal texts."""

    id: str  # stream:seq:rule
    rule: str
    symbol: str
    seq: int
    time_ns: int
    value: str
    limit: str


def add_once(client: redis.Redis, alerts: Sequence[Alert]) -> None:
    """Append alerts to the stream, in order, those that are not there yet.

    One round trip, blocking; all of them or none.
    """
    pipeline = client.pipeline(transaction=True)
    for alert in alerts:
        fields = [str(part) for pair in asdict(alert).items() for part in pair]
        keys = [f"quants:alert:{alert.id}", STREAM]
        arguments = [str(ID_SECONDS), str(STREAM_LENGTH), *fields]
        pipeline.eval(ADD_ONCE, len(keys), *keys, *arguments)
    pipeline.execute()


class Cooldown:
    """Lets one breach per symbol pass, then none for `cooldown_ns`.

    Event time decides, so the same ticks give the same alerts at any speed and
    in any framing. A clock that steps back further than the cooldown ends it.
    """

    def __init__(self, symbols: int, cooldown_ns: int) -> None:
        self.cooldown_ns = cooldown_ns
        self.suppressed = 0
        self._last = np.full(symbols, -(2**62))  # time of the last that passed

    def passing(
        self, symbol: npt.NDArray[np.uint32], time_ns: npt.NDArray[np.int64]
    ) -> list[int]:
        """Which of these breaches, by position, become alerts.

        Args:
            symbol: index of each breach's symbol, shape (m,).
            time_ns: event time of each breach, shape (m,).
        """
        cooled = np.abs(time_ns - self._last[symbol]) >= self.cooldown_ns  # (m,)
        # In a storm none has cooled down and nothing else is done. The breaches
        # of a symbol that has are gone through one by one.
        unsettled = np.zeros(len(self._last), bool)
        unsettled[symbol[cooled]] = True
        candidates = unsettled[symbol].nonzero()[0].tolist()
        passing = [i for i in candidates if self._passes(symbol[i], time_ns[i])]
        self.suppressed += len(symbol) - len(passing)
        return passing

    def _passes(self, symbol: np.uint32, time_ns: np.int64) -> bool:
        passes = abs(int(time_ns) - int(self._last[symbol])) >= self.cooldown_ns
        if passes:
            self._last[symbol] = time_ns
        return passes
