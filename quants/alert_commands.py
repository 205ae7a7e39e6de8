"""The command around alerts: those that risk raised, and those to come."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import click
import redis

from quants.alerts import STREAM
from quants.limit_commands import URL, Hash, printable, redis_at
from quants.sentences import one_sentence

WAIT_MS = 500  # for the next alert; less than the client's timeout


@click.group()
def alerts() -> None:
    """Look at the alerts that risk raised.

    \b
    quants alerts tail --follow --redis-url redis://127.0.0.1:6379/0
    """


@alerts.command()
@click.option(
    "-n", "count", type=click.IntRange(min=1), default=10, show_default=True,
    help="How many of the last ones.",
)  # fmt: skip
@click.option("--follow", is_flag=True, help="Go on with those to come, until Ctrl-C.")
@URL
def tail(count: int, follow: bool, redis_url: str | None) -> None:
    """Show the last alerts, a line each: event time, symbol, rule, value, limit.

    \b
    quants alerts tail -n 3
    quants alerts tail --follow | grep price_band
    """
    with one_sentence(), redis_at(redis_url) as client, suppress(KeyboardInterrupt):
        for fields in raised(client, count, follow):
            click.echo(alert_line(fields))


def raised(client: redis.Redis, count: int, follow: bool) -> Iterator[Hash]:
    """The last alerts in the stream, and then, maybe for ever, those to come."""
    last = "0"
    entries: Any = client.xrevrange(STREAM, count=count)  # (id, fields), newest first
    entries = entries[::-1]
    while True:
        for last, fields in entries:  # noqa: B007 - the last one is read again from
            yield fields
        if not follow:
            return
        answer: Any = client.xread({STREAM: last}, block=WAIT_MS)
        entries = answer[0][1] if answer else []


def alert_line(fields: Hash) -> str:
    """An alert in a line; whatever is missing is a question mark."""
    symbol, rule, value, limit, id = (
        printable(fields.get(name, "?"))
        for name in ("symbol", "rule", "value", "limit", "id")
    )
    when = time_text(fields.get("time_ns", ""))
    return f"{when}  {symbol:8} {rule:12} {value}, limit {limit}  ({id})"


def time_text(time_ns: str) -> str:
    """An event time in UTC, to the nanosecond."""
    try:
        seconds, rest = divmod(int(time_ns), 10**9)
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"
    except (ValueError, OverflowError, OSError):  # no number, or no date
        return "?"
