"""The host: the only module that asks the operating system itself.

Each function works on every system: what Linux alone offers is left out
elsewhere, and the docstring says what that costs.
"""

import asyncio
import ctypes
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread, current_thread, main_thread
from types import FrameType
from typing import Any

from quants.errors import EnvironmentFault

STOP_SECONDS = 3.0  # between asking a child to end and ending it

# ---- cores

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def available_cores() -> int:
    """Cores this process may use: affinity, container quota and CPU_LIMIT."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:  # macOS and Windows
        allowed = os.cpu_count() or 1
    quotas = cpu_quotas(CGROUPS, MEMBERSHIP)
    return usable_cores(allowed, [*quotas, *limit_in(os.environ)])


def usable_cores(allowed: int, limits: Sequence[float]) -> int:
    """The tightest of all limits; half a core is still one process."""
    return max(1, math.ceil(min([allowed, *limits])))


def limit_in(environment: Mapping[str, str]) -> Iterator[float]:
    """CPU_LIMIT, which Binder and other hubs set; none if it is no number."""
    try:
        limit = float(environment["CPU_LIMIT"])
    except (KeyError, ValueError):
        return
    if limit > 0:
        yield limit


def cpu_quotas(root: Path, membership: Path) -> Iterator[float]:
    """The CPU quotas, in cores, of our control groups and all above them.

    Version 2 keeps "quota period" in one file, version 1 in two. "max" and -1
    mean no quota; files that are not there (no Linux) neither.
    """
    for folder in _control_groups(root, membership):
        words = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if len(words) == 2 and words[0].isdigit():
            yield int(words[0]) / int(words[1])


def _control_groups(root: Path, membership: Path) -> Iterator[Path]:
    # A line is "id:controllers:/path"; in a container the path may name what
    # only the host can see, so the root itself counts as well.
    lines = membership.read_text("utf-8") if membership.is_file() else ""
    for line in lines.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        inner = Path(path.lstrip("/"))
        yield from (root / controllers / part for part in (inner, *inner.parents))


def _words(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").split() if file.is_file() else []


# ---- ports and children


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on now; somebody else may take it a moment later."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Sequence[str], **pipes: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that ends with this block, or when this process dies.

    It has a session of its own, so that Ctrl-C and the stop button do not reach
    it. Linux kills it when the *thread* that forked it ends: the fork happens on
    a thread that lives as long as the child. Elsewhere a SIGKILL of this process
    leaves the child behind, unless it reads a pipe from us.
    """
    started: Future[subprocess.Popen[bytes]] = Future()
    start = partial(subprocess.Popen, command, **_own_session(), **pipes)
    keeper = Thread(target=_keep, args=(start, started), daemon=True)
    keeper.start()
    child = started.result()
    try:
        yield child
    finally:
        child.terminate()
        keeper.join(STOP_SECONDS)
        child.kill()  # nothing, if it has ended
        keeper.join()
        for pipe in filter(None, (child.stdin, child.stdout)):
            pipe.close()


def _keep(
    start: Callable[[], subprocess.Popen[bytes]],
    started: Future[subprocess.Popen[bytes]],
) -> None:
    try:
        child = start()
    except BaseException as fault:
        started.set_exception(fault)
    else:
        started.set_result(child)
        child.wait()


def _own_session() -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True, "preexec_fn": _dies_with_us()}


def _dies_with_us() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>

    def between_fork_and_exec() -> None:
        prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return between_fork_and_exec


@contextmanager
def suspended(pid: int) -> Iterator[None]:
    """A process that hangs while the block runs: it is there, and does nothing."""
    import psutil  # takes 20 ms, for few

    process = psutil.Process(pid)
    process.suspend()  # SIGSTOP, and what Windows has instead
    try:
        yield
    finally:
        process.resume()


def thread_states(threads: Iterable[tuple[int, int]]) -> str:
    """A letter for each thread (pid, tid): R runs or could, S waits.

    Only Linux tells of other processes; elsewhere, and when one has ended, "".
    """
    try:
        return "".join(_state(pid, tid) for pid, tid in threads)
    except OSError:
        return ""


def _state(pid: int, tid: int) -> str:
    # Free-threaded 3.13 yields the core some forty times per buffered file.
    with open(f"/proc/{pid}/task/{tid}/stat", "rb", buffering=0) as file:
        stat = file.read(4096)
    # "tid (any name) R ...": the name may hold blanks and brackets.
    return chr(stat.rpartition(b") ")[2][0])


# ---- files


def lock_file(file: int) -> bool:
    """Whether we alone append to a file, from now until it is closed.

    Windows, and file systems without locks, keep nobody out: always True.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # this file system knows no locks
    return True


# ---- signals


@contextmanager
def stop_signals(
    first: Callable[[], object], second: Callable[[], object]
) -> Iterator[None]:
    """Call `first` on the loop at the first SIGINT or SIGTERM, then `second`.

    A plain handler that hands over to the loop: it works on every system, and
    only in the main thread.
    """
    loop = asyncio.get_running_loop()
    answers = iter([first])

    def handle(number: int, frame: object) -> None:
        loop.call_soon_threadsafe(next(answers, second))

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, previous in zip(numbers, before, strict=True):
            signal.signal(number, previous)


@contextmanager
def ringing(
    seconds: float, ring: Callable[[FrameType | None], float]
) -> Iterator[None]:
    """Call `ring` with what the main thread is doing, again and again.

    A timer of the wall clock: it also rings while the loop waits. (ITIMER_PROF
    counts the CPU time of every thread, and rings in the main thread for work
    that another did.) Python repeats the system call that a ring interrupts.

    Args:
        seconds: until the first ring.
        ring: called between two instructions; returns the seconds until the next.

    Raises:
        EnvironmentFault: not in the main thread, or no such timer (Windows).
    """
    if not hasattr(signal, "setitimer"):
        raise EnvironmentFault(
            "this system has no timer to sample by; count calls instead, with "
            '"python -m cProfile -o profile.stats -m quants run"'
        )
    if current_thread() is not main_thread():
        name = current_thread().name
        raise EnvironmentFault(
            f"signals go to the main thread, this is {name}; sample from the main one"
        )

    def handle(number: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, ring(frame))

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # one may be under way
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
