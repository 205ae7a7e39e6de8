"""What of a tick log is meant, and its ticks in chunks of a table.

A log may be appended to meanwhile. It is counted once; what comes later is not
in the selection, so that what is counted and what is read are the same ticks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from quants.errors import CorruptLog, SettingsError
from quants.logfile import in_order, parts
from quants.recovery import Recovered, Stream, open_log, scan
from quants.table import CHUNK, MOST_DECIMALS, Chunk, Legend
from quants.tick import Batch


@dataclass(frozen=True, slots=True)
class Selection:
    """The streams of a log that are exported, as they were at one moment.

    Attributes:
        damaged: bytes of the log, rotten or torn, that may have held more.
    """

    path: Path
    streams: Mapping[str, Stream]
    legend: Legend
    damaged: int

    @property
    def ticks(self) -> int:
        """Ticks, each of which becomes a row."""
        return sum(stream.ticks for stream in self.streams.values())


def select(path: Path, stream: str = "last") -> Selection:
    """What of a log is to be exported.

    Args:
        stream: its id, or "last" (the one logged last), or "all".

    Raises:
        SettingsError: it is no tick log, or holds no such stream.
        CorruptLog: nobody knows any more what symbols these ticks are of.
    """
    found = counted(path)
    streams = chosen(found, stream)
    if not streams:
        raise SettingsError("stream", stream, f"{path} holds no stream")
    legend = legend_of(path, streams, with_streams=stream == "all")
    holes = [*found.holes, found.torn] if found.torn else found.holes
    return Selection(path, streams, legend, sum(hole.length for hole in holes))


def counted(path: Path) -> Recovered:
    """What a log holds; half a frame that has grown since is not torn.

    Raises:
        SettingsError: it is no tick log, or not there.
    """
    if not path.exists():
        raise SettingsError("log", path, "no such file; name a tick log")
    found = scan(path)
    torn = found.torn
    if torn and path.stat().st_size > torn.offset + torn.length:
        found.torn = None  # another process was appending it
    return found


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
    if not symbols:
        return "the header that named its symbols has rotted"
    if len(set(names)) < len(names):
        return "two of its symbols have one name"
    if not "".join([name, *names]).isprintable():
        return "a name in it is not printable"
    if decimals and not 0 <= min(decimals) <= max(decimals) <= MOST_DECIMALS:
        return f"a symbol has {max(decimals)} decimals, {MOST_DECIMALS} are the most"
    return ""


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
