"""The exercise of notebook 07: a rolling VWAP, exact and quick however wide.

How quick an answer is, no clock decides. Its ticks are numbers that count what
is done with them: so many additions and multiplications, on every machine.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

from quants.lab.exercise import Case, Exercise

Tick = tuple[int, int]  # price, size


class RollingVwap:
    """The VWAP of the last n ticks: whole numbers in, a Fraction out."""

    def __init__(self, n: int) -> None:
        self._n, self._ticks = n, deque[Tick]()
        self._price_size = self._size = 0

    def add(self, price: int, size: int) -> None:
        self._ticks.append((price, size))
        self._price_size += price * size
        self._size += size
        if len(self._ticks) > self._n:
            price, size = self._ticks.popleft()
            self._price_size -= price * size
            self._size -= size

    def vwap(self) -> Fraction | None:
        """Σ price·size / Σ size of those ticks; None while there is no size."""
        return Fraction(self._price_size, self._size) if self._size else None


# ---- numbers that count

COUNTED = (
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__"),
    *("__neg__", "__truediv__", "__rtruediv__", "__float__"),
)
RUN = 100  # ticks that are counted, when the window is full
NARROW, WIDE = 10, 300


def counting(count: list[int]) -> type[int]:
    """Whole numbers that count what is done with them, and with what comes of it."""

    def operation(name: str) -> Callable[..., Any]:
        plain = getattr(int, name)

        def counted(*numbers: int) -> Any:
            count[0] += 1
            result = plain(*numbers)
            return number(result) if isinstance(result, int) else result

        return counted

    number: type[int] = type("Number", (int,), {n: operation(n) for n in COUNTED})
    return number


def work(answer: Any, n: int) -> int:
    """What is done with numbers for some ticks, in a full window of n."""
    count, window = [0], answer(n)
    number = counting(count)
    for tick in range(n + RUN):
        if tick == n:
            count[0] = 0
        window.add(number(100 + tick % 7), number(1 + tick % 5))
        window.vwap()
    return count[0]


# ---- what an answer is asked


def told(answer: Any, n: int, *ticks: Tick) -> list[Any]:
    """What it says before the first tick, and after each."""
    window = answer(n)
    found = [window.vwap()]
    for tick in ticks:
        window.add(*tick)
        found.append(window.vwap())
    return found


def as_quick_when_wide(answer: Any) -> bool:
    """Whether a tick is as much work in a wide window as in a narrow one."""
    return work(answer, WIDE) <= 2 * work(answer, NARROW)


def case(n: int, *ticks: Tick, says: Sequence[Any], hint: str) -> Case:
    """Some ticks for a window of n, and what is right after each."""
    return Case((n, *ticks), [None, *says], hint, told)


def cases() -> Iterator[Case]:
    """In the order in which mistakes are told apart."""
    yield case(
        3, (10, 2), (20, 3), says=[10, 16],
        hint="2 at a price of 10 and 3 at 20 are 80 for 5, a VWAP of 16; before the "
        "first tick it is None. Keep two sums, of price * size and of size.",
    )  # fmt: skip
    yield case(
        2, (10, 1), (20, 1), says=[10, 15],
        hint="A window of 2 holds 2 ticks. The first one goes when the third one "
        "comes, not earlier.",
    )  # fmt: skip
    yield case(
        2, (10, 1), (20, 1), (40, 1), says=[10, 15, 30],
        hint="In a window of 2 the third tick has come and the first one still counts. "
        "What goes must be taken from both sums.",
    )  # fmt: skip
    yield case(
        2, (10, 2), (30, 2), (60, 4), says=[10, 20, 50],
        hint="What goes is the oldest price times the oldest size, and no other: a "
        "price or a size of the tick that has just come was taken away.",
    )  # fmt: skip
    yield case(
        2, (5, 1), (10, 1), says=[5, Fraction(15, 2)],
        hint="15 for 2 are a VWAP of 7 and a half: // throws the half away. A Fraction "
        "keeps it.",
    )  # fmt: skip
    yield case(
        2, (10, 1), (11, 2), says=[10, Fraction(32, 3)],
        hint="32 for 3 are no float, nor any decimal: / has rounded it. "
        "Fraction(32, 3) is exact.",
    )  # fmt: skip
    yield case(
        1, (10**17 + 1, 10**17), says=[10**17 + 1],
        hint="Price and size have 17 digits each, their product 35: no float holds "
        "that, and NumPy's int64 does not either. Python's own whole numbers do.",
    )  # fmt: skip
    yield case(
        1, (10, 2), (20, 0), says=[10, None],
        hint="A tick of size 0 is alone in the window: there is a tick, but no size to "
        "divide by. That is None.",
    )  # fmt: skip
    yield Case(
        (), True,
        "It is right, but the wider the window, the more it has to do for a tick: it "
        "adds up anew. Add the one that comes, take away the one that goes.",
        as_quick_when_wide,
    )  # fmt: skip


ROLLING_VWAP = Exercise(
    RollingVwap,
    tuple(cases()),
    "A collections.deque of (price, size), and two sums. add() appends the tick and "
    "adds it to both; if there are more than n, popleft() gives the oldest, which is "
    "taken from both. vwap() does nothing but divide.",
)
