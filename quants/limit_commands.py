"""The commands around limits: what ticks are compared with, shown and set."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation

import click
import redis
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from quants.errors import EnvironmentFault, SettingsError
from quants.limits import ROUNDED, bound_of, limit_key
from quants.redis_server import connect, shown
from quants.sentences import one_sentence
from quants.tick import Symbol

MOST_DIGITS = 40  # of a limit; no price × size of a tick has more

Hash = Mapping[str, str]

URL = click.option(
    "--redis-url",
    envvar="QUANTS_REDIS_URL",
    show_envvar=True,
    metavar="URL",
    help="The Redis of the pump; a run prints it in its first lines.",
)


@contextmanager
def redis_at(url: str | None) -> Iterator[redis.Redis]:
    """A client of the Redis that was named.

    Raises:
        SettingsError: none was, or the url is not one of Redis.
        EnvironmentFault: it does not answer, or refuses.
    """
    if not url:
        reason = "name it, or set QUANTS_REDIS_URL; a run prints its own at its start"
        raise SettingsError("redis-url", "unset", reason)
    try:
        client = connect(url)
    except ValueError as fault:
        raise SettingsError("redis-url", shown(url), str(fault)) from fault
    try:
        with client:
            yield client
    except redis.RedisError as fault:
        raise EnvironmentFault(
            f"Redis at {shown(url)}: {str(fault).rstrip('.')}; a Redis that a run "
            "started ends with it, --redis-url (QUANTS_REDIS_URL) names another"
        ) from fault


@click.group()
def limits() -> None:
    """Show and set the limits that ticks are compared with.

    \b
    quants limits show --redis-url redis://127.0.0.1:6379/0
    export QUANTS_REDIS_URL=redis://127.0.0.1:6379/0
    quants limits set AAPL notional 1e6
    quants limits set AAPL notional none
    """


# A negative price is an argument, no option.
@limits.command("set", context_settings={"ignore_unknown_options": True})
@click.argument("symbol")
@click.argument("field", type=click.Choice(list(ROUNDED)), metavar="FIELD")
@click.argument("value")
@URL
def set_limit(symbol: str, field: str, value: str, redis_url: str | None) -> None:
    """Set one limit of a symbol; a VALUE of `none` removes it.

    A pump that runs takes it up within a second.

    \b
    price_low, price_high  a tick's price stays between them
    notional               most of price x size in one tick
    exposure               most of price x size in the last 10 s and this one
    vwap_percent           farthest from the VWAP of the last 10 s
    stale_seconds          longest without a tick
    ticks_per_second       most ticks in a second

    \b
    quants limits set AAPL price_high 191.50
    quants limits set AAPL exposure 2.5e7
    quants limits set AAPL price_high none
    """
    with one_sentence():
        text = decimal_text(field, value)
        with redis_at(redis_url) as client:
            version = write_limit(client, symbol, field, text, time.time_ns())
        said = "is no limit any more" if text is None else f"is {text}"
        first = ", the first that anybody set for it" if version == 1 else ""
        click.echo(f"{symbol}: {field} {said}; version {version}{first}")


def decimal_text(field: str, value: str) -> str | None:
    """The plain decimal of a value such as 1e6; None removes the limit.

    Raises:
        SettingsError: the value is no limit of this kind.
    """
    if value in ("none", "unset"):
        return None
    try:
        number = Decimal(value)
        if not number.is_finite() or abs(number.adjusted()) >= MOST_DIGITS:
            raise ValueError(f"at most {MOST_DIGITS} digits are a limit")
        text = f"{number:f}"
        bound_of(field, text, Symbol(""))
    except InvalidOperation as fault:
        reason = "a decimal number such as 189.50 or 1e6, or none, is needed"
        raise SettingsError(field, value, reason) from fault
    except ValueError as fault:
        raise SettingsError(field, value, str(fault)) from fault
    return text


def write_limit(
    client: redis.Redis, symbol: str, field: str, text: str | None, set_ns: int
) -> int:
    """Set or remove a limit, and count the hash's version up, as one change.

    Args:
        set_ns: now, CLOCK_REALTIME: how long it took until it was in force.
    """
    key, pipeline = limit_key(Symbol(symbol)), client.pipeline(transaction=True)
    if text is None:
        pipeline.hdel(key, field)
    else:
        pipeline.hset(key, field, text)
    pipeline.hset(key, "set_ns", str(set_ns))
    pipeline.hincrby(key, "version", 1)
    return int(pipeline.execute()[-1])


@limits.command("show")
@click.argument("symbols", nargs=-1)
@URL
def show_limits(symbols: Sequence[str], redis_url: str | None) -> None:
    """Show the limits of SYMBOLS, or of all that have any.

    \b
    quants limits show
    quants limits show AAPL MSFT
    """
    with one_sentence(), redis_at(redis_url) as client:
        found = limits_of(client, symbols or limited_symbols(client))
        if (console := Console()).is_terminal:
            console.print(limit_table(found))
            return
        for symbol, fields in found.items():
            texts = (f"{field}={text}" for field, text in fields.items())
            click.echo(" ".join([symbol, *(texts if fields else ["no limits"])]))


def limited_symbols(client: redis.Redis) -> list[str]:
    """The symbols that have a hash of limits, by name."""
    start = limit_key(Symbol(""))
    return sorted(key.removeprefix(start) for key in client.scan_iter(f"{start}*"))


def limits_of(client: redis.Redis, symbols: Sequence[str]) -> dict[str, Hash]:
    """The limits of symbols and their versions, as Redis has them."""
    pipeline = client.pipeline(transaction=False)
    for symbol in symbols:
        pipeline.hgetall(limit_key(Symbol(symbol)))
    answers = pipeline.execute()
    return {
        printable(symbol): {
            field: checked(field, answer[field])
            for field in (*ROUNDED, "version")
            if field in answer
        }
        for symbol, answer in zip(symbols, answers, strict=True)
    }


def checked(field: str, text: str) -> str:
    """A limit as it is shown; one that no pump takes is said to be refused."""
    try:
        if field in ROUNDED:
            bound_of(field, text, Symbol(""))
    except ValueError:
        return f"{printable(text)} (refused)"
    return printable(text)


def limit_table(found: Mapping[str, Hash]) -> Table:
    """A row for each symbol, a column for each field that any of them has."""
    has = set[str]().union(*found.values())
    fields = [field for field in (*ROUNDED, "version") if field in has]
    table = Table("symbol", title=None if found else "no symbol has a limit")
    for field in fields:
        table.add_column(field.replace("_", " "), justify="right")
    for symbol, texts in found.items():
        table.add_row(*map(escape, [symbol, *(texts.get(f, "") for f in fields)]))
    return table


def printable(text: str) -> str:
    """A text that cannot steer a terminal, whoever wrote it to Redis."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
