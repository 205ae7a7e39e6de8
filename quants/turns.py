"""Workers that count, watched: who runs Python while another does?

They are watched twice. First no thread asks another for the GIL: what B counts
while A runs is exactly nothing, if they share one. Then they ask as usual, and
each notes its own CPU time, and Linux is asked again and again who is runnable.
"""

import multiprocessing
import os
import signal
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import Any

from quants.errors import EnvironmentFault
from quants.host import thread_states

NEVER = 1000.0  # seconds until a thread that waits asks for the GIL
SELDOM = 0.02  # with the usual 5 ms the one that waits is often up to ask
WORK_SECONDS, WORK_CPU_SECONDS = 0.25, 0.1  # at least: hogs may leave little
LEADS = (0.05, 0.5, 5.0)  # seconds for all to arrive
LOOK_SECONDS = 0.001
MIN_LOOKS = 20
DEADLINE = 60.0  # seconds; free-threaded 3.13 took 20 to start beside eight hogs

Track = list[tuple[float, float, int]]  # moment, CPU seconds, counted so far
Answer = tuple[float, Track]  # when it arrived, and what it did
Look = tuple[float, bool]  # moment, all runnable


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of some workers; A is the first of them to start.

    Attributes:
        seconds: how long A ran, and was not asked for the GIL.
        beside: what the others counted meanwhile.
        after: what they counted when A had finished.
        shares: of a core, that each got while all of them worked.
        runnable: share of the looks that found all runnable; None: not seen.
    """

    seconds: float
    beside: int
    after: int
    shares: tuple[float, ...]
    runnable: float | None = None


def watch(processes: int, threads: int, looking: bool = True) -> Observation:
    """See how workers get on, twice: nobody asks for the GIL, then all do.

    Threads, too, run in a process of their own. To hold the GIL in this one
    would stop a notebook's kernel, and a thread that spins never gives it back.
    """
    with ExitStack() as stack:
        team = [stack.enter_context(_worker(threads)) for _ in range(processes)]
        for pipe in team:
            _answer(pipe)  # it has started
        held, _ = _run(team, NEVER, False)
        tracks, looks = _run(team, SELDOM, looking)
    return Observation(*beside(held), *together(tracks, looks))


def beside(tracks: list[Track]) -> tuple[float, int, int]:
    """How long the first ran; what the others counted meanwhile, and after it."""
    first, *others = sorted(tracks)
    start, end = first[0][0], first[-1][0]
    counted = sum(gained(track, start, end)[1] for track in others)
    return end - start, counted, sum(track[-1][2] for track in others) - counted


def together(
    tracks: list[Track], looks: list[Look]
) -> tuple[tuple[float, ...], float | None]:
    """Shares of a core, and of looks, from the latest start to the first end."""
    start, end = max(t[0][0] for t in tracks), min(t[-1][0] for t in tracks)
    if start >= end:
        return (), None
    shares = tuple(gained(track, start, end)[0] / (end - start) for track in tracks)
    inside = [runnable for moment, runnable in looks if start <= moment <= end]
    enough = len(inside) >= MIN_LOOKS
    return shares, sum(inside) / len(inside) if enough else None


def gained(track: Track, start: float, end: float) -> tuple[float, int]:
    """CPU seconds and count between the first note in a time and the last."""
    inside = [note for note in track if start <= note[0] <= end]
    if not inside:
        return 0.0, 0
    (_, cpu, counted), (_, more_cpu, more) = inside[0], inside[-1]
    return more_cpu - cpu, more - counted


def _run(
    team: list[Connection], interval: float, looking: bool
) -> tuple[list[Track], list[Look]]:
    """Let all workers count from the same moment on, and look at them.

    One that arrives when another has begun would count nothing beside it,
    whoever has the GIL: then all of them begin again.
    """
    for lead in LEADS:
        begin = time.perf_counter() + lead
        for pipe in team:
            pipe.send((interval, begin))
        threads = [thread for pipe in team for thread in _answer(pipe)]
        looks = list(_looks(team, threads)) if looking else []
        answers = [answer for pipe in team for answer in _answer(pipe)]
        if max(arrived for arrived, _ in answers) < begin:
            return [track for _, track in answers], looks
    raise EnvironmentFault(
        f"the workers did not meet in {LEADS[-1]:g} s; try on a quieter machine"
    )


def _looks(team: list[Connection], threads: list[tuple[int, int]]) -> Iterator[Look]:
    late = time.monotonic() + DEADLINE
    while not wait(team, LOOK_SECONDS) and time.monotonic() < late:
        if states := thread_states(threads):
            yield time.perf_counter(), set(states) == {"R"}


def _answer(pipe: Connection) -> Any:
    if not pipe.poll(DEADLINE):
        raise EnvironmentFault(
            f"a worker gave no answer in {DEADLINE:g} s; try on a quieter machine"
        )
    return pipe.recv()


@contextmanager
def _worker(threads: int) -> Iterator[Connection]:
    """A worker process; it ends with this block, or soon after this process."""
    # Never fork: it copies locks that other threads of a kernel hold.
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=work, args=(theirs, threads), daemon=True)
    with _gil_as_here():
        process.start()
    theirs.close()
    try:
        yield ours
    except (EOFError, ConnectionError) as error:
        raise EnvironmentFault(
            "a worker ended before its answer; in a script, ask under "
            'if __name__ == "__main__":'
        ) from error
    finally:
        ours.close()
        process.kill()  # it has nothing to finish
        process.join()
        process.close()


@contextmanager
def _gil_as_here() -> Iterator[None]:
    # A free-threaded build: an import may have switched the GIL on in here.
    before = os.environ.get("PYTHON_GIL")
    switched = sysconfig.get_config_var("Py_GIL_DISABLED") and gil_enabled()
    if not switched or before:
        yield
        return
    os.environ["PYTHON_GIL"] = "1"
    try:
        yield
    finally:
        del os.environ["PYTHON_GIL"]


def gil_enabled() -> bool:
    """Whether this process has a GIL, now."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


# ---- in the worker


def work(pipe: Connection, threads: int) -> None:
    """Let threads count when told to, until the pipe's other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is meant for the parent
    with suppress(EOFError, OSError):
        pipe.send("started")
        while True:
            interval, begin = pipe.recv()
            sys.setswitchinterval(interval)  # nobody else lives here
            answers: list[Answer] = []
            # Daemons: they are not waited for if our parent dies now.
            team = [
                Thread(target=count, args=(begin, answers), daemon=True)
                for _ in range(threads)
            ]
            for thread in team:
                thread.start()
            pipe.send([(os.getpid(), thread.native_id) for thread in team])
            for thread in team:
                thread.join()
            pipe.send(answers)


def count(begin: float, answers: list[Answer]) -> None:
    """Count for a while from a moment on, and note now and then how far."""
    arrived = time.perf_counter()
    # No lock: to be woken by one may take long, and looks like a GIL in the way.
    while time.perf_counter() < begin:
        time.sleep(LOOK_SECONDS)
    counted = 0
    track: Track = [(time.perf_counter(), time.thread_time(), 0)]
    end, cpu = track[0][0] + WORK_SECONDS, track[0][1] + WORK_CPU_SECONDS
    # Nothing in this loop gives up the GIL, unless it is asked for.
    while track[-1][0] < end or track[-1][1] < cpu:
        for _ in range(10_000):  # some 0.5 ms
            counted += 1
        track.append((time.perf_counter(), time.thread_time(), counted))
    answers.append((arrived, track))
