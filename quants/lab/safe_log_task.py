"""The exercise of notebook 04: a log that loses at most one batch at a kill."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from quants.doomed import Seal
from quants.lab.exercise import Answer, Case, Exercise


def safe_log(path: Path, seal: Seal) -> BinaryIO:
    """Open a log, new or old, and return its file, to go on at the end.

    Whole batches in it stay, a torn one at the end goes. No buffer: what
    file.write(seal.on(batch)) is given must outlive a kill right after it.
    seal.on(batch) is the batch with its length and a checksum before it;
    seal.off(data) is the list of whole batches in data, up to a torn one.
    """
    file = open(path, "a+b", buffering=0)  # noqa: SIM115 - who asked closes it
    file.seek(0)
    whole = b"".join(map(seal.on, seal.off(file.read())))
    file.truncate(len(whole))
    return file


# ---- how an answer is tried

BATCHES = (b"first", b"the second batch", b"third", b"")
NEXT = b"after the crash"

Try = Callable[[Answer, Path], Any]


def somewhere(attempt: Try, answer: Answer) -> Any:
    """Try an answer with a file in a folder that goes away."""
    with TemporaryDirectory() as folder:
        return attempt(answer, Path(folder) / "log")


def append(answer: Answer, path: Path, *batches: bytes) -> bytes:
    """Open a log and append; the bytes in the file while it is still open."""
    seal = Seal()
    file = answer(path, seal)
    try:
        for batch in batches:
            file.write(seal.on(batch))
        return path.read_bytes()
    finally:
        file.close()


def once(answer: Answer, path: Path) -> list[bytes]:
    """A new log, closed and read."""
    append(answer, path, *BATCHES)
    return Seal().off(path.read_bytes())


def killed(answer: Answer, path: Path) -> list[bytes]:
    """A kill: what is in the file before it is closed is all there is."""
    return Seal().off(append(answer, path, *BATCHES))


def again(answer: Answer, path: Path) -> list[bytes]:
    """A log opened a second time, and appended to."""
    append(answer, path, *BATCHES[:2])
    append(answer, path, *BATCHES[2:])
    return Seal().off(path.read_bytes())


def first_again(answer: Answer, path: Path) -> bool:
    """Whether anything outlives a second opening."""
    return again(answer, path)[:1] == [BATCHES[0]]


def torn(answer: Answer, path: Path) -> list[int]:
    """A log cut at each of its bytes, opened, appended to; the cuts it lost by."""
    seal, failed = Seal(), []
    whole = b"".join(map(seal.on, BATCHES))
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        left = seal.off(whole[:cut])
        append(answer, path, NEXT)
        if seal.off(path.read_bytes()) != [*left, NEXT]:
            failed.append(cut)
    return failed


def case(attempt: Try, expected: Any, hint: str) -> Case:
    """A case whose argument is what is done to the log."""
    return Case((attempt,), expected, hint, lambda answer, do: somewhere(do, answer))


SAFE_LOG = Exercise(
    safe_log,
    (
        case(
            once, [*BATCHES],
            "A new log was opened, four batches written and the file closed: these "
            "four should be in it. Return the file, open for writing bytes.",
        ),
        case(
            killed, [*BATCHES],
            "Four batches were written, then came kill -9, and some were gone. A "
            "buffer dies with its process: open(..., buffering=0) has none.",
        ),
        case(
            first_again, True,
            "The log was opened again, and all it had held was gone. Mode "
            '"w" begins anew; "a+b" goes on, and can be read after seek(0).',
        ),
        case(
            again, [*BATCHES],
            "A log without any torn end was opened again, and its last batches were "
            "gone. A batch takes more than its own bytes: count those of its seal.",
        ),
        case(
            torn, [],
            "After a kill in the middle of a write the log was opened and went on, "
            "and what came later could not be read: it lies behind the torn batch. "
            "Cut that off first: file.truncate(bytes).",
        ),
    ),
    "Open it to append, without a buffer. Read all of it; what seal.off() finds is "
    "whole, and seal.on() tells how many bytes that takes. Truncate to them.",
)  # fmt: skip
