"""The commands that serve a feed: the seeded market, or a recording."""

import asyncio
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import click

from quants.access import token_for
from quants.channel import Channel
from quants.debug import debug_records
from quants.feed_server import FeedServer, Policy
from quants.host import stop_signals
from quants.market import Market
from quants.metrics import Registry
from quants.pace import Replay
from quants.progress import reading, watched
from quants.recordings import FORMATS, Recording, open_recording
from quants.sentences import one_sentence
from quants.ticklog import TickLog

LOG_BYTES = 1 << 20

PORT = click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
HOST = click.option("--host", default="127.0.0.1", show_default=True, help="Address.")
DEBUG = click.option("--debug", is_flag=True, help="Debug records, tracebacks.")


@click.command()
@PORT
@click.option("--tick-rate", default=1000, show_default=True, help="Ticks per second.")
@click.option("--symbols", default=8, show_default=True, help="Instruments.")
@click.option("--seed", default=1, show_default=True, help="Seed of the market.")
@click.option(
    "--duration",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds; without it, until Ctrl-C.",
)
@click.option(
    "--log-file",
    type=click.Path(path_type=Path),
    help="Keep a tick log: who was away for long goes on from it.",
)
@HOST
@click.option(
    "--policy",
    type=click.Choice(get_args(Policy)),
    default="disconnect",
    show_default=True,
    help="What happens to a subscriber that cannot keep up.",
)
@DEBUG
def feed(debug: bool, **values: Any) -> None:
    """Publish the seeded market to any number of WebSocket clients.

    \b
    quants feed --port 9000 --tick-rate 50000
    quants run --feed-url ws://127.0.0.1:9000/
    """
    with one_sentence(debug), debug_records(debug):
        asyncio.run(run_feed(**values), debug=debug)


async def run_feed(
    port: int,
    tick_rate: int,
    symbols: int,
    seed: int,
    duration: float | None,
    log_file: Path | None,
    host: str,
    policy: Policy,
) -> None:
    """Serve and publish until the duration is over or a signal comes."""
    market = Market(seed, symbols, tick_rate)
    ticks = None if duration is None else round(tick_rate * duration)
    server = FeedServer(
        market, tick_rate, policy=policy, host=host, port=port, token=token(host)
    )
    async with server, logged(server, log_file):
        with stop_signals(server.stop, cancel()):
            click.echo(f"{server.url} {tick_rate} ticks/s; Ctrl-C ends it", err=True)
            await server.publish(ticks)
    click.echo(f"{server.sent:,} ticks sent", err=True)


@asynccontextmanager
async def logged(server: FeedServer, path: Path | None) -> AsyncIterator[None]:
    """Log what a server publishes, and let subscribers resume from it."""
    if path is None:
        yield
        return
    # What waits for the disk is still in the server's memory, which is larger.
    channel = server.log = Channel("log", capacity_bytes=LOG_BYTES)
    log = TickLog(
        path,
        stream=server.stream,
        symbols=server.source.symbols,
        registry=Registry(),
        buffer_bytes=LOG_BYTES,
    )
    async with log, asyncio.TaskGroup() as tasks:
        server.history.archive = log.archive
        tasks.create_task(log.run(channel))
        yield
        channel.close()
    click.echo(f"{path}: {log.ticks:,} ticks, stream {server.stream}", err=True)


def factor(_: click.Context, __: click.Parameter, text: str) -> float:
    """The speed that a text says; infinity for max."""
    try:
        speed = math.inf if text == "max" else float(text)
    except ValueError:
        speed = math.nan
    if not speed > 0:
        raise click.BadParameter(f"{text!r} is neither a number above 0 nor max")
    return speed


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@PORT
@click.option(
    "--speed",
    callback=factor,
    default="1",
    show_default=True,
    metavar="N|max",
    help="1 keeps the original gaps, 10 is ten times as fast, max keeps none.",
)
@click.option(
    "--loop-times",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How often to play it; event times go on growing.",
)
@click.option("--symbol", help="The symbol of a file that does not say it.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["auto", *FORMATS]),
    default="auto",
    show_default=True,
    help="The layout, where it cannot be told from the first lines.",
)
@click.option(
    "--subscribers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Begin when so many have come; who comes later misses the beginning.",
)
@HOST
@DEBUG
def replay(debug: bool, **values: Any) -> None:
    """Publish a recording: trades that you have, exactly as they were.

    FILE is a trade file of Binance, Coinbase or LOBSTER, a CSV with named
    columns, or a tick log; .gz and .zst as they come. It begins with its first
    subscriber, runs at the pace of the slowest, and exits when all have all.

    \b
    quants replay BTCUSDT-aggTrades-2025-03-01.csv.gz --port 9000 --speed 10
    quants run --feed-url ws://127.0.0.1:9000/
    """
    with one_sentence(debug), debug_records(debug):
        asyncio.run(run_replay(**values), debug=debug)


async def run_replay(
    file: Path,
    port: int,
    speed: float,
    loop_times: int,
    symbol: str | None,
    layout: str,
    subscribers: int,
    host: str,
) -> None:
    """Scan the file, then publish it to those who come."""
    with reading(f"reading {file}"):
        recording = await asyncio.to_thread(open_recording, file, layout, symbol)
    with recording:
        source = Replay(recording, speed, loop_times)
        ticks = loop_times * recording.ticks
        server = FeedServer(
            source, pace=source, policy="wait", host=host, port=port, token=token(host)
        )
        async with server:
            announce(server, recording)
            with stop_signals(server.stop, cancel()):
                await server.until(lambda count: count >= subscribers)
                with watched("sending", lambda: (server.sent, ticks)):
                    await server.publish()
                    await server.until(lambda count: count == 0)
    click.echo(f"{server.sent - server.gap_ticks:,} ticks sent", err=True)


def announce(server: FeedServer, recording: Recording) -> None:
    """What will be played, and what about it a person should know."""
    seconds = (recording.last_time_ns - recording.first_time_ns) / 1e9
    click.echo(
        f"{server.url} {recording.ticks:,} ticks of {len(recording.symbols):,} "
        f"symbols, {seconds:,.1f} s; it begins with its first subscriber",
        err=True,
    )
    for remark in recording.remarks:
        click.echo(remark, err=True)


def token(host: str) -> str | None:
    """What clients must show on this host."""
    return token_for(host, os.environ.get("QUANTS_TOKEN"))


def cancel() -> Any:
    """What stops this task at once."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancel
