"""Export: the ticks of a log as a table, .csv or .parquet, exact.

A log of any length goes through in chunks, into a file beside the one asked
for. That file is read back; only if it adds up to what the log does is it given
its name. A gap has no rows: how many ticks are missing is said, never made up.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quants.errors import CorruptLog, EnvironmentFault, SettingsError
from quants.logfile import in_order, parts, sync_folder
from quants.recovery import Recovered, Stream, open_log, scan
from quants.table import CHUNK, MOST_DECIMALS, Chunk, Legend, Table, Write
from quants.table_csv import Csv
from quants.table_parquet import Parquet
from quants.tick import Batch
from quants.vwap import NumpyKernel, Sums

Advance = Callable[[int], object]
WRAP = 1 << 64

TABLES: Mapping[str, type[Table]] = {".csv": Csv, ".parquet": Parquet}


class Totals(NamedTuple):
    """What ticks add up to."""

    sums: list[Sums]  # by symbol
    seq: int  # modulo 2**64, as NumPy adds
    time_ns: int


@dataclass(frozen=True, slots=True)
class Selection:
    """The streams of a log that are exported, as they were at one moment.

    Attributes:
        torn: bytes at the end of the log that are no whole frame.
    """

    path: Path
    streams: Mapping[str, Stream]
    legend: Legend
    torn: int

    @property
    def ticks(self) -> int:
        """Ticks, each of which becomes a row."""
        return sum(stream.ticks for stream in self.streams.values())

    @property
    def gap_ticks(self) -> int:
        """Ticks that are missing."""
        return sum(stream.gap_ticks for stream in self.streams.values())


def select(path: Path, stream: str = "last") -> Selection:
    """What of a log is to be exported.

    Args:
        stream: its id, or "last" (the one logged last), or "all".

    Raises:
        SettingsError: it is no tick log, or holds no such stream.
        CorruptLog: nobody knows any more what symbols these ticks are of.
    """
    found = scan(path)
    streams = chosen(found, stream)
    if not streams:
        raise SettingsError("stream", stream, f"{path} holds no stream")
    legend = legend_of(path, streams, with_streams=stream == "all")
    return Selection(path, streams, legend, found.torn.length if found.torn else 0)


def chosen(found: Recovered, stream: str) -> dict[str, Stream]:
    """The streams of a log that are meant: one, the last, or all.

    Raises:
        SettingsError: it holds no such stream.
    """
    held = list(found.streams)
    names = {"all": held, "last": held[-1:]}.get(stream, [stream])
    if unknown := set(names) - set(held):
        reason = f"{found.path} holds {', '.join(held) or 'no stream'}"
        raise SettingsError("stream", unknown.pop(), reason)
    return {name: found.streams[name] for name in names}


def legend_of(path: Path, streams: Mapping[str, Stream], with_streams: bool) -> Legend:
    """The symbols of all streams, one after the other."""
    for name, stream in streams.items():
        if reason := refusal(name, stream):
            raise CorruptLog(f"{path}: stream {name}: {reason}; --stream names another")
    pairs = [(name, s) for name in streams for s in streams[name].segment.symbols]
    names = tuple(name for name, _ in pairs) if with_streams else ()
    return Legend(tuple(symbol for _, symbol in pairs), names)


def refusal(name: str, stream: Stream) -> str:
    """Why the ticks of a stream cannot be rows; empty if they can."""
    symbols = stream.segment.symbols
    names = [symbol.name for symbol in symbols]
    decimals = [d for s in symbols for d in (s.price_decimals, s.size_decimals)]
    if stream.ticks and not symbols:
        return "the header that named its symbols has rotted"
    if len(set(names)) < len(names):
        return "two of its symbols have one name"
    if not "".join([name, *names]).isprintable():
        return "a name in it is not printable"
    if decimals and not 0 <= min(decimals) <= max(decimals) <= MOST_DECIMALS:
        return f"a symbol has {max(decimals)} decimals, {MOST_DECIMALS} are the most"
    return ""


def export(
    selection: Selection,
    out: Path,
    *,
    force: bool = False,
    advance: Advance = lambda ticks: None,
) -> None:
    """Write ticks to a new file; it is there once it is known to be right.

    Args:
        force: replace a file of that name.
        advance: called with each number of ticks written, or read back.

    Raises:
        SettingsError: no such format, or the file is there.
        CorruptLog: the log was changed meanwhile.
        EnvironmentFault: the disk refused; nothing is left behind.
    """
    if out.suffix not in TABLES:
        raise SettingsError("out", out, "name a file that ends in .csv or .parquet")
    table = TABLES[out.suffix](selection.legend)
    with named_when_whole(selection.path, out, force) as part:
        logged = write(chunks(selection), table, part, advance)
        if sum(symbol.ticks for symbol in logged.sums) != selection.ticks:
            reason = "it was cut while it was read; export it again"
            raise CorruptLog(f"{selection.path}: {reason}")
        if read_back(table, part, advance) != logged:
            reason = "read back, it is not what was written; try another disk"
            raise EnvironmentFault(f"export {out}: {reason}")


def write(
    chunks: Iterable[Chunk], table: Table, path: Path, advance: Advance
) -> Totals:
    """Write a table to the disk; what its ticks add up to."""
    with open(path, "wb") as file:
        with table.writing(file) as append:
            totals = totals_of(appended(chunks, append), table, advance)
        file.flush()
        os.fsync(file.fileno())
    return totals


def appended(chunks: Iterable[Chunk], append: Write) -> Iterator[Chunk]:
    """The chunks, each once it is written."""
    for chunk in chunks:
        append(chunk)
        yield chunk


def read_back(table: Table, path: Path, advance: Advance) -> Totals | None:
    """What the ticks of a file add up to; None if it cannot be read."""
    try:
        return totals_of(table.read(path), table, advance)
    except (ValueError, KeyError):
        return None


def totals_of(chunks: Iterable[Chunk], table: Table, advance: Advance) -> Totals:
    """What ticks add up to."""
    kernel = NumpyKernel(len(table.legend.symbols))
    seq = time_ns = 0
    for numbers, rows in chunks:
        kernel.add(rows)
        seq += int(numbers.sum())
        time_ns += int(rows["time_ns"].sum())
        advance(len(rows))
    return Totals(kernel.sums(), seq % WRAP, time_ns % WRAP)


def chunks(selection: Selection) -> Iterator[Chunk]:
    """The ticks of a selection, some 65,536 at a time."""
    held: list[tuple[str, Batch]] = []
    rows = 0
    for stream, batch in batches(selection):
        held.append((stream, batch))
        rows += len(batch)
        if rows >= CHUNK:
            yield chunk_of_batches(held, selection)
            held, rows = [], 0
    if held:
        yield chunk_of_batches(held, selection)


def batches(selection: Selection) -> Iterator[tuple[str, Batch]]:
    """The ticks that were there when they were counted, gaps left out."""
    left = selection.ticks
    with open_log(selection.path) as file:
        for segment, batch in in_order(parts(file)):
            if not left:
                return
            stream = selection.streams.get(segment.stream)
            if stream is None or batch.is_gap:
                continue
            if segment.symbols != stream.segment.symbols:
                reason = f"stream {segment.stream} has two tables of symbols"
                raise CorruptLog(f"{selection.path}: {reason}")
            yield segment.stream, batch
            left -= len(batch)


def chunk_of_batches(held: list[tuple[str, Batch]], selection: Selection) -> Chunk:
    """Batches as one chunk, their symbols by their place in the legend."""
    lengths = [len(batch) for _, batch in held]
    known = [len(selection.streams[name].segment.symbols) for name, _ in held]
    first = first_places(selection.streams)
    rows = np.concatenate([batch.rows for _, batch in held])  # (n,)
    if np.any(rows["symbol"] >= np.repeat(known, lengths)):
        reason = f"ticks up to {held[-1][1].next_seq - 1} are of no symbol it names"
        raise CorruptLog(f"{selection.path}: {reason}")
    offsets = np.array([first[name] for name, _ in held], np.uint32)
    rows["symbol"] += np.repeat(offsets, lengths)
    seq = [np.arange(b.first_seq, b.next_seq, dtype=np.uint64) for _, b in held]
    return Chunk(np.concatenate(seq), rows)


def first_places(streams: Mapping[str, Stream]) -> dict[str, int]:
    """Where in the legend the symbols of each stream begin."""
    lengths = [len(stream.segment.symbols) for stream in streams.values()]
    return dict(zip(streams, accumulate(lengths, initial=0), strict=False))


@contextmanager
def named_when_whole(log: Path, out: Path, force: bool) -> Iterator[Path]:
    """A file beside the one asked for, which takes its name in the end.

    Raises:
        SettingsError: the file is there.
        EnvironmentFault: the disk refused; nothing is left behind.
    """
    refuse_to_replace(log, out, force)
    part = out.with_name(out.name + ".part")
    try:
        yield part
        refuse_to_replace(log, out, force)  # it may have come meanwhile
        part.replace(out)
        sync_folder(out)
    except OSError as error:
        reason = f"{error.strerror or error}; nothing is kept, name a file elsewhere"
        raise EnvironmentFault(f"export {log} to {out}: {reason}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def refuse_to_replace(log: Path, out: Path, force: bool) -> None:
    """Keep a file that is there, and the log whatever happens."""
    if not out.exists():
        return
    if out.samefile(log):
        raise SettingsError("out", out, "that is the log itself; name another file")
    if not force:
        raise SettingsError("out", out, "it is there; --force replaces it")
