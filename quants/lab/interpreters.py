"""Interpreters on this machine, asked in turn, and what others answered before.

One is found by the variable QUANTS_PYTHONS, which names some, with blanks
between, or on the PATH as python3.11 and the like; the kernel's own is always
there. Each gets a copy of `workloads`, in a folder of its own, and a process.

Those that are not found have left their answers in recorded.json, and whatever
is said of one of them says that it is recorded.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from quants.errors import QuantsError
from quants.host import running
from quants.lab import workloads
from quants.lab.session import session

RECORDED = Path(__file__).parent / "recorded.json"
NAMES = [f"python3.{minor}{build}" for minor in range(11, 16) for build in ("", "t")]
SECONDS = 20.0  # for an answer; it takes one or two
ASK = "import workloads; workloads.main()"


class NoAnswer(QuantsError):
    """An interpreter that does not start, or cannot do what it is asked."""


class Guest(NamedTuple):
    """An interpreter.

    Attributes:
        version: three numbers, and a t if it was built to run without a GIL.
        gil: whether it runs with one.
        path: where it is; None: its answers are recorded.
    """

    kind: str
    version: str
    gil: bool
    path: str | None = None

    @property
    def minor(self) -> tuple[int, ...]:
        """The first two numbers of its version."""
        return tuple(map(int, self.version.split(".")[:2]))

    @property
    def sort(self) -> tuple[str, tuple[int, ...], bool, bool]:
        """What tells it from others; two of the same sort are one too many."""
        return self.kind, self.minor, self.version.endswith("t"), self.gil

    @property
    def own_gils(self) -> bool:
        """Whether its sub-interpreters have a GIL each, where it has one at all."""
        return self.minor >= (3, 12)

    @property
    def name(self) -> str:
        """How it is named in a picture."""
        odd = " +GIL" if self.gil and self.version.endswith("t") else ""
        return f"{self.label}{odd}"

    @property
    def label(self) -> str:
        """Its version; of whose Python, unless it is the usual one."""
        return self.version if self.kind == "CPython" else f"{self.kind} {self.version}"

    def __str__(self) -> str:
        where = "" if self.path else " (recorded)"
        return f"{self.label}, GIL {'on' if self.gil else 'off'}{where}"


def ask(guest: Guest, folder: Path, *question: str, seconds: float = SECONDS) -> Any:
    """Ask a guest something, in a process of its own.

    Raises:
        NoAnswer: it does not start, takes too long, or cannot.
    """
    assert guest.path, "a recorded one answers no more"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    switch = {"PYTHON_GIL": "1"} if guest.gil and guest.version.endswith("t") else {}
    pipes = {
        "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "cwd": folder,
        "env": clean | switch | {"PYTHONPATH": str(folder)},
    }  # fmt: skip
    try:
        with running([guest.path, "-c", ASK, *question], **pipes) as child:
            said = json.loads(child.communicate(timeout=seconds)[0] or "{}")
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"no answer within {seconds:g} s") from None
    except (OSError, ValueError):
        raise NoAnswer("it does not start") from None
    if fault := said.get("fault", "" if said else "it does not start"):
        raise NoAnswer(fault)
    return said


def candidates() -> Iterator[str]:
    """Where an interpreter may be: the kernel's own, those named, those found."""
    yield sys.executable
    yield from os.environ.get("QUANTS_PYTHONS", "").split()
    yield from filter(None, map(shutil.which, NAMES))


@dataclass(frozen=True)
class Guests:
    """The interpreters of this machine.

    Attributes:
        all: one of each sort; one built without a GIL is there twice.
        skipped: names of others, and why they are not among them.
        folder: where they find what they are asked to do.
    """

    all: tuple[Guest, ...]
    skipped: tuple[str, ...]
    folder: Path

    def __repr__(self) -> str:
        names = "; ".join(map(str, self.all))
        left = f" Left out: {', '.join(self.skipped)}." if self.skipped else ""
        return f"Found here: {names}.{left}"


async def found(looking: Callable[[], Iterator[str]] = candidates) -> Guests:
    """The interpreters of this machine, asked who they are."""
    folder = (await session()).folder / "guests"
    folder.mkdir(exist_ok=True)
    shutil.copy(workloads.__file__, folder / "workloads.py")
    return await asyncio.to_thread(introduced, list(looking()), folder)


def introduced(paths: Sequence[str], folder: Path) -> Guests:
    """One interpreter of each sort among these, the first of its sort."""
    sorts: dict[Any, Guest] = {}
    skipped = []
    for path in paths:
        try:
            said = ask(Guest("", "0.0", True, path), folder, "facts", seconds=5.0)
        except NoAnswer as reason:
            skipped.append(f"{Path(path).name} ({reason})")
            continue
        guest = Guest(**said, path=path)
        sorts.setdefault(guest.sort, guest)
        if not guest.gil:
            switched = guest._replace(gil=True)
            sorts.setdefault(switched.sort, switched)
    in_order = sorted(sorts.values(), key=lambda guest: guest.sort)
    return Guests(tuple(in_order), tuple(skipped), folder)


# ---- what is recorded


def recorded() -> dict[Guest, dict[str, Any]]:
    """The guests whose answers are recorded, and the answers."""
    rows = json.loads(RECORDED.read_text(encoding="utf-8"))["guests"]
    return {Guest(*row["guest"]): row for row in rows}


def where_recorded() -> str:
    """The machine that the recorded answers are from."""
    said = json.loads(RECORDED.read_text(encoding="utf-8"))["host"]
    return f"Recorded on {said}."
