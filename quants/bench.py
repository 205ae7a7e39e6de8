"""`quants bench engines`: which engine, and from what batch size on?"""

import asyncio
import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from quants.climb import KERNELS, ROLLING, SYMBOLS, TICK_RATE, Plan, measured
from quants.engines import ENGINES
from quants.errors import EnvironmentFault, SettingsError
from quants.evidence import host_facts
from quants.host import available_cores
from quants.ladder import Ladder, claims, conclusions, rungs, table
from quants.ladder_picture import figure, needs_matplotlib, png
from quants.outfile import whole_file
from quants.progress import progress
from quants.sentences import one_sentence
from quants.turns import gil_enabled

FULL: dict[str, Any] = {"batches": "10,100,1000,4096", "rounds": 9, "seconds": 0.06}
QUICK: dict[str, Any] = {"batches": "100,1000", "rounds": 3, "seconds": 0.02}
MOST_WORKERS = 4  # unless told otherwise: each takes a while to start

EPILOG = """Exit codes: 0 measured, whatever came out; 1 sums were wrong, a file
cannot be written, or stopped by Ctrl-C; 2 wrong options."""


@click.group()
def bench() -> None:
    """Measure this machine; its figures are true of no other."""


@bench.command(epilog=EPILOG)
@click.option(
    *("--kernel", "kernels"),
    type=click.Choice(KERNELS),
    default=KERNELS,
    multiple=True,
    help="How a batch is summed; again for another.  [default: all]",
)
@click.option(
    *("--engine", "engines"),
    type=click.Choice(ENGINES),
    default=ENGINES,
    multiple=True,
    help="Where, beside inline; again for another.  [default: all]",
)
@click.option(
    *("--window", "windows"),
    type=click.Choice(("session", *ROLLING)),
    default=tuple(ROLLING),
    multiple=True,
    help="What is summed, beside the session: the last second, or the last 1000 "
    "ticks of each symbol; again for another.  [default: all]",
)
@click.option(
    *("--batch", "batches"),
    metavar="ROWS,ROWS",
    help=f"Rows in a batch.  [default: {FULL['batches']}]",
)
@click.option(
    "--workers",
    type=int,
    default=min(available_cores(), MOST_WORKERS),
    help=f"Of each engine.  [default: cores, {MOST_WORKERS} at most]",
)
@click.option("--rounds", type=int, help=f"Runs a side.  [default: {FULL['rounds']}]")
@click.option("--seconds", type=float, help=f"A run.  [default: {FULL['seconds']}]")
@click.option("--json", "json_file", type=Path, metavar="FILE", help="For programs.")
@click.option("--png", "png_file", type=Path, metavar="FILE", help="A picture of it.")
@click.option(
    "--quick", is_flag=True, help="A look, no verdict: 3 rounds of 0.02 s, 2 sizes."
)
def engines(
    json_file: Path | None, png_file: Path | None, quick: bool, **values: Any
) -> None:
    """Find where a VWAP is summed fastest: on the loop, or in workers?

    A worker pays when summing a batch costs more than handing it over. So
    there is a batch size, the crossover, from which on an engine beats inline;
    or there is none, if the kernel is quick or the workers take turns.

    \b
    quants bench engines --quick                 a look, in seconds
    quants bench engines                         a verdict, in a minute
    quants bench engines --kernel python --batch 100,1000 --png ladder.png

    All engines take the same rows in turn, and every sum is checked. Inline
    runs twice a round: how far these two differ is the A/A band, and only a
    ratio beyond it is called faster or slower. "here" is the CPU time a batch
    costs this process, all its threads; "busy" is how many cores the workers
    kept busy summing. Of threads that is the same CPU time, seen twice.

    Only a session's sums can be dealt out: a rolling window needs its ticks in
    order, so it has one owner. It is measured inline, in NumPy.
    """
    with one_sentence(stopped="stopped, nothing is written"):
        given = {name: value for name, value in values.items() if value is not None}
        plan = plan_of(**(QUICK if quick else FULL) | given)
        if png_file:
            needs_matplotlib()
        with whole_file("json", json_file) as write:
            ladder = climbed(plan)
            write(json.dumps(ladder.as_json(), indent=1) + "\n")
        if png_file:
            save(png_file, png(figure(ladder)))


def plan_of(batches: str, windows: tuple[str, ...], **values: Any) -> Plan:
    """The plan that options ask for.

    Raises:
        SettingsError: they cannot work.
    """
    try:
        sizes = sorted({int(size) for size in batches.split(",")})
    except ValueError:
        reason = "numbers of rows work, with commas between, such as 100,1000"
        raise SettingsError("batch", batches, reason) from None
    rolling = [window for window in windows if window in ROLLING]
    return Plan(batches=sizes, windows=rolling, **values)


def climbed(plan: Plan) -> Ladder:
    """Measure, and print what was found."""
    host = host_facts() | {"system": f"{platform.system()} {platform.machine()}"}
    for name, fact in host.items():
        click.echo(f"{name:12} {fact}")
    with progress("measuring", 1) as advance:
        found, reasons = asyncio.run(measured(plan, advance))
    # An extension that is imported late may have switched the GIL on again.
    host["GIL at the end"] = "on" if gil_enabled() else "off"
    settings = asdict(plan) | {"symbols": SYMBOLS, "tick_rate": TICK_RATE}
    ladder = Ladder(host, settings, [*rungs(found)], reasons, [*claims(found)])
    for kernel in ladder.kernels():
        Console(highlight=False).print(table(ladder, kernel))
    for sentence in conclusions(ladder):
        click.echo(sentence)
    return ladder


def save(path: Path, picture: bytes) -> None:
    """Write a picture.

    Raises:
        EnvironmentFault: its file cannot be written.
    """
    try:
        path.write_bytes(picture)
    except OSError as error:
        raise EnvironmentFault(f"png {path}: {error.strerror}") from error
