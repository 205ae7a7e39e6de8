"""Recorded trades as a source of ticks: files of exchanges, CSV, our own log.

A file is read twice. The first reading finds the symbols, the decimals that
each needs, and what is wrong: a line that no tick can hold exactly is refused
by its number. The second gives the ticks, some thousand at a time, so a file
may be larger than the memory. A trade whose id came before is dropped; all
others stay in the order of the file.
"""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Self

import numpy as np

from quants.errors import RecordingError, SettingsError
from quants.frame import MAGIC
from quants.lines import first_bytes, is_packed
from quants.recovery import replay_segments, scan
from quants.tick import NO_ROWS, Rows
from quants.tradefile import Contents, TradeFile, no_symbol

Ticks = Generator[Rows, None, None]

FORMATS = {
    "binance": "Binance aggTrades or trades, CSV, spot or futures",
    "coinbase": "Coinbase Exchange, JSON messages; the matches",
    "coinbase-advanced": "Coinbase Advanced, JSON messages; market_trades",
    "lobster": "LOBSTER messages; the executions",
    "csv": "CSV with a header: time, price, size, symbol, id",
    "log": "a tick log of ours; its last stream",
}


class Recording:
    """A source of ticks that ends and can be read again; close it after use.

    Args:
        path: of the file, to name it.
        contents: what the first reading found.
        read: reads the ticks, from the first on.
    """

    def __init__(
        self, path: Path, contents: Contents, read: Callable[[], Ticks]
    ) -> None:
        self.path, self.symbols, self.ticks = path, contents.symbols, contents.ticks
        self.first_time_ns = contents.first_time_ns
        self.last_time_ns = contents.last_time_ns
        self.remarks, self.holes = contents.remarks, contents.holes
        self.taken = 0  # since the beginning
        self._read = read
        self._open: Ticks | None = None
        self._rest = NO_ROWS  # read, not yet taken

    def __repr__(self) -> str:
        return (
            f"<Recording {self.path}: {self.taken:,} of {self.ticks:,} ticks taken, "
            f"{len(self.symbols)} symbols>"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, n: int) -> Rows:
        """The next n rows, read-only; fewer at the end, then none.

        Raises:
            RecordingError: the file is not what it was at the first reading.
        """
        parts = list(self._parts(min(n, self.ticks - self.taken)))
        if len(parts) == 1:
            return parts[0]
        rows = np.concatenate([NO_ROWS, *parts])
        rows.flags.writeable = False
        return rows

    def _parts(self, n: int) -> Iterator[Rows]:
        self._open = self._open or self._read()
        while n > 0:
            if not len(self._rest):
                self._rest = next(self._open, NO_ROWS)
            if not len(self._rest):
                reason = "became shorter while it was read; let nobody write the file"
                raise RecordingError(self.path, None, reason)
            part, self._rest = self._rest[:n], self._rest[n:]
            self.taken += len(part)
            n -= len(part)
            yield part

    def rewind(self) -> None:
        """Begin again with the first tick."""
        self.close()
        self._rest, self.taken = NO_ROWS, 0

    def close(self) -> None:
        """Close the file."""
        if self._open:
            self._open.close()
        self._open = None


def open_recording(
    path: str | Path, format: str = "auto", symbol: str | None = None
) -> Recording:
    """Read a recording once, and give it as a source.

    Args:
        format: one of FORMATS, or "auto": the first lines tell.
        symbol: the name, where the file holds none; else the only one to give.

    Raises:
        RecordingError: the file, or a line of it, cannot be ticks.
        SettingsError: the format cannot be told, or the symbol is not there.
    """
    path = Path(path)
    if format not in ("auto", *FORMATS):
        raise SettingsError("format", format, f"say {' or '.join(FORMATS)}")
    if path.exists() and not path.is_file():
        reason = "is no file that can be read twice; save it to one first"
        raise RecordingError(path, None, reason)
    magic = first_bytes(path)
    if not magic:
        raise RecordingError(path, None, "is empty; name a file that holds trades")
    if magic == MAGIC and is_packed(path):
        reason = "is a compressed tick log; decompress it first"
        raise RecordingError(path, None, reason)
    ours = format == "log" or (format == "auto" and magic == MAGIC)
    file = LogFile(path, symbol) if ours else TradeFile(path, format, symbol)
    return Recording(path, file.contents(), file.ticks)


class LogFile:
    """The last stream of a tick log.

    Args:
        symbol: the only one to read, if not all.

    Raises:
        EnvironmentFault: the log cannot be read.
        RecordingError: it holds no tick, or not what its symbols are.
        SettingsError: it is no tick log, or does not hold the symbol.
    """

    def __init__(self, path: Path, symbol: str | None) -> None:
        self.path = path
        streams = list(scan(path).streams.values())
        symbols = streams[-1].segment.symbols if streams else ()
        if not symbols:
            reason = "names no symbol in its last stream; quants verify tells more"
            raise RecordingError(path, None, reason)
        names = [each.name for each in symbols]
        if symbol is not None and symbol not in names:
            raise no_symbol(path, symbol, names)
        self._wanted = None if symbol is None else names.index(symbol)
        self._symbols = symbols if symbol is None else (symbols[names.index(symbol)],)
        self._stream, self._missing = streams[-1].segment.stream, streams[-1].gap_ticks

    def contents(self) -> Contents:
        """Read the whole log once."""
        times, holes, before = list[tuple[int, int]](), dict[int, int](), 0
        for rows, missing in self._parts():
            if len(rows):
                times.append((int(rows["time_ns"][0]), int(rows["time_ns"].max())))
                before += len(rows)
            elif missing:
                holes[before] = holes.get(before, 0) + missing
        if not times:
            reason = "holds no tick of that; quants verify tells what it holds"
            raise RecordingError(self.path, None, reason)
        lost = f"Ticks missing in the log: {self._missing:,}."
        last = max(latest for _, latest in times)
        remarks = [lost] if self._missing else []
        return Contents(self._symbols, before, times[0][0], last, remarks, holes)

    def ticks(self) -> Ticks:
        """Read it once more; each part has at least one row."""
        return (rows for rows, _ in self._parts() if len(rows))

    def _parts(self) -> Generator[tuple[Rows, int], None, None]:
        """Rows, or how many are missing; of one symbol nobody can tell that."""
        for _, batch in replay_segments(self.path, self._stream):
            rows, missing = batch.rows, batch.span if batch.is_gap else 0
            if self._wanted is not None:
                rows, missing = rows[rows["symbol"] == self._wanted], 0
                rows["symbol"] = 0
                rows.flags.writeable = False
            yield rows, missing
