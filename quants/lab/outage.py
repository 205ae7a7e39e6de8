"""A Redis that stops, or gets slow and then stops, as a breaker sees it.

A script says what Redis does and when; checks come at a steady rate all the
while. What became of them, and the breaker's states, is one picture.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Literal, NamedTuple

from quants.breaker import Breaker, State
from quants.errors import NotAsked, RedisFault
from quants.host import suspended
from quants.lab.charts import Chart
from quants.lab.checks import Check, Checks, Fate
from quants.lab.claims import Claim
from quants.lab.live import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION
from quants.lab.session import end, session
from quants.lab.slow_redis import SlowRedis, answers
from quants.limits import read_limits
from quants.market import Market
from quants.metrics import Registry
from quants.redis_server import RedisServer
from quants.waiting import RedisThreads

Mood = Literal["well", "slow", "frozen"]
Script = Sequence[tuple[Mood, float]]  # and for how many seconds

FROZEN: Script = (("well", 0.5), ("frozen", 1.5))
RATE = 100  # checks a second
THREADS = 4
SLOW_SECONDS = 0.3
LOOK_SECONDS = 0.005
PATIENCE, AFTER = 10.0, 0.3  # seconds: until it is well again, and then
STATES = {State.CLOSED: GREEN, State.HALF_OPEN: ORANGE, State.OPEN: VERMILION}
SHADES: dict[Mood, str] = {"slow": "#F5F5F5", "frozen": "#E9E9E9"}
FATES: dict[Fate, str] = {"answered": BLUE, "gave up": PURPLE, "not asked": GREY}


class Phase(NamedTuple):
    """What Redis did, from when to when."""

    mood: Mood
    begin: float
    end: float


@dataclass(frozen=True)
class Outage:
    """What checks went through while Redis came and went.

    Attributes:
        states: the breaker's, and the seconds at which each was seen first.
        without: checks that ended without any limit, fresh or old.
        server: who answered, when anybody did.
    """

    checks: tuple[Check, ...]
    states: tuple[tuple[float, State], ...]
    phases: tuple[Phase, ...]
    server: str
    without: int = 0

    @property
    def away(self) -> list[Check]:
        """The checks that began while Redis was not well."""
        ill = [phase for phase in self.phases if phase.mood != "well"]
        return [c for c in self.checks if any(p.begin <= c.begun < p.end for p in ill)]

    @property
    def asked(self) -> int:
        """Of those, the ones that asked it, in vain or not."""
        return sum(check.fate != "not asked" for check in self.away)

    @property
    def recovered(self) -> bool:
        """Whether checks were answered again in the end."""
        over = self.phases[-1].end
        return any(c.fate == "answered" and c.begun > over for c in self.checks)

    def __repr__(self) -> str:
        ill = next(phase.begin for phase in self.phases if phase.mood != "well")
        opened = next((at for at, state in self.states if state is State.OPEN), ill)
        closed, over = self.states[-1][0], self.phases[-1].end
        return (
            f"{len(self.away)} checks came while Redis was away: {self.asked} asked "
            f"it. The breaker opened after {opened - ill:.2f} s, and closed "
            f"{max(0.0, closed - over):.2f} s after Redis was back."
        )

    def picture(self) -> Chart:
        """What each check took, below a strip of the breaker's states."""
        moods = ", then ".join(p.mood for p in self.phases if p.mood != "well")
        chart = Chart(
            f"The breaker while Redis is {moods}",
            n=f"n = {len(self.checks)} checks; {self.server}",
            alt="Over time: a strip that says whether the breaker is closed, half "
            "open or open, and below it how long each check took, logarithmic: those "
            "that were answered, those that gave up, and those that did not ask. "
            "Shaded is the time in which Redis did not answer in time.",
        )  # fmt: skip
        axes = chart.panel("time (s)", "a check took (ms)", log="y")
        over = max(check.begun for check in self.checks)
        for mood, begin, end_ in self.phases:
            if mood != "well":
                axes.axvspan(begin, end_, color=SHADES[mood], linewidth=0)
                axes.text(begin, 0.013, f" {mood}", fontsize=8)
        for fate, colour in FATES.items():
            dots = [(c.begun, c.took * 1e3) for c in self.checks if c.fate == fate]
            if dots:
                axes.plot(*zip(*dots, strict=True), ".", color=colour, markersize=5)
                x, y = (median(each) for each in zip(*dots, strict=True))
                axes.text(x, 6 * y, fate, fontsize=8, color=colour, ha="center")
        ends = [at for at, _ in self.states[1:]] + [over]
        for (at, state), until in zip(self.states, ends, strict=True):
            axes.axvspan(at, until, 1.03, 1.1, color=STATES[state], clip_on=False)
        axes.set_xlim(0, over)
        axes.set_ylim(0.01, 3000)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        names = [state.name.lower().replace("_", " ") for state in STATES]
        chart.key(names, [*STATES.values()])
        return chart


async def through(
    script: Script,
    ask: Callable[[], Awaitable[Fate]],
    breaker: Breaker,
    slow: SlowRedis,
    server: RedisServer,
) -> Outage:
    """Checks while Redis does what the script says, until it answers again."""
    states, phases = list[tuple[float, State]](), list[Phase]()
    async with Checks(ask, RATE) as checks:
        watching = asyncio.create_task(watch(breaker, checks, states))
        try:
            for mood, seconds in script:
                begin = checks.now
                slow.takes(SLOW_SECONDS if mood == "slow" else 0)
                frozen = (
                    suspended(server.pid or 0) if mood == "frozen" else nullcontext()
                )
                with frozen:
                    await asyncio.sleep(seconds)
                phases.append(Phase(mood, begin, checks.now))
            slow.takes(0)
            await closed(breaker)
            await asyncio.sleep(AFTER)
        finally:
            await end(watching)
    who = answers(server)
    return Outage(tuple(checks.done), tuple(states), tuple(phases), who)


async def watch(
    breaker: Breaker, checks: Checks, states: list[tuple[float, State]]
) -> None:
    """Note each state of a breaker, until cancelled."""
    while True:
        if not states or states[-1][1] is not breaker.state:
            states.append((checks.now, breaker.state))
        await asyncio.sleep(LOOK_SECONDS)


async def closed(breaker: Breaker) -> None:
    """Wait until a breaker is closed, but not for ever."""
    for _ in range(round(PATIENCE / LOOK_SECONDS)):
        if breaker.state is State.CLOSED:
            break
        await asyncio.sleep(LOOK_SECONDS)


async def freeze() -> Outage:
    """The pump's own threads and breaker, while Redis is stopped (SIGSTOP)."""
    server, symbol = await (await session()).redis(), Market().symbols[0]
    async with (
        SlowRedis(server.url) as slow,
        RedisThreads(slow.url, Registry(), threads=THREADS) as threads,
    ):

        async def ask() -> Fate:
            try:
                await threads.call(read_limits, [symbol])
            except NotAsked:
                return "not asked"
            except RedisFault:
                return "gave up"
            return "answered"

        return await through(FROZEN, ask, threads.breaker, slow, server)


# ---- what is claimed


def is_spared(outage: Outage) -> bool | None:
    """Whether few of the checks asked a Redis that was away; they are counted."""
    if len(outage.away) < 20:
        return None
    return outage.asked * 4 <= len(outage.away)


def came_back(outage: Outage) -> bool | None:
    """Whether checks were answered again."""
    return outage.recovered


CLAIMS = (
    Claim(
        "a-breaker-spares-those-who-wait",
        "while Redis is away hardly any check waits for it",
        "checks wait for a Redis that is away",
        is_spared,
        "Redis was not away for long enough",
    ),
    Claim(
        "a-breaker-closes-again",
        "a probe finds out that Redis is back, and all checks ask again",
        "Redis is back, and nobody asks it",
        came_back,
    ),
)
