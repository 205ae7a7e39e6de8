"""A table of ticks: what its columns are, whatever its format.

A price is an integer of units of its symbol's last decimal. A format knows how
to write that exactly, and reads it back as the same integer.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from quants.tick import TICK, Rows, Symbol

CHUNK = 1 << 16  # rows, at most twice; the size of a Parquet row group
MOST_DECIMALS = 18  # 10**18 is the largest power of ten in an int64

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]


class Chunk(NamedTuple):
    """Some ticks and their sequence numbers."""

    seq: UInt64  # (n,)
    rows: Rows  # (n,), `symbol` is a place in the legend


Write = Callable[[Chunk], object]


@dataclass(frozen=True, slots=True)
class Legend:
    """Whom the rows of a table are about.

    Attributes:
        symbols: what `symbol` of a row points into.
        streams: the stream of each, if that is a column too.
    """

    symbols: tuple[Symbol, ...]
    streams: tuple[str, ...] = ()

    @property
    def texts(self) -> dict[str, tuple[str, ...]]:
        """The columns of text: what each says of every symbol."""
        streams = {"stream": self.streams} if self.streams else {}
        return streams | {"symbol": tuple(s.name for s in self.symbols)}

    @property
    def columns(self) -> list[str]:
        """The names of all columns, in order."""
        *streams, symbol = self.texts
        return [*streams, "seq", "time_ns", symbol, "price", "size"]

    def decimals(self, column: str) -> Int64:
        """Decimals of a column, by symbol."""
        return np.array([getattr(s, f"{column}_decimals") for s in self.symbols], int)

    def words(self, column: str) -> list[str]:
        """The different texts of a column."""
        return list(dict.fromkeys(self.texts[column]))

    def codes(self, column: str, texts: Iterable[str]) -> Int64:
        """Texts of a column as places in its `words`.

        Raises:
            KeyError: a text that is none of them.
        """
        place = {word: index for index, word in enumerate(self.words(column))}
        return np.fromiter(map(place.__getitem__, texts), int)

    def symbol(self, codes: Sequence[Int64]) -> Int64:
        """Whom rows are about, from the codes of each column of text.

        Raises:
            ValueError: a symbol that its stream does not have.
        """
        own = tuple(self.codes(name, texts) for name, texts in self.texts.items())
        known = np.full([len(self.words(name)) for name in self.texts], -1)
        known[own] = np.arange(len(self.symbols))
        symbol = known[tuple(codes)]
        if np.any(symbol < 0):
            raise ValueError("a symbol of another stream")
        return symbol


def chunk_of(seq: UInt64, time_ns: Int64, symbol: Int64, *sums: Int64) -> Chunk:
    """A chunk from columns, in the order price, size at the end."""
    rows = np.zeros(len(seq), TICK)
    columns = (time_ns, symbol, *sums)
    for name, column in zip(
        ("time_ns", "symbol", "price", "size"), columns, strict=True
    ):
        rows[name] = column
    return Chunk(seq, rows)


class Table(Protocol):
    """A format: how it is written, and read back."""

    legend: Legend

    def __init__(self, legend: Legend) -> None: ...

    def writing(self, file: BinaryIO) -> AbstractContextManager[Write]:
        """What appends a chunk, as long as the context lasts."""

    def read(self, path: Path) -> Iterator[Chunk]:
        """What a file holds, in order.

        Raises:
            ValueError, LookupError: it is not what was written.
        """
