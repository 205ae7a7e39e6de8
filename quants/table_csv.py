"""Ticks as CSV: the digits of a whole column at a time, exact.

Every character that a line may have gets a column of its own, the highest digit
first. Where a line has none (a leading zero, a sign, a shorter name) stands a 0.
Side by side they are the text, once the zeros are taken out.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from quants.table import MOST_DECIMALS, Chunk, Int64, Legend, UInt64, Write, chunk_of
from quants.tick import Rows

Characters = npt.NDArray[np.uint8]  # (n,), one of each row; 0 is none

POWERS = 10 ** np.arange(MOST_DECIMALS + 1, dtype=np.uint64)
TEXT_ROWS = 1 << 13  # at a time: their characters fit a processor's cache,
TEXT_READ = 1 << 18  # and so do the fields of as much text


class Csv:
    """UTF-8, a header, LF; each value with exactly its symbol's decimals."""

    def __init__(self, legend: Legend) -> None:
        self.legend = legend
        self.heading = ",".join(legend.columns) + "\n"
        self.names = {
            column: characters_of(map(quoted, texts))
            for column, texts in legend.texts.items()
        }

    @contextmanager
    def writing(self, file: BinaryIO) -> Iterator[Write]:
        """What appends a chunk."""
        file.write(self.heading.encode())

        def write(chunk: Chunk) -> None:
            for first in range(0, len(chunk.seq), TEXT_ROWS):
                some = slice(first, first + TEXT_ROWS)
                file.write(self.lines(chunk.seq[some], chunk.rows[some]))

        yield write

    def lines(self, seq: UInt64, rows: Rows) -> bytes:
        """Ticks as text: all characters side by side, then out with the zeros."""
        which = rows["symbol"]
        columns = {name: list(text[:, which]) for name, text in self.names.items()}
        columns["seq"] = without_zeros(digits(seq))
        columns["time_ns"] = fixed(rows["time_ns"], np.zeros(len(rows), int))
        for name in ("price", "size"):
            columns[name] = fixed(rows[name], self.legend.decimals(name)[which])
        comma, newline = (np.full(len(rows), ord(c), np.uint8) for c in ",\n")
        *fields, last = (columns[name] for name in self.legend.columns)
        line = [c for field in fields for c in (*field, comma)] + [*last, newline]
        return np.stack(line, axis=1).tobytes().translate(None, b"\0")

    def read(self, path: Path) -> Iterator[Chunk]:
        """What a file holds."""
        with open(path, encoding="utf-8", newline="\n") as file:
            if file.readline() != self.heading:
                raise ValueError("another heading")
            while text := file.read(TEXT_READ) + file.readline():
                yield self._parsed(split(text))

    def _parsed(self, fields: list[str]) -> Chunk:
        names = self.legend.columns
        texts = {name: fields[i :: len(names)] for i, name in enumerate(names)}
        codes = [self.legend.codes(name, texts[name]) for name in self.legend.texts]
        which = self.legend.symbol(codes)
        price, size = (
            integers(texts[name], self.legend.decimals(name)[which])
            for name in ("price", "size")
        )
        none = np.zeros_like(which)
        seq = integers(texts["seq"], none, np.uint64)
        return chunk_of(seq, integers(texts["time_ns"], none), which, price, size)


def quoted(text: str) -> str:
    """A field of CSV, by RFC 4180."""
    special = any(character in text for character in ',"\r\n')
    return '"' + text.replace('"', '""') + '"' if special else text


def characters_of(texts: Iterable[str]) -> npt.NDArray[np.uint8]:
    """Texts as UTF-8, each a column of a table, shape (longest, n)."""
    table = np.array([text.encode() for text in texts], "S")
    return table.view(np.uint8).reshape(len(table), -1).T


def fixed(values: Int64, decimals: Int64) -> list[Characters]:
    """The decimal texts of fixed-point integers, each with its own decimals."""
    magnitude = np.abs(values).view(np.uint64)  # right for -2**63 too
    unit, most = POWERS[decimals], int(decimals.max())
    whole = without_zeros(digits(magnitude // unit))
    fraction = digits(magnitude % unit * POWERS[most - decimals], most)
    sign = np.where(values < 0, ord("-"), 0)
    point = np.where(decimals > 0, ord("."), 0)
    kept = [np.where(i < decimals, digit, 0) for i, digit in enumerate(fraction)]
    return [c.astype(np.uint8) for c in (sign, *whole, point, *kept)]


def digits(values: UInt64, places: int = 0) -> list[Characters]:
    """The digits of integers, the highest first, as many places for all."""
    places = places or len(str(values.max()))
    ten, found = np.uint64(10), []
    for _ in range(places):
        rest = values // ten
        found.append((values - rest * ten + ord("0")).astype(np.uint8))
        values = rest
    return found[::-1]


def without_zeros(digits: list[Characters]) -> list[Characters]:
    """Numbers without their leading zeros; the last digit always stays."""
    *leading, last = digits
    begun = np.zeros(len(last), bool)
    kept = []
    for digit in leading:
        begun = begun | (digit != ord("0"))
        kept.append(np.where(begun, digit, np.uint8(0)))
    return [*kept, last]


def split(text: str) -> list[str]:
    """The fields of whole lines, one after the other."""
    if '"' in text:
        return list(chain.from_iterable(csv.reader(io.StringIO(text, newline=""))))
    return text.replace("\n", ",").split(",")[:-1]


def integers(texts: list[str], decimals: Int64, kind: type = np.int64) -> Any:
    """Fixed-point integers from texts with exactly as many decimals.

    Raises:
        ValueError: a text that is none.
    """
    joined = "\n".join(texts) + "\n"
    characters = np.frombuffer(joined.encode(), np.uint8)
    ends = np.flatnonzero(characters == ord("\n"))
    points = ends[decimals > 0] - decimals[decimals > 0] - 1
    if not np.array_equal(np.flatnonzero(characters == ord(".")), points):
        raise ValueError("a point in another place")
    values: Any = np.fromstring(joined.replace(".", ""), kind, sep="\n")
    if len(values) != len(texts):
        raise ValueError("no number")
    return values
