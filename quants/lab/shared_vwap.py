"""The exercise of notebook 05: a VWAP that several threads add to.

A race cannot be waited for. So the cases make it happen: one thread is stopped
before a chosen bytecode of the answer, and another one goes first. Done for
every bytecode in turn, no switch is left that could still surprise.
"""

import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from threading import Event, Lock, Thread
from types import FrameType
from typing import Any

from quants.lab.exercise import Case, Exercise

PATIENCE = 0.01  # seconds that the stopped one gives the other, who may wait
MOST_STOPS = 150  # bytecodes; the reference has some 35
END = 1.0  # second until a thread that waits for a lock is given up

Add = tuple[Any, int]  # price, size


class SharedVwap:
    """A VWAP that any number of threads add ticks to, and read, at any time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._price_size = self._size = 0

    def add(self, price: int, size: int) -> None:
        with self._lock:
            self._price_size += price * size
            self._size += size

    def vwap(self) -> Fraction | None:
        """Σ price·size / Σ size, as a Fraction; None while there is no size."""
        with self._lock:
            if not self._size:
                return None
            return Fraction(self._price_size, self._size)


# ---- a thread that stops where it is told to


def stopped_at(
    place: int, act: Callable[[], Any], code: str, other: Callable[[], Any]
) -> bool:
    """Act, but let another thread go first before a bytecode.

    Args:
        place: the number of that bytecode, of those from the file `code`.

    Returns:
        whether there was such a bytecode.
    """
    ran, threads = 0, list[Thread]()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal ran
        if frame.f_code.co_filename != code:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if ran == place:
                threads.append(begun(other))
            ran += 1
        return trace

    def traced() -> None:
        # Up to Python 3.12 no bytecode is traced unless this was set before.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(trace)
        try:
            act()
        finally:
            sys.settrace(None)

    ended(Thread(target=traced, daemon=True))
    for thread in threads:
        thread.join(END)
    return ran > place


def begun(act: Callable[[], Any]) -> Thread:
    """A thread that acts; it has some time to end, or waits for a lock."""
    started = Event()

    def go() -> None:
        started.set()
        act()

    thread = Thread(target=go, daemon=True)
    thread.start()
    started.wait(END)
    thread.join(PATIENCE)
    return thread


def ended(thread: Thread) -> bool:
    """Start a thread; whether it ends."""
    thread.start()
    thread.join(END)
    return not thread.is_alive()


# ---- what an answer is asked


FIRST, SECOND, THIRD = (10, 2), (20, 3), (40, 5)


def vwap_of(*ticks: Add) -> Fraction:
    """By hand."""
    return Fraction(sum(p * s for p, s in ticks), sum(s for _, s in ticks))


def one_thread(answer: Any) -> Any:
    """No size first, then two ticks."""
    shared = answer()
    before = shared.vwap()
    for tick in (FIRST, SECOND):
        shared.add(*tick)
    return before, shared.vwap()


def everywhere(answer: Any, scene: Callable[[Any, int], tuple[bool, bool]]) -> bool:
    """Whether all goes well, wherever a thread is stopped."""
    for place in range(MOST_STOPS):
        shared = answer()
        shared.add(*FIRST)
        reached, well = scene(shared, place)
        if not reached:
            break
        if not well:
            return False
    return True


def two_add(shared: Any, place: int) -> tuple[bool, bool]:
    """A tick is added in the middle of another one."""
    reached = stopped_at(
        place, lambda: shared.add(*SECOND), file_of(shared), lambda: shared.add(*THIRD)
    )
    return reached, shared.vwap() == vwap_of(FIRST, SECOND, THIRD)


def add_while_reading(shared: Any, place: int) -> tuple[bool, bool]:
    """A tick is added in the middle of a look."""
    looks: list[Any] = []
    reached = stopped_at(
        place, lambda: looks.append(shared.vwap()), file_of(shared),
        lambda: shared.add(*SECOND),
    )  # fmt: skip
    return reached, set(looks) <= {vwap_of(FIRST), vwap_of(FIRST, SECOND)}


def read_while_adding(shared: Any, place: int) -> tuple[bool, bool]:
    """Somebody looks in the middle of an addition."""
    looks: list[Any] = []
    reached = stopped_at(
        place, lambda: shared.add(*SECOND), file_of(shared),
        lambda: looks.append(shared.vwap()),
    )  # fmt: skip
    return reached, set(looks) <= {vwap_of(FIRST), vwap_of(FIRST, SECOND)}


def file_of(shared: Any) -> str:
    """Where the answer's bytecodes come from."""
    return str(shared.add.__func__.__code__.co_filename)


def after_a_bad_tick(answer: Any) -> Any:
    """A tick without a price raises; the next one is added all the same."""
    shared, found = answer(), list[Any]()

    def both() -> None:
        try:
            shared.add(None, 2)
        except TypeError:
            pass
        shared.add(*FIRST)
        found.append(shared.vwap())

    ended(Thread(target=both, daemon=True))
    return next(iter(found), "waits for ever")


def cases() -> Iterator[Case]:
    """In the order in which mistakes are told apart."""
    yield Case(
        (), (None, vwap_of(FIRST, SECOND)),
        "With a single thread, 2 at a price of 10 and 3 at 20 are Fraction(80, 5), "
        "and None before. Keep two sums, of price * size and of size.",
        one_thread,
    )  # fmt: skip
    yield Case(
        (two_add,), True,
        "An update was lost: two threads read the same old sum, and the second to "
        "write wins. All that reads and writes a sum belongs under one lock, the "
        "same for all threads.",
        everywhere,
    )  # fmt: skip
    yield Case(
        (add_while_reading,), True,
        "A tick came in while vwap() had read one sum and not yet the other. Whoever "
        "reads two sums needs the lock too.",
        everywhere,
    )  # fmt: skip
    yield Case(
        (read_while_adding,), True,
        "Somebody looked between your two additions, and saw the money of a tick "
        "without its size. Both belong into one locked block.",
        everywhere,
    )  # fmt: skip
    yield Case(
        (), vwap_of(FIRST),
        "A tick without a price raised TypeError, and nobody could add after that: the "
        "lock was never given back. `with` gives it back whatever happens.",
        after_a_bad_tick,
    )  # fmt: skip


SHARED_VWAP = Exercise(
    SharedVwap,
    tuple(cases()),
    "One threading.Lock, made in __init__; `with self._lock:` around the whole body "
    "of add(), and of vwap(). Or let a single thread own the sums, and all others "
    "hand it their ticks through a queue.Queue.",
)
