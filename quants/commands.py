"""The commands around a tick log: is it whole, and what is in it as a table."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from quants.export import export
from quants.progress import progress, reading
from quants.recovery import Recovered, Stream, recover_for_append
from quants.selection import Selection, chosen, counted, select
from quants.sentences import one_sentence

LOG = click.argument("log", type=click.Path(path_type=Path))
STREAM = click.option(
    "--stream",
    default="last",
    show_default=True,
    metavar="ID",
    help="A stream's id, last (the one logged last), or all.",
)


# verify ----------------------------------------------------------------------


@click.command(
    epilog="""Exit codes: 0 whole; 1 a torn end, rot or missing ticks, and it
says which; 2 no tick log, or no such stream."""
)
@LOG
@click.option("--repair", is_flag=True, help="Move a torn end to a file beside it.")
@STREAM
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
def verify(log: Path, repair: bool, stream: str, as_json: bool) -> None:
    """Check every checksum and every sequence number of a tick log.

    It only reads. A crash leaves a torn frame at the end: --repair keeps every
    whole frame and moves the rest to LOG.torn-<byte>, as the next run that
    appends would. Rot inside cannot be repaired; its ticks count as a gap.

    \b
    quants verify ticks.log
    quants verify ticks.log --repair
    quants verify ticks.log --stream all --json
    """
    with one_sentence(stopped="stopped before the end"):
        with reading(f"reading {log}"):
            found = counted(log)
            repaired = recover_for_append(log) if repair else ""
            if repaired:
                found = counted(log)
        streams = chosen(found, stream)
        wrong = problems(found, streams)
        if as_json:
            told = facts(found, streams)
            told |= {"repaired": repaired or None, "problems": wrong}
            click.echo(json.dumps(told, indent=2))
        else:
            click.echo("\n".join([*filter(None, [repaired]), *lines(found, streams)]))
            for problem in wrong:
                click.echo(f"problem: {problem}")
        raise SystemExit(1 if wrong else 0)


def problems(found: Recovered, streams: Mapping[str, Stream]) -> list[str]:
    """Sentences that make the exit code 1; empty for a whole log."""
    wrong = [
        f"{found.path}: {hole.length:,} bytes from byte {hole.offset:,} on fail their "
        "checksum; their ticks are a gap, a copy of the log may have them"
        for hole in found.holes
    ]
    if torn := found.torn:
        wrong.append(
            f"{found.path}: its end is torn at byte {torn.offset:,}; "
            f'"quants verify --repair" keeps the {found.frames:,} whole frames'
        )
    for name, stream in streams.items():
        if stream.gaps:
            wrong.append(
                f"stream {name}: {number(stream.gap_ticks, 'tick')} missing, "
                f"in {number(stream.gaps, 'gap')}"
            )
    return wrong


def first_seq(stream: Stream) -> int:
    """The number that a stream began with: it has no break but its gaps."""
    return stream.next_seq - stream.ticks - stream.gap_ticks


def lines(found: Recovered, streams: Mapping[str, Stream]) -> Iterator[str]:
    """What a log holds, for people."""
    yield (
        f"{found.path}: {number(found.frames, 'whole frame')}, "
        f"{number(found.ticks, 'tick')}, {number(len(found.streams), 'stream')}"
    )
    for name, stream in streams.items():
        yield (
            f"  stream {name}: {number(stream.ticks, 'tick')} of "
            f"{number(len(stream.segment.symbols), 'symbol')}, numbered "
            f"{first_seq(stream):,} to {stream.next_seq - 1:,}, "
            f"{stream.gap_ticks:,} missing"
        )
    torn = found.torn.length if found.torn else 0
    yield f"  {number(len(found.holes), 'hole')}, {number(torn, 'torn byte')}"


def number(count: int, noun: str) -> str:
    """A count and its noun: 1 gap, 2,000 gaps."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def facts(found: Recovered, streams: Mapping[str, Stream]) -> dict[str, Any]:
    """What a log holds, for programs; frames and ticks are of all its streams."""
    return {
        "path": str(found.path),
        "frames": found.frames,
        "ticks": found.ticks,
        "streams": [
            {
                "stream": name,
                "first_seq": first_seq(stream),
                "next_seq": stream.next_seq,
                "ticks": stream.ticks,
                "gaps": stream.gaps,
                "gap_ticks": stream.gap_ticks,
                "symbols": [asdict(symbol) for symbol in stream.segment.symbols],
            }
            for name, stream in streams.items()
        ],
        "holes": [{"offset": h.offset, "length": h.length} for h in found.holes],
        "torn_bytes": found.torn.length if found.torn else 0,
    }


# export ----------------------------------------------------------------------


@click.command(
    "export",
    epilog="""Exit codes: 0 every tick is a row; 1 ticks are missing from the log
(OUT has the others), or the disk said no (there is no OUT); 2 wrong options.""",
)
@LOG
@click.argument("out", type=click.Path(path_type=Path))
@STREAM
@click.option("--force", is_flag=True, help="Replace OUT if it is there.")
def export_log(log: Path, out: Path, stream: str, force: bool) -> None:
    """Write the ticks of LOG to OUT, a .csv or .parquet, exactly.

    Columns: seq, time_ns, symbol, price, size; with --stream all, where numbers
    repeat, a column `stream` before them. Prices and sizes have exactly their
    symbol's decimals; read them as such, not as floats.

    \b
    quants export ticks.log ticks.csv
    quants export ticks.log ticks.parquet --force
    quants export ticks.log all.csv --stream all

    OUT gets its name once it was read back and adds up to what the log does.
    Parquet needs: pip install "quants-in-motion[parquet]"
    """
    with one_sentence(stopped=f"stopped, there is no new {out}"):
        with reading(f"reading {log}"):
            selection = select(log, stream)
        with progress("writing and reading back", 2 * selection.ticks) as advance:
            export(selection, out, force=force, advance=advance)
        for line in missing(selection):
            click.echo(f"problem: {line}")
        click.echo(
            f"{out}: {number(selection.ticks, 'row')}; read back, the ticks, sizes "
            f"and price x size of each symbol add up to those of {log}"
        )
        raise SystemExit(1 if any(missing(selection)) else 0)


def missing(selection: Selection) -> Iterator[str]:
    """What of a log cannot be rows."""
    for name, stream in selection.streams.items():
        if stream.gaps:
            ticks = number(stream.gap_ticks, "tick")
            yield f"stream {name}: {ticks} missing from the log, and so from the table"
    if selection.damaged:
        damaged = number(selection.damaged, "rotten or torn byte")
        yield f"{selection.path}: {damaged}, which may have held more of its ticks"
