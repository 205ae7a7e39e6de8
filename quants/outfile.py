"""A file that we write for somebody: all of it is there, or nothing.

It is tried before the work begins, so that nobody waits a minute for a refusal.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quants.errors import EnvironmentFault


@contextmanager
def whole_file(what: str, path: Path | None) -> Iterator[Callable[[str], None]]:
    """Yield what writes a text file: as a whole, or not at all.

    Args:
        what: what the file is, for the sentence about a failure.
        path: where it goes; it is tried at once. None writes nothing.

    Raises:
        EnvironmentFault: it cannot be written.
    """
    if path is None:
        yield lambda text: None
        return
    with _refusal(what, path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        part = path.with_name(path.name + ".part")
        part.touch()

    def write(text: str) -> None:
        with _refusal(what, path):
            part.write_text(text, encoding="utf-8")
            part.replace(path)

    try:
        yield write
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def _refusal(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(
            f"{what} {path}: {error.strerror}; name a file that can be written"
        ) from error
