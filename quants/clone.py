"""The reader's clone: notebooks as they came, copies to change, solved exercises.

A copy is made once. The checksum that its original had then is kept beside it,
so that a notebook which has changed in the repository since is known, and said.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path

from quants.errors import EnvironmentFault, SettingsError

ORIGINALS, COPIES, MINE = "notebooks", "my-notebooks", "mine"
NUMBERED = "[0-9][0-9]_*.ipynb"
FIRST = "00_the_bell_rings.ipynb"  # a folder that has it is our notebooks'
RECORD = ".copied-from.json"  # in COPIES: name -> checksum of the original

Sums = Mapping[str, str]  # SHA-256 by file name


def clone_around(folder: Path) -> Path | None:
    """The clone that a folder is, or lies in."""
    around = (folder, *folder.parents)
    return next((f for f in around if (f / ORIGINALS / FIRST).is_file()), None)


def mine_for(folder: Path) -> Path:
    """Where solved exercises are kept by a notebook that runs in a folder.

    One place for all notebooks of a clone and for their copies, at its top;
    elsewhere beside the notebook.
    """
    return (clone_around(folder) or folder) / MINE


def newer(originals: Sums, copied: Sums) -> list[str]:
    """The notebooks that are not what their copies were made from."""
    return [n for n, total in originals.items() if copied.get(n, total) != total]


class Copies:
    """The notebooks of a clone, and the reader's copies of them.

    Args:
        clone: its top folder.

    Raises:
        EnvironmentFault: the copies cannot be written.
    """

    def __init__(self, clone: Path) -> None:
        self.clone, self.originals = clone, clone / ORIGINALS
        self.folder = clone / COPIES
        self.sums = {
            file.name: sha256(file.read_bytes()).hexdigest()
            for file in sorted(self.originals.glob(NUMBERED))
        }

    def named(self, words: str) -> str:
        """The notebook that a number or the start of a name means.

        Raises:
            SettingsError: there is none, or more than one.
        """
        start = words.zfill(2) if words.isdigit() else Path(words).name
        found = [name for name in self.sums if name.startswith(start)]
        if len(found) != 1:
            numbers = ", ".join(name[:2] for name in self.sums)
            raise SettingsError("notebook", words, f"name one of {numbers}")
        return found[0]

    def copy_missing(self) -> list[str]:
        """Copy what has no copy yet; the names."""
        missing = [name for name in self.sums if not (self.folder / name).exists()]
        self._copy(missing)
        return missing

    def refresh(self, name: str) -> str | None:
        """Copy a notebook anew; the name under which the old copy is kept."""
        kept = None
        if (old := self.folder / name).exists():
            free = (f"{old.stem}_kept_{n}.ipynb" for n in count(1))
            kept = next(new for new in free if not (self.folder / new).exists())
            with refusal(old):
                old.rename(old.with_name(kept))
        self._copy([name])
        return kept

    def outdated(self) -> list[str]:
        """The notebooks that have changed since they were copied."""
        return newer(self.sums, self._record())

    def _copy(self, names: list[str]) -> None:
        # A copy of which nothing is recorded counts as one of today's notebook.
        record = {**self.sums, **self._record()} | {n: self.sums[n] for n in names}
        with refusal(self.folder):
            self.folder.mkdir(exist_ok=True)
            for name in names:
                part = self.folder / f".{name}.part"
                shutil.copyfile(self.originals / name, part)
                part.replace(self.folder / name)  # whole, or not at all
            text = json.dumps(record, indent=1)
            (self.folder / RECORD).write_text(text, encoding="utf-8")

    def _record(self) -> Sums:
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}


@contextmanager
def refusal(path: Path) -> Iterator[None]:
    """Say in a sentence what the disk refuses.

    Raises:
        EnvironmentFault: it did.
    """
    try:
        yield
    except OSError as fault:
        said = fault.strerror or fault
        raise EnvironmentFault(
            f"{path}: {said}; a place to write to is needed"
        ) from fault
