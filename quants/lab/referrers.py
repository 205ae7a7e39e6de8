"""Who holds an object, who holds those, and so on: a photograph, and its graph.

Whoever asks for the holders of a thing holds it too, and so does every list
that is made of the answers. So the answers are taken once, and kept: who climbs
in a photograph, with lists of its own, meets none of them.
"""

import gc
from collections import Counter
from dataclasses import dataclass
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from quants.lab.charts import Chart
from quants.lab.live import GREY, INK, VERMILION

# What runs holds its own variables, and will let go of them by itself.
RUNS = (FrameType, GeneratorType, CoroutineType, AsyncGeneratorType)
MOST = 500  # objects on a photograph


class Kind(NamedTuple):
    """Objects of one type at one distance from the thing."""

    distance: int
    name: str


Arrow = tuple[Kind, Kind]  # holder, held


@dataclass(frozen=True)
class Photograph:
    """A thing, and by id the holders of it and of all that is above it.

    It keeps them alive, so do not keep it.
    """

    thing: object
    known: dict[int, list[Any]]

    def holders(self, thing: object) -> list[Any]:
        """Those who hold a thing."""
        return self.known.get(id(thing), [])[:]

    def graph(self) -> "Graph":
        """Who holds whom, by kind; it keeps nothing alive."""
        kinds = {id(self.thing): Kind(0, type(self.thing).__name__)}
        waiting, arrows = [self.thing], dict[Arrow, str]()
        while waiting:
            held = waiting.pop(0)
            for holder in self.holders(held):
                if id(holder) not in kinds:
                    distance = kinds[id(held)].distance + 1
                    kinds[id(holder)] = Kind(distance, type(holder).__name__)
                    waiting.append(holder)
                arrows[kinds[id(holder)], kinds[id(held)]] = by(holder, held)
        return Graph(Counter(kinds.values()), arrows)


def by(holder: object, held: object) -> str:
    """By what a holder holds: an attribute, or a place in it."""
    names = [*getattr(holder, "__slots__", ()), *getattr(holder, "__dict__", ())]
    found = [name for name in names if getattr(holder, name, None) is held]
    return f".{found[0]}" if found else "[ ]"


def photograph(thing: object) -> Photograph:
    """Ask for the holders of a thing, for theirs, and so on.

    Cost: the collector looks through every object there is, for each answer.
    """
    known: dict[int, list[Any]] = {}
    waiting = [thing]
    ours = {id(known), id(waiting)}
    while waiting and len(known) < MOST:
        each = waiting.pop(0)
        if id(each) not in known:
            found = gc.get_referrers(each)
            ours.add(id(found))
            found[:] = [x for x in found if not (id(x) in ours or isinstance(x, RUNS))]
            known[id(each)] = found
            waiting += found
    return Photograph(thing, known)


# ---- the graph


@dataclass(frozen=True)
class Graph:
    """Kinds of objects, how many of each, and arrows from holder to held."""

    kinds: Counter[Kind]
    arrows: dict[Arrow, str]  # and by what: ".tally", "[ ]"

    def __repr__(self) -> str:
        lines = []
        for kind in sorted(self.kinds):
            above = [self.label(a) for a, b in sorted(self.arrows) if b == kind]
            lines.append(
                f"{self.label(kind):<8} is held by {', '.join(above) or 'nobody'}"
            )
        return "\n".join(lines)

    def label(self, kind: Kind) -> str:
        """A kind's name, and how many there are."""
        count = self.kinds[kind]
        return f"{count} {kind.name}s" if count > 1 else kind.name

    @property
    def ring(self) -> set[Kind]:
        """Kinds that are among their own holders, or those of their holders."""
        return {kind for kind in self.kinds if kind in self.above(kind)}

    def above(self, kind: Kind) -> set[Kind]:
        """All that holds a kind, and whatever holds that."""
        found: set[Kind] = set()
        waiting = [kind]
        while waiting:
            held = waiting.pop()
            new = {a for a, b in self.arrows if b == held} - found
            found |= new
            waiting += new
        return found

    def picture(self) -> Chart:
        """Boxes, and arrows from holder to held; a ring stands out."""
        sentences = "; ".join(
            " ".join(line.split()) for line in repr(self).splitlines()
        )
        chart = Chart(
            "Who holds a batch that is done?", n=f"n = {self.kinds.total()} objects",
            alt=f"Boxes with arrows from holder to held: {sentences}.", height=210,
        )  # fmt: skip
        axes, ring = chart.panel("", ""), self.ring
        for line in (axes.xaxis, axes.yaxis, *axes.spines.values()):
            line.set_visible(False)
        axes.set_xlim(-0.5, max(kind.distance for kind in self.kinds) + 0.5)
        axes.set_ylim(-0.4, 1.0)
        for kind in self.kinds:
            box(axes, kind, self.label(kind), VERMILION if kind in ring else GREY)
        for (holder, held), name in self.arrows.items():
            colour = VERMILION if {holder, held} <= ring else GREY
            arrow(axes, holder, held, name, colour)
        chart.key(["holds itself", "does not"], [VERMILION, GREY])
        return chart


WIDTH, HEIGHT = 0.56, 0.44  # of a box, in distances


def box(axes: Axes, kind: Kind, label: str, colour: str) -> None:
    """A kind of objects, where its distance puts it."""
    corner = (kind.distance - WIDTH / 2, -HEIGHT / 2)
    axes.add_patch(
        Rectangle(corner, WIDTH, HEIGHT, fill=False, edgecolor=colour, linewidth=2)
    )
    axes.text(kind.distance, 0, label, ha="center", va="center", fontsize=11, color=INK)


def arrow(axes: Axes, holder: Kind, held: Kind, name: str, colour: str) -> None:
    """From holder to held; over the boxes, if it leads away from the thing."""
    back = holder.distance <= held.distance
    side = 0 if back else WIDTH / 2
    start = (holder.distance - side, HEIGHT / 2 if back else 0)
    end = (held.distance + side, HEIGHT / 2 if back else 0)
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 2}
    style["connectionstyle"] = f"arc3,rad={-0.35 if back else 0}"
    axes.annotate("", end, start, arrowprops=style)
    middle, height = (start[0] + end[0]) / 2, 0.55 if back else 0.1
    axes.text(middle, height, name, ha="center", fontsize=9, color=colour)
