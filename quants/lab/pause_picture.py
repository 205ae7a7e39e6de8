"""Each collection as a dot, and how many took how long."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from quants.lab.charts import Chart
from quants.lab.pauses import Pause, histogram

PAUSES_MS = (0.001, 1000)
ASIDE = (0.55, 0.75, 0.95)  # of a bucket: the bars of its kinds, side by side


class PausePicture(Chart):
    """Each collection as a dot, and how many took how long.

    Args:
        names: up to three kinds of collections, each with a colour.
        alive: containers, from and to.
    """

    def __init__(
        self,
        title: str,
        names: Sequence[str],
        colours: Sequence[str],
        alive: tuple[int, int],
    ) -> None:
        super().__init__(
            title, n="n = all collections so far", panels=2,
            alt=f"Two panels for collections: {', '.join(names)}. Left: how "
            "long each took, logarithmic, against the containers alive. Right: how "
            "many took how long, both logarithmic.",
        )  # fmt: skip
        left = self.panel("containers alive (millions)", "pause (ms)", log="y")
        right = self.panel("pause (ms)", "collections (number)", log="xy")
        margin = 0.02 * (alive[1] - alive[0])
        left.set_xlim((alive[0] - margin) / 1e6, (alive[1] + margin) / 1e6)
        left.set_ylim(*PAUSES_MS)
        right.set_xlim(*PAUSES_MS)
        right.set_ylim(0.5, 5000)
        for axis in (left.yaxis, right.xaxis, right.yaxis):
            axis.set_major_formatter("{x:g}")
        for axes in (left, right):
            axes.minorticks_off()
        self.dots = [left.plot([], [], ".", color=c, markersize=6)[0] for c in colours]
        self.bars = [bars(right, colour) for colour in colours]
        self.key([f"• {name}" for name in names], colours)

    def update(self, kinds: Sequence[Sequence[Pause]]) -> None:
        """Show the collections of each kind."""
        for place, (pauses, dots) in enumerate(zip(kinds, self.dots, strict=True)):
            dots.set_data(
                [pause.alive / 1e6 for pause in pauses],
                [1e3 * pause.seconds for pause in pauses],
            )
            heights = [
                (1e3 * row.up_to * ASIDE[place], row.weight)
                for row in histogram(pauses).rows()
            ]
            self.bars[place].set_segments(
                [[(at, 0.1), (at, height)] for at, height in heights if height]
            )


def bars(axes: Axes, colour: str) -> LineCollection:
    """Bars without a height yet."""
    lines = LineCollection([], colors=[colour], linewidths=5)
    axes.add_collection(lines, autolim=False)
    return lines
