"""Alerts: what the rules raise, written to Redis once each.

One call writes them: a script sets the alert's id if nobody has, and only then
appends to the stream. A delivery whose answer got lost is repeated without harm.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import redis

STREAM = "quants:alerts"
STREAM_LENGTH = 100_000  # about; Redis trims whole nodes
# How long a redelivery is recognised. An alert can wait in a file until the next
# run, over a weekend say. An id takes Redis some 100 bytes until then.
ID_SECONDS = 7 * 24 * 3600

ADD_ONCE = """
if redis.call('SET', KEYS[1], '', 'NX', 'EX', ARGV[1]) then
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', unpack(ARGV, 3))
end
"""


@dataclass(frozen=True, slots=True)
class Alert:
    """What broke a rule; value and limit are decimal texts."""

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
