"""Export: the ticks of a log as a table, .csv or .parquet, exact.

A log of any length goes through in chunks, into a file beside the one asked
for. That file is read back; only if it adds up to what the log does is it given
its name. A gap has no rows: how many ticks are missing is said, never made up.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from quants.errors import CorruptLog, EnvironmentFault, SettingsError
from quants.kernels import NumpyKernel
from quants.selection import Selection, chunks
from quants.sums import Sums
from quants.table import Chunk, Table, Write
from quants.table_csv import Csv
from quants.table_parquet import Parquet

Advance = Callable[[int], object]
WRAP = 1 << 64

TABLES: Mapping[str, type[Table]] = {".csv": Csv, ".parquet": Parquet}


class Totals(NamedTuple):
    """What ticks add up to."""

    sums: list[Sums]  # by symbol
    seq: int  # modulo 2**64, as NumPy adds
    time_ns: int


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
    if out.suffix.lower() not in TABLES:
        raise SettingsError("out", out, "name a file that ends in .csv or .parquet")
    table = TABLES[out.suffix.lower()](selection.legend)
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
    except (ValueError, LookupError):
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


@contextmanager
def named_when_whole(log: Path, out: Path, force: bool) -> Iterator[Path]:
    """A file beside the one asked for, which takes its name in the end.

    Raises:
        SettingsError: the file is there.
        EnvironmentFault: the disk refused; nothing is left behind.
    """
    part = out.with_name(out.name + ".part")
    if any(path.exists() and path.samefile(log) for path in (out, part)):
        raise SettingsError("out", out, "the log itself lies there; name another file")
    refuse_to_replace(out, force)
    try:
        yield part
        refuse_to_replace(out, force)  # it may have come meanwhile
        part.replace(out)
    except OSError as error:
        reason = f"{error.strerror or error}; nothing is kept, name a file elsewhere"
        raise EnvironmentFault(f"export {log} to {out}: {reason}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def refuse_to_replace(out: Path, force: bool) -> None:
    """Keep a file that is there, unless it is to be replaced."""
    if out.exists() and not force:
        raise SettingsError("out", out, "it is there; --force replaces it")
