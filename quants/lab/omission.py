"""Two clients of one server, and what each notes of a stall.

Who waits for each answer asks nothing during a stall, so however long it lasts,
one answer is slow. That is *coordinated omission*: the server decides which
waits are measured. Timed from when they were due, all of them are there.

For verdicts there is a server on paper: its time goes by only where somebody
waits, so a run of it is the same on every machine.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from math import inf

from quants.histogram import Histogram, seconds_text
from quants.lab.claims import Claim

Ask = Callable[[], Awaitable[None]]
Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]
Dues = Iterable[float]
Times = list[float]
Client = Callable[[Ask, Dues, Times, Clock, Sleep], Awaitable[None]]

RATE, ASKS = 200, 800  # a second, and in all
STALL_SECONDS = 0.4
SERVICE_SECONDS = 0.0006  # what an answer takes on paper


# ---- the two clients, as the notebook shows them


async def from_send(
    ask: Ask, dues: Dues, took: Times, clock: Clock, sleep: Sleep
) -> None:
    """Ask whenever it is due, and note how long each answer took."""
    for due in dues:
        await sleep(max(0.0, due - clock()))
        began = clock()
        await ask()
        took.append(clock() - began)


async def from_due(
    ask: Ask, dues: Dues, took: Times, clock: Clock, sleep: Sleep
) -> None:
    """Ask whenever it is due, and note how long each answer took."""
    for due in dues:
        await sleep(max(0.0, due - clock()))
        await ask()
        took.append(clock() - due)


# ---- what they note


@dataclass(frozen=True)
class Waits:
    """What a client noted of its answers.

    Attributes:
        client: the name of the function.
        took: seconds, one for each answer.
    """

    client: str
    took: tuple[float, ...]

    @cached_property
    def ages(self) -> Histogram:
        """All of them, counted by size."""
        ages = Histogram()
        for seconds in self.took:
            ages.record(round(seconds * 1e9))
        return ages

    @property
    def mean(self) -> float:
        """In seconds."""
        return self.ages.sum_seconds / max(1, len(self.took))

    @property
    def p99(self) -> float:
        """In seconds; one answer of a hundred took longer."""
        return self.ages.quantile(0.99)

    @property
    def slow(self) -> int:
        """Answers that took longer than half of the stall."""
        return sum(seconds > STALL_SECONDS / 2 for seconds in self.took)

    def __repr__(self) -> str:
        return (
            f"{self.client}: {len(self.took)} answers, mean {seconds_text(self.mean)}, "
            f"p99 {seconds_text(self.p99)}, longest {seconds_text(self.ages.maximum)}; "
            f"{self.slow} took longer than {seconds_text(STALL_SECONDS / 2)}."
        )


# ---- on paper: a server that is the same everywhere


class Paper:
    """A server, a clock and a sleep, all made up.

    Args:
        stall: seconds that the server stands still,
        every: each so many seconds, from `FIRST` on.
    """

    FIRST = 0.2999  # just before an ask is due

    def __init__(self, stall: float = STALL_SECONDS, every: float = inf) -> None:
        self.stall, self.every, self.now = stall, every, 0.0

    def clock(self) -> float:
        """The time; to ask takes no time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let time go by."""
        self.now += seconds

    async def ask(self) -> None:
        """Wait for the answer, and for the end of a stall before."""
        if self.now >= self.FIRST:
            since = (self.now - self.FIRST) % self.every
            self.now += max(0.0, self.stall - since)
        self.now += SERVICE_SECONDS


async def on_paper(
    client: Client,
    stall: float = STALL_SECONDS,
    every: float = inf,
    rate: int = RATE,
    asks: int = ASKS,
) -> Waits:
    """What a client notes of a server on paper."""
    paper, took = Paper(stall, every), Times()
    schedule = (number / rate for number in range(asks))
    await client(paper.ask, schedule, took, paper.clock, paper.sleep)
    return Waits(client.__name__, tuple(took))


# ---- what is claimed


def show_a_stall(waits: Waits) -> bool | None:
    """Whether mean or p99 come near the longest wait, of which there must be one."""
    if waits.slow == 0:
        return None
    return max(waits.mean, waits.p99) > waits.ages.maximum / 10


def is_one_slow_answer(send: Waits, due: Waits) -> bool | None:
    """Whether one clock counts a tenth at most of the waits the other counts."""
    if due.slow == 0 or send.slow == 0:
        return None  # nothing stalled
    return due.slow >= 10 * send.slow


def hides_it(send: Waits, due: Waits) -> bool | None:
    """Whether p99 differs a hundredfold between the clocks."""
    return None if due.slow == 0 else due.p99 >= 100 * send.p99


CLAIMS = (
    Claim(
        "mean-and-p99-show-a-stall",
        "the mean or the p99 of these times shows that somebody waited long",
        "mean and p99 of these times look as if nothing had happened",
        show_a_stall,
        "nothing stalled",
    ),
    Claim(
        "a-stall-is-one-slow-answer",
        "timed from the ask, a stall is one slow answer; from when it was due, many",
        "both clocks count about as many slow answers",
        is_one_slow_answer,
        "nothing stalled",
    ),
    Claim(
        "the-clock-hides-the-stall",
        "the same stall, another clock: p99 is more than a hundred times as long",
        "both clocks find about the same p99",
        hides_it,
        "nothing stalled",
    ),
)
