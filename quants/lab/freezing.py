"""The price: dead cycles that wait for a collection, some of them for ever.

freezing.fates()              what becomes of them, by how they met a freeze
freezing.piles()              how many wait, by how often the collector comes
await policed.policed(mine)   with a policy of the reader's own
"""

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.guests import BUFFER_BYTES, Client, Guests
from quants.lab.live import BLUE, ORANGE, VERMILION
from quants.lab.pauses import Pause, Watch, no_collector, set_aside
from quants.monitor import freeze_gc, gc_threshold

# ---- what a freeze keeps


CLIENTS = 1000


@dataclass(frozen=True)
class Fates:
    """How many clients still take memory after a collection.

    Attributes:
        here: by what had happened to them.
        thawed: how many after `gc.unfreeze` and another collection.
    """

    here: dict[str, int]
    thawed: int

    def __repr__(self) -> str:
        stories = self.here | {"all of them, unfrozen": self.thawed}
        rows = [f"{story:<35}{here:>6,}" for story, here in stories.items()]
        return "\n".join([f"{'clients':<29}still here", *rows])


def fates() -> Fates:
    """Let clients die before, around and after a freeze; then collect."""
    here, all_guests = {}, []
    for story, live in STORIES.items():
        guests = Guests()
        all_guests.append(guests)
        with set_aside(), no_collector():
            live(guests)
            gc.collect()
            here[story] = guests.here
    gc.collect()
    return Fates(here, sum(guests.here for guests in all_guests))


def come(guests: Guests) -> list[Client]:
    """So many clients."""
    return [Client(guests) for _ in range(CLIENTS)]


def dead_then_frozen(guests: Guests) -> None:
    """They leave, and nobody collects before the freeze."""
    come(guests)
    gc.freeze()


def dead_collected_frozen(guests: Guests) -> None:
    """They leave, and then it freezes as the pump does."""
    come(guests)
    freeze_gc()


def frozen_then_dead(guests: Guests) -> None:
    """They are there when it freezes, and leave later."""
    clients = come(guests)
    freeze_gc()
    clients.clear()


def frozen_then_closed(guests: Guests) -> None:
    """The same, but each is closed."""
    clients = come(guests)
    freeze_gc()
    for client in clients:
        client.close()


def came_later(guests: Guests) -> None:
    """They come and leave when it has frozen."""
    freeze_gc()
    come(guests)


STORIES: dict[str, Callable[[Guests], None]] = {
    "left, frozen": dead_then_frozen,
    "left, collected, frozen": dead_collected_frozen,
    "frozen, left": frozen_then_dead,
    "frozen, left, their cycles cut": frozen_then_closed,
    "frozen; came later, and left": came_later,
}


# ---- how many wait


MANY = 20_000  # clients that come and go
LOOK = 50  # clients from one look to the next
RARE = 10_000  # new containers that set off a collection
Way = Callable[[], AbstractContextManager[None]]
WAYS: dict[str, tuple[Way, str]] = {
    "Python's own": (lambda: gc_threshold(None), BLUE),
    f"threshold {RARE:,}": (lambda: gc_threshold(RARE), ORANGE),
    "never": (no_collector, VERMILION),
}


@dataclass(frozen=True)
class Pile:
    """Clients that left and still take memory, with one way to collect.

    Attributes:
        here: at each look.
    """

    way: str
    here: tuple[int, ...]
    collections: int

    @property
    def most(self) -> int:
        """At once."""
        return max(self.here)

    def __repr__(self) -> str:
        mb = self.most * BUFFER_BYTES / 1e6
        return (
            f"{self.way}: {self.collections:,} collections, up to {self.most:,} dead "
            f"clients at once, {mb:,.1f} MB"
        )


def piles(clients: int = MANY) -> list[Pile]:
    """The same clients come and go, with each way to collect."""
    return [pile(way, clients) for way in WAYS]


def pile(way: str, clients: int) -> Pile:
    """Clients come and go, and the collector comes as it may."""
    guests, pauses, here = Guests(), list[Pause](), []
    with set_aside(), WAYS[way][0](), Watch([], pauses):
        for number in range(clients):
            Client(guests)
            if number % LOOK == 0:
                here.append(guests.here)
    gc.collect()
    return Pile(way, tuple(here), len(pauses))


def saw(piles: list[Pile]) -> Chart:
    """What waits for the collector, against the clients that came."""
    chart = Chart(
        "Dead clients that wait for the collector",
        n=f"n = {MANY:,} clients, {sum(pile.collections for pile in piles):,} "
        "collections",
        alt="Megabytes of dead clients against clients that came: with Python's own "
        "thresholds small teeth of a saw near zero, with a high threshold large "
        "teeth, and without a collector a line that only climbs.",
    )
    axes = chart.panel("clients that came and left (thousands)", "dead clients (MB)")
    for pile in piles:
        came = [LOOK * look / 1000 for look in range(len(pile.here))]
        waiting = [here * BUFFER_BYTES / 1e6 for here in pile.here]
        axes.plot(came, waiting, color=WAYS[pile.way][1], linewidth=2)
    axes.set_xlim(0, MANY / 1000)
    axes.set_ylim(0)
    chart.key([*WAYS], [colour for _, colour in WAYS.values()])
    return chart


# ---- what is claimed


def freezes_the_dead(fates: Fates) -> bool:
    """Whether dead cycles stay if nobody collects before the freeze."""
    frozen = fates.here["left, frozen"], fates.here["left, collected, frozen"]
    return frozen == (CLIENTS, 0)


def keeps_who_leaves_later(fates: Fates) -> bool:
    """Whether a cycle that dies when it is frozen stays, and only as a cycle."""
    left = fates.here["frozen, left"], fates.here["frozen, left, their cycles cut"]
    return left == (CLIENTS, 0)


def pile_up(piles: list[Pile]) -> bool:
    """Whether more wait where the collector comes less, all if it never does."""
    own, rare, never = (pile.most for pile in piles)
    return 3 * own < rare < never and own < MANY - LOOK < never


CLAIMS = (
    Claim(
        "a-dead-cycle-that-is-frozen-stays",
        "a cycle that is dead when it is frozen stays, so collect before you freeze",
        "a collection finds a dead cycle even when it is frozen",
        freezes_the_dead,
    ),
    Claim(
        "a-frozen-cycle-that-dies-stays",
        "a cycle that dies after the freeze stays as well, unless somebody cuts it",
        "a collection finds a cycle that was frozen alive and died later",
        keeps_who_leaves_later,
    ),
    Claim(
        "rare-collections-pile-up-the-dead",
        "the rarer the collections, the more dead clients keep their memory",
        "as many dead clients keep their memory, however rare the collections",
        pile_up,
    ),
)
