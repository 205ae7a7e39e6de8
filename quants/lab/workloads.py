"""What any interpreter can be asked to do: this file is sent to it.

An interpreter that is found on a machine has the standard library, and often
nothing else. So this file imports nothing else, and is asked in a process of
the guest's own, from a folder that holds nothing but a copy of it:

    python -c "import workloads; workloads.main()" count threads

The answer is a line of JSON.
"""

import hashlib
import json
import multiprocessing
import os
import platform
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

Track = list[tuple[float, float, int]]  # moment, CPU seconds, counted so far


def facts() -> dict[str, Any]:
    """Which interpreter this is."""
    build = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return {
        "kind": platform.python_implementation(),
        "version": platform.python_version() + build,
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
    }


# ---- who counts while another does

NEVER = 1000.0  # seconds until a thread that waits asks for the GIL
LEADS = (0.1, 0.5, 5.0)  # seconds for both to arrive
COUNT_SECONDS, COUNT_CPU_SECONDS = 0.25, 0.1  # at least: hogs may leave little


def count(file: str, begin: float) -> None:
    """Count for a while from a moment on, and write down how far, and when."""
    arrived = time.perf_counter()
    while time.perf_counter() < begin:
        time.sleep(0.001)
    counted = 0
    track: Track = [(time.perf_counter(), time.thread_time(), 0)]
    end, cpu = track[0][0] + COUNT_SECONDS, track[0][1] + COUNT_CPU_SECONDS
    # Nothing in this loop gives up the GIL, unless it is asked for.
    while track[-1][0] < end or track[-1][1] < cpu:
        for _ in range(10_000):
            counted += 1
        track.append((time.perf_counter(), time.thread_time(), counted))
    Path(file).write_text(json.dumps([arrived, track]), encoding="utf-8")


def in_thread(file: str, begin: float) -> None:
    """Count in this thread, as the other one does in its own."""
    count(file, begin)


def in_interpreter(file: str, begin: float) -> None:
    """Count in this thread, in an interpreter made for it."""
    interpreters = low_level()
    mine = interpreters.create()
    code = f"import workloads; workloads.count({file!r}, {begin!r})"
    interpreters.run_string(mine, code)
    interpreters.destroy(mine)


def low_level() -> Any:
    """Sub-interpreters, before 3.14 made them public; None if there are none."""
    for name in ("_interpreters", "_xxsubinterpreters"):  # from 3.13, up to 3.12
        if find_spec(name):
            return import_module(name)
    return None


WAYS = {"threads": in_thread, "interpreters": in_interpreter}


def counted(way: str) -> dict[str, Any]:
    """Let A and B count from the same moment on; nobody asks for the GIL."""
    if way == "interpreters" and low_level() is None:
        raise NotImplementedError("it has no sub-interpreters")
    sys.setswitchinterval(NEVER)  # nobody else lives here
    for lead in LEADS:
        begin = time.perf_counter() + lead
        files = [f"{way}-{os.getpid()}-{name}.json" for name in "AB"]
        team = [Thread(target=WAYS[way], args=(file, begin)) for file in files]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        answers = [json.loads(Path(file).read_text("utf-8")) for file in files]
        # One that arrives when the other has begun would count nothing beside it.
        if max(arrived for arrived, _ in answers) < begin:
            return {"tracks": [track for _, track in answers]}
    raise TimeoutError("A and B did not meet")


def loads(module: str) -> str:
    """Whether a module that is installed loads in a sub-interpreter, too."""
    if find_spec(module) is None:
        return "not installed"
    interpreters, file = low_level(), f"{module}-{os.getpid()}.txt"
    mine = interpreters.create()
    code = f"import workloads; workloads.try_import({module!r}, {file!r})"
    interpreters.run_string(mine, code)
    interpreters.destroy(mine)
    return Path(file).read_text("utf-8")


def try_import(module: str, file: str) -> None:
    """Write down whether a module can be imported here."""
    try:
        import_module(module)
    except ImportError:
        said = "refuses"
    else:
        said = "loads"
    Path(file).write_text(said, encoding="utf-8")


# ---- work for two


def add_up(numbers: int) -> int:
    """Plain Python, which holds the GIL."""
    total = 0
    for number in range(numbers):
        total += number * number
    return total


def hash_zeros(size: int) -> str:
    """Work done in C, which lets go of the GIL while it hashes."""
    return hashlib.sha256(bytes(size)).hexdigest()


def wait_for(milliseconds: int) -> None:
    """No work at all: an answer is on its way."""
    time.sleep(milliseconds / 1e3)


Piece = tuple[Callable[[int], Any], int, int]  # what is done, with what, how often
WORKLOADS: dict[str, Piece] = {
    "sum": (add_up, 60_000, 8),
    "crumbs": (add_up, 50, 200),
    "hash": (hash_zeros, 4_000_000, 8),
    "wait": (wait_for, 10, 8),
}
WORKERS = 2


def end_with_parent() -> None:
    """Let this worker process end when its parent does, however that ended."""

    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()


def pools(stack: ExitStack) -> Iterator[tuple[str, futures.Executor]]:
    """An executor of each kind that this interpreter offers, started."""
    yield "threads", stack.enter_context(futures.ThreadPoolExecutor(WORKERS))
    # Never fork: it copies locks that other threads hold.
    spawn = multiprocessing.get_context("spawn")
    processes = futures.ProcessPoolExecutor(WORKERS, spawn, end_with_parent)
    yield "processes", stack.enter_context(processes)
    if interpreters := getattr(futures, "InterpreterPoolExecutor", None):
        yield "interpreters", stack.enter_context(interpreters(WORKERS))


def race(rounds: int) -> dict[str, Any]:
    """Do each workload here, and by two workers of each kind, in turn.

    Answers with the fastest of the rounds: seconds, by workload and engine.
    """
    with ExitStack() as stack:
        teams = dict(pools(stack))
        maps: dict[str, Callable[..., Iterable[Any]]] = {"inline": map}
        maps |= {name: team.map for name, team in teams.items()}
        return {
            workload: fastest(maps, work, rounds)
            for workload, work in WORKLOADS.items()
        }


def fastest(
    maps: dict[str, Callable[..., Iterable[Any]]], work: Piece, rounds: int
) -> dict[str, float]:
    """The least seconds that the pieces took, by engine."""
    function, argument, times = work
    best = dict.fromkeys(maps, float("inf"))
    for map_of in maps.values():
        list(map_of(function, [argument] * WORKERS))  # all are started
    for _ in range(rounds):
        for name, map_of in maps.items():
            since = time.perf_counter()
            list(map_of(function, [argument] * times))
            best[name] = min(best[name], time.perf_counter() - since)
    return best


# ---- what is asked


def answer(question: str, *arguments: str) -> dict[str, Any]:
    """What an interpreter says to a question."""
    if question == "facts":
        return facts()
    if question == "count":
        return counted(*arguments)
    if question == "loads":
        return {"said": loads(*arguments)}
    return {"seconds": race(int(arguments[0]))}


def main() -> None:
    """Answer what the command line asks, or say why not."""
    try:
        said = answer(*sys.argv[1:])
    except Exception as fault:
        said = {"fault": f"{type(fault).__name__}: {fault}"}
    print(json.dumps(said))
