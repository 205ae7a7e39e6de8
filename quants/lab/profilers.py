"""The same seconds as profilers see them, and what a stopwatch knows of them."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from cProfile import Profile
from dataclasses import dataclass
from pstats import Stats
from threading import get_ident
from typing import Any, TypeVar

from quants.errors import EnvironmentFault
from quants.host import ringing
from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.live import INK, ORANGE, SKY
from quants.lab.notionals import PARTS, Work, make_work
from quants.lab.session import session
from quants.sampler import Sampler, Stack, waits
from quants.stalls import WatcherThread

K = TypeVar("K")
Shares = Mapping[str, float]  # of the time, by part

SECONDS = 1.5
COLOURS = (SKY, ORANGE, "#ABABAB", "#707070")
OWNERS = {
    "notional": "tick_by_tick",
    "added": "tick_by_tick",
    "<built-in method builtins.sum>": "whole_batch",
}
SELECTS = ("poll", "select", "control", "GetQueued")  # how loops wait


@dataclass(frozen=True)
class Look:
    """What each profiler says of the work: shares of the time, by part.

    Attributes:
        truth: by the stopwatch, of the seconds that both samplers saw.
        signal: by a sampler on the main thread; nothing where no timer rings.
        thread: by a sampler on a thread of its own.
        cprofile: of as many seconds again, for it slows the work down.
        sleep: share of `asyncio.sleep` itself, by cProfile.
        samples: how many each sampler took.
    """

    truth: Shares
    signal: Shares
    thread: Shares
    cprofile: Shares
    sleep: float
    samples: tuple[int, int]

    def __repr__(self) -> str:
        return (
            f"Most of the time goes to {leader(self.truth)}; the signal sampler says "
            f"{leader(self.signal)}, cProfile {leader(self.cprofile)}. The sampling "
            f"thread found work in {working(self.thread):.0%} of its samples, where "
            f"{working(self.truth):.0%} of the time was work."
        )

    def picture(self) -> Chart:
        """The same seconds, as four see them."""
        return look_chart(self)


def leader(shares: Shares) -> str:
    """Which of the two sums takes longer."""
    return max(PARTS[:2], key=lambda part: shares.get(part, 0.0))


def working(shares: Shares) -> float:
    """The share of both sums."""
    return sum(shares.get(part, 0.0) for part in PARTS[:2])


async def look(seconds: float = SECONDS) -> Look:
    """Let two samplers see the work at the same time, and then cProfile."""
    await session()
    work, sampler = make_work(), Sampler()
    watcher = WatcherThread(get_ident())
    with ExitStack() as stack:
        stack.enter_context(watcher)
        try:
            stack.enter_context(ringing(sampler.interval, sampler.take))
        except EnvironmentFault:
            pass  # no such timer on Windows: the signal sampler sees nothing
        await work.run(seconds)
    traced, profile = Work(work.small, work.large), Profile()
    profile.enable()
    try:
        await traced.run(seconds)
    finally:
        profile.disable()
    times = own_times(profile)
    return Look(
        shares(work.seconds, seconds),
        shares(Counter(map_keys(sampler.stacks, part_of_stack))),
        shares(Counter(map_keys(watcher.seen, part_of))),
        shares(Counter(map_keys(times, part_of))),
        times["sleep"] / sum(times.values()),
        (sampler.stacks.total(), watcher.seen.total()),
    )


def own_times(profile: Profile) -> Counter[str]:
    """Seconds that cProfile blames each function for, its callees left out."""
    times: Counter[str] = Counter()
    stats: Mapping[Any, Any] = getattr(Stats(profile), "stats")  # noqa: B009 - untyped
    for (_, _, function), (_, _, seconds, *_) in stats.items():
        times[function] += seconds
    return times


def part_of(function: str) -> str:
    """The part of the work that a function belongs to."""
    if function in OWNERS:
        return OWNERS[function]
    if any(name in function for name in SELECTS):
        return "waiting"
    return function if function in PARTS else "the rest"


def part_of_stack(stack: Stack) -> str:
    """The same for a stack: its innermost function that is known."""
    if waits(stack):
        return "waiting"
    parts = [part_of(function) for _, function, _ in reversed(stack)]
    return next((part for part in parts if part in PARTS[:2]), "the rest")


def shares(amounts: Mapping[str, float], total: float | None = None) -> Shares:
    """Amounts as shares of their sum, or of a total that is more than they are."""
    whole = max(total or 0.0, sum(amounts.values())) or 1.0
    found = {part: amounts.get(part, 0.0) / whole for part in PARTS[:3]}
    return found | {"the rest": max(0.0, 1.0 - sum(found.values())) if amounts else 0.0}


def map_keys(counts: Mapping[K, float], name: Callable[[K], str]) -> dict[str, float]:
    """The counts under other names, added up."""
    named: dict[str, float] = {}
    for key, count in counts.items():
        named[name(key)] = named.get(name(key), 0.0) + count
    return named


def look_chart(look: Look) -> Chart:
    """Four bars of the same length, cut into the parts."""
    signal, thread = look.samples
    chart = Chart(
        "One program, seen four times",
        n=f"n = {signal} signal and {thread} thread samples",
        alt="Four stacked bars: how the time is shared out by the stopwatch, by a "
        "sampler that a signal calls, by cProfile, and by a sampler on a thread. The "
        "signal's is like the stopwatch's; cProfile's gives most to the many small "
        "calls; the thread's sees hardly any work.",
        height=290,
    )
    panel = chart.panel("share of the time (%)", "")
    panel.set_ylabel("who looked ( )").set_visible(False)
    seen = {"stopwatch": look.truth, "signal": look.signal,
            "cProfile": look.cprofile, "thread": look.thread}  # fmt: skip
    for row, by in enumerate(reversed(seen.values())):
        left = 0.0
        for part, colour in zip(PARTS, COLOURS, strict=True):
            width = 100 * by.get(part, 0.0)
            panel.barh(row, width, left=left, color=colour, height=0.66)
            if width > 6:
                panel.text(left + width / 2, row, f"{width:.0f}", ha="center",
                           va="center", fontsize=9, color=INK)  # fmt: skip
            left += width
    panel.set_yticks(range(len(seen)), [*reversed(seen)])
    panel.set_xlim(0, 100)
    chart.key(PARTS, COLOURS)
    return chart


# ---- what is claimed

CLOSE = 0.15  # of the time; chance alone moves a share of 300 samples by 0.03


def blames_small_calls(look: Look) -> bool | None:
    """Whether cProfile names another leader than the stopwatch."""
    if leader(look.truth) != "whole_batch":
        return None  # the work was not as it was made to be
    return leader(look.cprofile) == "tick_by_tick"


def loses_the_waits(look: Look) -> bool | None:
    """Whether cProfile shows waiting below the loop, and not where it is awaited."""
    if look.truth["waiting"] < 0.05:
        return None
    return look.cprofile["waiting"] > 2 * look.sleep


def thread_is_blind(look: Look) -> bool | None:
    """Whether a sampling thread misses most of the work."""
    missed = working(look.thread) < 0.5 * working(look.truth)
    return missed if sum(look.samples[1:]) > 20 else None


def signal_sees(look: Look) -> bool | None:
    """Whether a signal sampler shares out the time as the stopwatch does."""
    if not look.samples[0]:
        return None
    return all(abs(look.signal[sum] - look.truth[sum]) < CLOSE for sum in PARTS[:2])


CLAIMS = (
    Claim(
        "cprofile-blames-small-calls",
        "cProfile names the function with many small calls; the time goes elsewhere",
        "cProfile names the function that the time goes to",
        blames_small_calls,
    ),
    Claim(
        "cprofile-shows-waiting-as-poll",
        "cProfile books the time of a sleep under the loop's poll, not under the sleep",
        "cProfile books the time of a sleep under the sleep",
        loses_the_waits,
    ),
    Claim(
        "a-sampling-thread-is-blind",
        "a thread that samples a busy loop misses most of the work",
        "a thread that samples a busy loop finds most of the work",
        thread_is_blind,
    ),
    Claim(
        "a-signal-sampler-sees",
        "a sampler that a signal calls shares out the time as the stopwatch does",
        "a sampler that a signal calls shares out the time in another way",
        signal_sees,
        "this system has no timer that rings",
    ),
)
