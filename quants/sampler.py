"""A sampling profiler: a timer rings, and the main thread's stack is noted.

The timer goes by the wall clock, so a sample in `select` is a loop that waits.
Two corrections make the shares right (measured: docs/profiling.md). The pauses
between samples are random: each ring wakes the loop, which then starts afresh,
and regular rings would always meet it at the same steps. And a stack counts
for as many samples as its ring was late: Python answers a signal between two
of its own instructions, never during a long call in C.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dis import opmap
from pathlib import Path
from random import Random
from types import FrameType

from quants.host import ringing
from quants.outfile import whole_file

INTERVAL = 0.005  # seconds between two samples, on average

# Names, not code objects: to hash those reads all their instructions, on
# Python 3.12 21 us for 25 of them instead of 0.5.
Frame = tuple[str, str, int]  # module, function, line
Stack = tuple[Frame, ...]  # outermost first

RESUME = opmap["RESUME"]


def stack_of(frame: FrameType | None) -> Stack:
    """Where a thread is: its frames, outermost first."""
    frames = []
    if frame is not None and just_entered(frame):
        frame = frame.f_back  # where the time went by
    while frame is not None:
        module = frame.f_globals.get("__name__", "?")
        frames.append((module, frame.f_code.co_qualname, frame.f_lineno))
        frame = frame.f_back
    return tuple(reversed(frames))


def just_entered(frame: FrameType) -> bool:
    """Whether a frame stands on its first instruction.

    Python looks for signals there, so it gets the blame for what came before:
    under uvloop, for half of the time that the loop waited in C.
    """
    return frame.f_code.co_code[frame.f_lasti] == RESUME


class Sampler:
    """Counts how many samples each stack is worth.

    Attributes:
        stacks: samples per stack.
    """

    def __init__(
        self,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.interval, self._clock = interval, clock
        self.stacks: Counter[Stack] = Counter()
        self._random = Random()
        self._due = clock() + interval  # when the next sample is to be taken

    def __repr__(self) -> str:
        total = self.stacks.total()
        waited = sum(n for stack, n in self.stacks.items() if waits(stack))
        return f"{total:,} samples, the loop waited in {waited / max(total, 1):.0%}"

    def take(self, frame: FrameType | None) -> float:
        """Note where the main thread is; the seconds until the next sample."""
        late = self._clock() - self._due
        self.stacks[stack_of(frame)] += 1 + round(late / self.interval)
        pause = self.interval * self._random.uniform(0.5, 1.5)
        self._due = self._clock() + pause
        return pause


def waits(stack: Stack) -> bool:
    """Whether an event loop had nothing to do.

    asyncio waits in a selector. uvloop does so in C, below `Runner.run`, where
    waiting cannot be told from its own work.
    """
    function = stack[-1][1] if stack else ""
    return function.endswith("Selector.select") or function == "Runner.run"


def collapsed(stacks: Counter[Stack]) -> str:
    """A line for each stack: frames joined by semicolons, then its samples."""
    return "".join(
        ";".join(f"{module}:{function}:{line}" for module, function, line in stack)
        + f" {samples}\n"
        for stack, samples in stacks.most_common()
    )


def speedscope(stacks: Counter[Stack], interval: float) -> str:
    """The same for https://www.speedscope.app, which opens it in the browser."""
    frames = dict.fromkeys(frame for stack in stacks for frame in stack)
    number = {frame: i for i, frame in enumerate(frames)}
    profile = {
        "type": "sampled",
        "name": "main thread",
        "unit": "seconds",
        "startValue": 0,
        "endValue": stacks.total() * interval,
        "samples": [[number[frame] for frame in stack] for stack in stacks],
        "weights": [samples * interval for samples in stacks.values()],
    }
    described = [{"name": f, "file": m, "line": n} for m, f, n in frames]
    schema = "https://www.speedscope.app/file-format-schema.json"
    whole = {"$schema": schema, "shared": {"frames": described}, "profiles": [profile]}
    return json.dumps(whole)


@contextmanager
def profiled(path: Path | None, say: Callable[[str], object]) -> Iterator[None]:
    """Sample the main thread while this lasts, then write what was seen.

    Args:
        path: a `.json` is for speedscope, any other gets collapsed stacks;
            with None nothing is sampled.
        say: told in a sentence what there is.

    Raises:
        EnvironmentFault: the file cannot be written, or nothing can be sampled.
    """
    with whole_file("profile", path) as write:
        if path is None:
            yield
            return
        sampler = Sampler()
        with ringing(sampler.interval, sampler.take):
            yield
        as_json = path.suffix == ".json"
        stacks = sampler.stacks
        write(speedscope(stacks, sampler.interval) if as_json else collapsed(stacks))
    say(f"profile {path}: {sampler}")
