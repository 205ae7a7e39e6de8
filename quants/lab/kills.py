"""A real kill -9 of a process that logs, and what its log still holds.

await kills.kill("buffered")   a file as `open` gives it
await kills.kill("TickLog")    the pump's own log
await kills.kill("safe_log")    the reader's, or the reference
"""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Literal

from quants.doomed import Seal
from quants.host import running
from quants.lab.claims import Claim
from quants.lab.exercise import Answer, source_of
from quants.lab.session import session
from quants.recovery import scan
from quants.tick import TICK

Logging = Literal["buffered", "TickLog", "safe_log"]
ENOUGH = {"buffered": 1000, "TickLog": 20_000, "safe_log": 200}  # before the kill


@dataclass(frozen=True)
class Killed:
    """What a killed process had said, and what its file holds.

    Attributes:
        said: what it took for logged; batches of a safe_log, else ticks.
        held: what can be read.
    """

    way: Logging
    said: int
    held: int
    unit: str = "ticks"

    @property
    def lost(self) -> int:
        """Of what it had said."""
        return max(0, self.said - self.held)

    def __repr__(self) -> str:
        return (
            f"{self.way}: said {self.said:,} {self.unit} were logged, was killed, and "
            f"its file holds {self.held:,}: {self.lost:,} lost."
        )


async def kill(way: Logging, answer: Answer | None = None) -> Killed:
    """Let a process log, kill it, and read what it left.

    Args:
        answer: what opens a safe_log.
    """
    path = (await session()).folder / f"{way}.killed"
    path.unlink(missing_ok=True)
    arguments = [way, str(path)]
    if answer:
        source = path.with_suffix(".py")
        # What an annotation names need not be known over there.
        text = f"from __future__ import annotations\n\n{source_of(answer)}"
        source.write_text(text, encoding="utf-8")
        arguments.append(str(source))
    said = await asyncio.to_thread(last_words, arguments, ENOUGH[way])
    return await asyncio.to_thread(autopsy, way, path, said, answer)


def last_words(arguments: list[str], enough: int) -> int:
    """Start a process, kill it when it has logged enough; its last number."""
    command = [sys.executable, "-m", "quants.doomed", *arguments]
    words = [b"0\n"]  # should it end before it has logged anything
    with running(command, stdout=PIPE) as child:
        assert child.stdout is not None
        for line in child.stdout:
            words.append(line)
            if int(line) >= enough:
                break
        child.kill()  # kill -9: nobody is asked, nothing is flushed
        words += child.stdout.readlines()
    return max(int(word) for word in words if word.endswith(b"\n"))


def autopsy(way: Logging, path: Path, said: int, answer: Answer | None) -> Killed:
    """What the file of a killed process holds."""
    if way == "buffered":
        return Killed(way, said, path.stat().st_size // TICK.itemsize)
    if way == "TickLog":
        return Killed(way, said, scan(path).ticks)
    assert answer is not None
    answer(path, Seal()).close()  # as the next process would open it
    return Killed(way, said, len(Seal().off(path.read_bytes())), "batches")


# ---- what is claimed


def survives(killed: Killed) -> bool | None:
    """Whether all it had said can be read."""
    return not killed.lost if killed.said else None


CLAIMS = (
    Claim(
        "what-was-written-survives-a-kill",
        "all that the log had acknowledged can be read after kill -9",
        "ticks that the log had acknowledged are gone after kill -9",
        survives,
        "the process had logged nothing when it was killed",
    ),
    Claim(
        "what-was-appended-survives-a-kill",
        "what went into a buffered file survives kill -9",
        "what a buffer of the process held is gone after kill -9",
        survives,
        "the process had logged nothing when it was killed",
    ),
    Claim(
        "your-log-survives-a-kill",
        "each batch that this log had accepted can be read after kill -9",
        "batches that this log had accepted are gone after kill -9",
        survives,
        "the process had logged nothing when it was killed",
    ),
)
