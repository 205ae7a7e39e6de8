"""A text file as numbered lines, some thousand at a time, compressed or not.

What a file is made of is told by its first bytes, not by its name. A file
that breaks off, or is no text, is refused with the line where that happened.
"""

import gzip
import lzma
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from typing import IO, BinaryIO

import zstandard

from quants.errors import RecordingError
from quants.onlooker import seen

BLOCK = 1 << 17  # bytes: parsing what they hold stops the loop for 2 to 4 ms
LONGEST = 1 << 24  # bytes of a line; a snapshot of trades takes some 10^5
SHOWN = 60  # characters of a text in an error
ZSTD_BLOCK = 1 << 10  # compressed bytes: at the very worst 32 MiB, mostly 10 KiB

GZIP, ZIP, ZSTD = b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd"
DAMAGE = (
    *(OSError, EOFError, zlib.error, zipfile.BadZipFile, zstandard.ZstdError),
    # Of a zip: encrypted, made by a method unknown here, with a rotten header.
    *(RuntimeError, ValueError, lzma.LZMAError, struct.error),
)


@dataclass(frozen=True, slots=True)
class Lines:
    """Some lines of a file, none of them blank, and their numbers."""

    path: Path
    numbers: Sequence[int]  # (n,), the first line of the file is 1
    texts: Sequence[str]  # (n,)

    def __len__(self) -> int:
        return len(self.texts)

    def __add__(self, more: "Lines") -> "Lines":
        numbers, texts = [*self.numbers, *more.numbers], [*self.texts, *more.texts]
        return Lines(self.path, numbers, texts)

    def refuse(self, index: int, reason: str) -> RecordingError:
        """The error that names one of these lines."""
        return RecordingError(self.path, self.numbers[index], reason)

    def where(self, wanted: Sequence[bool]) -> "Lines":
        """The lines that are wanted."""
        numbers = list(compress(self.numbers, wanted))
        return Lines(self.path, numbers, list(compress(self.texts, wanted)))

    def at(self, indices: Sequence[int]) -> "Lines":
        """These lines, one of them as often as it is named."""
        numbers = [self.numbers[index] for index in indices]
        return Lines(self.path, numbers, [self.texts[index] for index in indices])

    def column(self, name: str, texts: Sequence[str]) -> "Column":
        """A field of each of these lines."""
        return Column(self, name, texts)


@dataclass(frozen=True, slots=True)
class Column:
    """The same field of some lines, as texts."""

    lines: Lines
    name: str
    texts: Sequence[str]  # (n,)

    def refuse(self, index: int, reason: str) -> RecordingError:
        """The error that names one of these texts and its line."""
        text = self.texts[index]
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
        return self.lines.refuse(index, f"{self.name} {shown!r} {reason}")


def numbered_lines(path: Path) -> Generator[Lines, None, None]:
    """The lines of a file, a block at a time; blank ones are left out.

    Raises:
        RecordingError: the file cannot be read, breaks off, or is no text.
    """
    number, rest = 1, b""
    try:
        for block in blocks(path):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                yield _lines(path, number, whole)
                number += whole.count(b"\n") + 1
            if len(rest) > LONGEST:
                reason = "goes on for 16 MiB without an end; name a text file"
                raise RecordingError(path, number, reason)
    except DAMAGE as error:
        raise _damaged(path, number, error) from error
    if rest:
        yield _lines(path, number, rest)


def _damaged(path: Path, line: int, error: Exception) -> RecordingError:
    if isinstance(error, OSError) and error.strerror:
        reason = f"{error.strerror}; name a file that can be read"
        return RecordingError(path, None, reason)
    reason = f"the compressed file is damaged from here on ({error}); copy it again"
    return RecordingError(path, line, reason)


def _lines(path: Path, first: int, block: bytes) -> Lines:
    try:
        # A byte order mark may open the file.
        text = block.decode("utf-8-sig" if first == 1 else "utf-8")
        bad = block.find(b"\0")
    except UnicodeDecodeError as error:
        bad = error.start
    if bad >= 0:
        line = first + block.count(b"\n", 0, bad)
        reason = f"byte {block[bad]:#04x} is no text; name a text file or a tick log"
        raise RecordingError(path, line, reason)
    texts = text.replace("\r\n", "\n").removesuffix("\r").split("\n")
    lines = Lines(path, range(first, first + len(texts)), texts)
    return lines.where(list(map(bool, texts))) if "" in texts else lines


def first_bytes(path: Path, count: int = 4) -> bytes:
    """What a file begins with, decompressed; empty if it is empty."""
    with closing(blocks(path)) as found:
        try:
            return next(found, b"")[:count]
        except DAMAGE as error:
            raise _damaged(path, 1, error) from error


def is_packed(path: Path) -> bool:
    """Whether a file is compressed, in a way that is read here."""
    with open(path, "rb") as file:
        return file.read(4).startswith((GZIP, ZIP, ZSTD))


def blocks(path: Path) -> Generator[bytes, None, None]:
    """The bytes of a file, decompressed; never an empty block."""
    with open(path, "rb") as file:
        seen(file)
        magic = file.read(4)
        file.seek(0)
        if magic == ZSTD:
            yield from _gathered(_unzstd(file))
        elif magic == ZIP:
            yield from _unzip(file)
        elif magic.startswith(GZIP):
            with gzip.open(file) as unzipped:
                yield from _read(unzipped, BLOCK)
        else:
            yield from _read(file, BLOCK)


def _read(file: IO[bytes] | gzip.GzipFile, size: int) -> Iterator[bytes]:
    return iter(partial(file.read, size), b"")


def _gathered(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks of one size, however small or large they come."""
    held = b""
    for part in parts:
        held += part
        whole = len(held) - len(held) % BLOCK
        for start in range(0, whole, BLOCK):
            yield held[start : start + BLOCK]
        held = held[whole:]
    if held:
        yield held


def _unzip(file: BinaryIO) -> Iterator[bytes]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise zipfile.BadZipFile(f"it holds {len(names)} files, not one")
        with archive.open(names[0]) as member:
            yield from _read(member, BLOCK)


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    """One frame after the other; the library's own reader hides a torn end."""
    unpacker = zstandard.ZstdDecompressor()
    frame = unpacker.decompressobj()
    for packed in _read(file, ZSTD_BLOCK):
        rest = packed
        while rest:
            if frame.eof:
                frame = unpacker.decompressobj()
            if block := frame.decompress(rest):
                yield block
            rest = frame.unused_data
    if not frame.eof:
        raise EOFError("it breaks off inside a zstd frame")
