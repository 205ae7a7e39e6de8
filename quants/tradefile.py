"""A text file of trades, read twice: first surveyed, then given as ticks."""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from quants.errors import QuantsError, RecordingError, SettingsError
from quants.layouts import LAYOUTS
from quants.lines import Lines, numbered_lines
from quants.survey import Repeats, Survey
from quants.tick import Rows, Symbol
from quants.trades import Found, Head, Layout, Trades

HEAD = 20  # lines by which a layout is recognised
LISTED = 8  # names in a sentence


@dataclass(frozen=True, slots=True)
class Contents:
    """What a first reading found.

    Attributes:
        last_time_ns: the latest event time, not always that of the last tick.
        remarks: what the user should know, each a sentence.
        holes: how many ticks are missing, by the number of ticks before them.
    """

    symbols: tuple[Symbol, ...]
    ticks: int
    first_time_ns: int
    last_time_ns: int
    remarks: list[str]
    holes: dict[int, int] = field(default_factory=dict)


class TradeFile:
    """A text file of trades.

    Args:
        format: one of LAYOUTS, or "auto": the first lines tell.
        symbol: the name, where the file holds none; else the only one to read.
    """

    def __init__(self, path: Path, format: str, symbol: str | None) -> None:
        self.path, self.symbol = path, symbol
        self.layout = _layout(_head(path, symbol), format)
        self._survey = Survey(path)

    def contents(self) -> Contents:
        """Read the whole file once.

        Raises:
            RecordingError: a line cannot be a tick, or none is one.
            SettingsError: it does not hold the symbol.
        """
        survey, found, repeats = self._survey, Found(), Repeats()
        for trades in self._trades(found, repeats):
            survey.add(trades, self._names(found))
        if not survey.ticks:
            raise self._nothing(found)
        symbols = survey.table(self._names(found))
        remarks = [*self.layout.remarks, *self._remarks(found, repeats)]
        first, last = survey.first_time_ns, survey.last_time_ns
        return Contents(symbols, survey.ticks, first, last, remarks)

    def ticks(self) -> Generator[Rows, None, None]:
        """Read it once more; each part has at least one row."""
        left = self._survey.ticks  # the file may have grown since
        for trades in self._trades(Found(), Repeats()):
            if left > 0:
                yield self._survey.rows(trades[:left])
            left -= len(trades)

    def _trades(self, found: Found, repeats: Repeats) -> Iterator[Trades]:
        for lines in numbered_lines(self.path):
            trades = self.layout.read(lines, found)
            if self.symbol is not None:
                wanted = found.symbols.get(self.symbol, -1)
                trades = trades[trades["symbol"] == wanted]
                trades["symbol"] = 0
            trades = repeats.without(trades)
            if len(trades):
                yield trades

    def _names(self, found: Found) -> list[str]:
        return list(found.symbols) if self.symbol is None else [self.symbol]

    def _nothing(self, found: Found) -> QuantsError:
        if self.symbol is not None and found.symbols:
            return no_symbol(self.path, self.symbol, list(found.symbols))
        reason = f"holds no trade{_skipped(found, ', only ')}; name another file"
        return RecordingError(self.path, None, reason)

    def _remarks(self, found: Found, repeats: Repeats) -> Iterator[str]:
        if found.skipped:
            yield _skipped(found, "Lines that are no trade are left out: ") + "."
        if repeats.dropped:
            yield f"Trades dropped, for their id came before: {repeats.dropped:,}."
        if self._survey.late:
            late = f"{self._survey.late:,}"
            yield f"Trades earlier than one before them, left in their place: {late}."
        names = self._names(found)
        holes = [f"{n:,} of {names[at]}" for at, n in repeats.missing().items() if n]
        if holes and self.layout.counts_up:
            yield f"Trades missing, by their ids: {listed(holes)}."


def _head(path: Path, symbol: str | None) -> Head:
    """The first lines, be they in one block or in several."""
    lines = Lines(path, [], [])
    with closing(numbered_lines(path)) as found:
        while len(lines) < HEAD and (more := next(found, None)):
            lines += more
    if not lines:
        raise RecordingError(path, None, "holds no line; name a file of trades")
    return Head(lines.at(range(min(HEAD, len(lines)))), symbol)


def _layout(head: Head, format: str) -> Layout:
    for recognised in [LAYOUTS[format]] if format in LAYOUTS else LAYOUTS.values():
        if layout := recognised(head):
            return layout
    if format in LAYOUTS:
        raise head.lines.refuse(0, f"is not in the layout {format}; try another")
    reason = f"{head.lines.path} is in no layout that its first lines tell"
    raise SettingsError("format", format, f"{reason}; say {' or '.join(LAYOUTS)}")


def no_symbol(path: Path, symbol: str, names: list[str]) -> SettingsError:
    """The error of a file without the wanted symbol."""
    return SettingsError("symbol", symbol, f"not in {path}; it holds {listed(names)}")


def listed(texts: list[str]) -> str:
    """Texts in a sentence, the first eight of them."""
    more = len(texts) - LISTED
    return ", ".join(texts[:LISTED]) + (f" and {more:,} others" if more > 0 else "")


def _skipped(found: Found, before: str) -> str:
    kinds = [f"{n:,} {kind or 'nameless'}" for kind, n in found.skipped.most_common()]
    return before + listed(kinds) if kinds else ""
