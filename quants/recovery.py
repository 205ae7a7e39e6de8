"""Reading a tick log back, and making it fit to be appended to again.

`replay` yields each tick of a stream once, in order, in the bytes that were
appended. What rotted, or never came, is a gap; a wrong tick never comes out.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import IO, BinaryIO, cast

from quants.errors import EnvironmentFault, SettingsError
from quants.frame import MAGIC
from quants.host import lock_file
from quants.logfile import READ_AHEAD, Hole, Part, Segment, in_order, parts
from quants.onlooker import seen
from quants.tick import Batch

WRITABLE = "name a file that this process may write"


def replay(path: str | Path, stream: str = "last") -> Iterator[Batch]:
    """The ticks of a stream, in order, each once; what is missing is a gap.

    Args:
        stream: its id, or "last" (the one logged last), or "all".

    Raises:
        EnvironmentFault: the log cannot be read.
        SettingsError: it is no tick log, or holds no such stream.
    """
    return (batch for _, batch in replay_segments(path, stream))


def replay_frames(path: str | Path, stream: str = "last") -> Iterator[bytes]:
    """The same as frames: bytes as they were appended."""
    return (batch.frame for _, batch in replay_segments(path, stream))


def replay_segments(
    path: str | Path, stream: str = "last"
) -> Iterator[tuple[Segment, Batch]]:
    """The same, each batch with the segment that names its symbols."""
    if stream != "all":
        stream = _existing(scan(path), stream)
    with open_log(path) as file:
        for segment, batch in in_order(parts(file)):
            if stream in ("all", segment.stream):
                yield segment, batch


def _existing(found: "Recovered", stream: str) -> str:
    if stream == "last" and found.streams:
        return list(found.streams)[-1]
    if stream not in found.streams:
        held = ", ".join(found.streams) or "no stream"
        raise SettingsError("stream", stream, f"{found.path} holds {held}")
    return stream


@dataclass(slots=True)
class Stream:
    """What a log holds of one stream, counted as `replay` yields it."""

    segment: Segment  # its newest
    next_seq: int
    ticks: int = 0
    gaps: int = 0
    gap_ticks: int = 0


@dataclass(slots=True)
class Recovered:
    """What a log holds, and what it lost.

    Attributes:
        streams: by id; the last one is that of the newest segment.
        frames: whole ones of ticks and gaps, as they lie in the file.
        holes: rot inside.
        torn: the bytes after the last whole frame, if there are any.
    """

    path: Path
    streams: dict[str, Stream] = field(default_factory=dict)
    frames: int = 0
    holes: list[Hole] = field(default_factory=list)
    torn: Hole | None = None

    @property
    def ticks(self) -> int:
        """Ticks of all streams."""
        return sum(stream.ticks for stream in self.streams.values())

    def note(self, part: Part) -> Part:
        """Count a part as it lies in the file, and pass it on."""
        if isinstance(part, Segment):
            self._newest(part)
        elif isinstance(part, Batch):
            self.frames += 1
        elif part.at_end:
            self.torn = part
        else:
            self.holes.append(part)
        return part

    def count(self, segment: Segment, batch: Batch) -> None:
        """Count a batch as `replay` yields it."""
        if segment.stream not in self.streams:
            self._newest(segment)  # its header has rotted
        stream = self.streams[segment.stream]
        stream.next_seq = batch.next_seq
        stream.ticks += len(batch)
        if batch.is_gap:
            stream.gaps += 1
            stream.gap_ticks += batch.span

    def _newest(self, segment: Segment) -> None:
        fresh = Stream(segment, segment.first_seq)
        stream = self.streams.pop(segment.stream, fresh)
        stream.segment = segment
        self.streams[segment.stream] = stream  # the last one now


def scan(path: str | Path) -> Recovered:
    """Read a whole log and count; nothing is changed.

    Raises:
        EnvironmentFault: the log cannot be read.
        SettingsError: it is no tick log.
    """
    found = Recovered(Path(path))
    with open_log(path) as file:
        head = file.read(len(MAGIC))
        for segment, batch in in_order(map(found.note, parts(file))):
            found.count(segment, batch)
    if not (MAGIC.startswith(head) or found.streams):
        reason = f"not a tick log, it begins with {head!r}; name another file"
        raise SettingsError("log-file", path, reason)
    return found


def recover_for_append(path: str | Path) -> str:
    """Keep every whole frame; move a torn tail to a file beside the log.

    Returns:
        What was kept and moved, in a sentence; empty if nothing was torn.
    """
    with open_log(path, "r+b") as file:
        return set_torn_tail_aside(path, file)


def set_torn_tail_aside(path: str | Path, file: BinaryIO) -> str:
    """`recover_for_append` of a log that is open for writing, and locked."""
    found = scan(path)
    if not found.torn:
        return ""
    offset, length = found.torn.offset, found.torn.length
    beside = _unused(f"{path}.torn-{offset}")
    file.seek(offset)
    with open(beside, "xb") as tail:
        shutil.copyfileobj(file, tail)
        tail.flush()
        os.fsync(tail.fileno())  # the tail is safe before the log is cut
    file.truncate(offset)
    kept = f"{found.frames:,} whole frames ({found.ticks:,} ticks)"
    return f"{path}: kept {kept}, moved a torn tail of {length:,} bytes to {beside}"


def _unused(name: str) -> Path:
    names = chain([name], (f"{name}-{again}" for again in count(2)))
    return next(path for path in map(Path, names) if not path.exists())


def open_log(path: str | Path, mode: str = "rb") -> BinaryIO:
    """Open a log; for writing, lock it against every other process.

    Raises:
        EnvironmentFault: it cannot be opened so, or another process writes it.
    """
    way_out = "name a file that can be read" if mode == "rb" else WRITABLE
    try:
        # The caller's `with` closes it.
        file = open(path, mode, READ_AHEAD if mode == "rb" else 0)  # noqa: SIM115
    except OSError as error:
        raise EnvironmentFault(f"log {path}: {error.strerror}; {way_out}") from error
    reason = _refusal(file, mode)
    if reason:
        file.close()
        raise EnvironmentFault(f"log {path}: {reason}; {way_out}")
    return seen(cast(BinaryIO, file))


def _refusal(file: IO[bytes], mode: str) -> str:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return "not a regular file"
    if mode != "rb" and not lock_file(file.fileno()):
        return "another process appends to it"
    return ""
