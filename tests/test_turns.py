"""quants/turns.py: who ran while another did, in notes made by hand and in life."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import psutil
import pytest

from benchmarks.verdicts import CONDITIONS, decided, expected
from quants import turns
from quants.errors import EnvironmentFault
from quants.evidence import conclude
from quants.host import thread_states
from quants.turns import _answer, _gil_as_here, _run, _worker, beside, together, watch

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

# Moment, CPU seconds, counted: from 0 to 3 s, and from 2 to 6 s.
EARLY = [(0.0, 5.0, 0), (1.0, 5.5, 10), (2.0, 6.0, 20), (3.0, 6.5, 30)]
LATE = [(2.0, 1.0, 0), (3.0, 1.25, 7), (6.0, 4.0, 70)]
AFTER = [(3.5, 1.0, 0), (6.0, 3.5, 90)]


# ---- by hand


def test_nothing_is_counted_beside_one_who_has_finished_before():
    assert beside([AFTER, EARLY]) == (3.0, 0, 90)


def test_what_is_counted_at_the_same_time_is_counted_beside():
    assert beside([LATE, EARLY]) == (3.0, 7, 63)


def test_shares_are_those_of_the_time_in_which_all_work():
    assert together([EARLY, LATE], []) == ((0.5, 0.25), None)


def test_without_a_time_in_which_all_work_there_are_no_shares():
    assert together([EARLY, AFTER], [(3.2, True)] * 99) == ((), None)


def test_looks_count_while_all_work():
    before, within = [(1.9, True)] * 50, [(2.5, True)] * 5 + [(2.6, False)] * 15
    _, runnable = together([EARLY, LATE], before + within + [(3.1, True)] * 50)
    assert runnable == 0.25


def test_too_few_looks_are_none():
    assert together([EARLY, LATE], [(2.5, True)] * 19)[1] is None
    assert together([EARLY, LATE], [(2.5, True)] * 20)[1] == 1.0


# ---- in life


@pytest.mark.parametrize("condition", CONDITIONS)
def test_verdicts_are_right(condition):
    """`make verdicts` does this twenty times over."""
    for (name, portable), conclusions in decided(condition, rounds=1).items():
        for conclusion in conclusions:
            assert conclusion.verdict == expected(name), f"{portable=}\n{conclusion}"


@contextmanager
def kernel_threads() -> Iterator[None]:
    """Eight threads: four never rest, four send themselves a byte."""
    stopped = threading.Event()

    def spin():
        while not stopped.is_set():
            sum(range(1000))

    def echo():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            while not stopped.is_set():
                ours.send(b"x")
                theirs.recv(1)

    team = [threading.Thread(target=target) for target in [spin, echo] * 4]
    for thread in team:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in team:
            thread.join()


def test_other_threads_do_not_disturb_and_are_not_disturbed():
    before = sys.getswitchinterval()
    with kernel_threads():
        found = conclude("threads-take-turns")
    assert found.verdict == expected("threads-take-turns"), found
    assert sys.getswitchinterval() == before


def interrupted(children: int):
    assert children == 2
    raise KeyboardInterrupt


def test_no_process_is_left():
    with pytest.raises(KeyboardInterrupt), _worker(1), _worker(1):
        interrupted(len(multiprocessing.active_children()))
    assert multiprocessing.active_children() == []


def begun(pipe: Connection) -> int:
    """Set a worker to work; its process id."""
    assert _answer(pipe) == "started"
    pipe.send((0.005, time.perf_counter() + 0.05))
    [(pid, _)] = _answer(pipe)
    return int(pid)


@POSIX
def test_a_worker_ignores_ctrl_c():
    with _worker(1) as pipe:
        os.kill(begun(pipe), signal.SIGINT)
        [(_, track)] = _answer(pipe)
    assert track[-1][2] > 0


def answer_of_the_dead(pipe: Connection):
    psutil.Process(begun(pipe)).kill()
    _answer(pipe)


def test_a_worker_that_is_killed_is_told_of():
    with (
        pytest.raises(EnvironmentFault, match="ended before its answer"),
        _worker(1) as pipe,
    ):
        answer_of_the_dead(pipe)


def silence(pipe: Connection):
    while True:  # it says once that it has started
        _answer(pipe)


def test_workers_that_arrive_late_begin_again(monkeypatch):
    """What nobody counts beside one who began too early is no evidence."""
    monkeypatch.setattr(turns, "LEADS", (-1.0, 1.0))
    with _worker(1) as pipe:
        assert _answer(pipe) == "started"
        before = time.perf_counter()
        [track], _ = _run([pipe], 0.005, False)
    assert track[0][0] - before > 1.0


def test_workers_that_never_meet_are_told_of(monkeypatch):
    monkeypatch.setattr(turns, "LEADS", (-1.0,))
    with pytest.raises(EnvironmentFault, match=r"did not meet in -1 s"):
        watch(1, 2)


def test_a_silent_worker_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(turns, "DEADLINE", 0.01)
    with (
        pytest.raises(EnvironmentFault, match=r"no answer in 0\.01 s"),
        _worker(1) as pipe,
    ):
        silence(pipe)
    assert multiprocessing.active_children() == []


PARENT = """
import time
from quants.turns import _worker
with _worker(1) as pipe:
    pipe.recv()
    pipe.send((0.005, time.perf_counter() + 1))
    print(pipe.recv()[0][0], flush=True)
    time.sleep(60)
"""


def test_a_worker_ends_with_a_parent_that_is_killed():
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    deadline = time.monotonic() + 30
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.01)


def test_children_of_a_free_threaded_build_have_a_gil_if_we_have(monkeypatch):
    """An import may have switched it on here; it has not yet in the child."""
    monkeypatch.delenv("PYTHON_GIL", raising=False)
    monkeypatch.setattr(sysconfig, "get_config_var", {"Py_GIL_DISABLED": 1}.get)
    for enabled, told in ((True, "1"), (False, None)):
        monkeypatch.setattr(turns, "gil_enabled", lambda enabled=enabled: enabled)
        with _gil_as_here():
            assert os.environ.get("PYTHON_GIL") == told
        assert "PYTHON_GIL" not in os.environ


@LINUX
def test_linux_tells_who_runs_whatever_a_thread_is_called():
    with open("/proc/thread-self/comm", "w", encoding="utf-8") as file:
        file.write("a) Z (b")
    waits = threading.Event()
    thread = threading.Thread(target=waits.wait)
    thread.start()
    pid = os.getpid()
    us, them = (pid, threading.get_native_id()), (pid, thread.native_id or 0)
    try:
        while thread_states([us, them]) != "RS":
            time.sleep(0)
    finally:
        waits.set()
        thread.join()
    deadline = time.monotonic() + 30
    # Python is done with a thread a moment before Linux is.
    while thread_states([us, them]):
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.001)
