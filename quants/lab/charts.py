"""A picture of one or more panels, quickly made and still fully described.

chart = Chart("Who ran", n="n = 2 threads", alt="Two rows, …")
panel = chart.panel("time (s)", "lag (ms)")
panel.plot(...)                  # an Axes of matplotlib, tidied
chart.live(line).draw()          # or leave it as the cell's last value
"""

from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes

from quants.lab.live import GREY, INK, Live, Picture, interpreter

SMALL = 8  # points


class Chart(Picture):
    """Panels side by side under one title, with sample size and interpreter.

    Args:
        title: what is seen, one line.
        n: the sample, such as "n = 4,990 ticks".
        alt: what a reader who cannot see it needs to know.
        panels: how many there are, of equal width.
    """

    def __init__(
        self,
        title: str,
        *,
        n: str,
        alt: str,
        panels: int = 1,
        width: int = 760,
        height: int = 300,
    ) -> None:
        super().__init__(width, height)
        self.title, self.alt, self.panels = title, alt, panels
        self._grid = self.figure.add_gridspec(
            1, panels, left=0.09, right=0.97, top=0.8, bottom=0.22, wspace=0.28
        )
        self.figure.text(0.012, 0.915, title, fontsize=12, color=INK)
        self._footer = self.figure.text(
            0.985, 0.025, "", fontsize=SMALL, color=GREY, ha="right"
        )
        self.sample(n)

    def sample(self, n: str) -> None:
        """Say how large the sample is, now."""
        self.n = n
        self._footer.set_text(f"{n} · {interpreter()}")

    def panel(self, x: str, y: str, heading: str = "", log: str = "") -> Axes:
        """The next panel.

        Args:
            x, y: what an axis shows, and its unit in brackets.
            log: the axes that are logarithmic: "x", "y" or "xy".
        """
        axes = self.figure.add_subplot(self._grid[0, len(self.figure.axes)])
        axes.set_title(heading, fontsize=9, loc="left", color=INK)
        axes.set_xlabel(x, fontsize=9)
        axes.set_ylabel(y, fontsize=9)
        for name in log:
            getattr(axes, f"set_{name}scale")("log")
        tidy(axes)
        axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)
        axes.set_axisbelow(True)
        return axes

    def live(self, *moving: Artist) -> Live:
        """This picture in a widget; these artists move."""
        return Live(self, moving)

    def key(self, names: Sequence[str], colours: Sequence[str]) -> None:
        """Name the colours, in the heading's line: no box, no lines to follow."""
        at = 0.985
        for name, colour in reversed([*zip(names, colours, strict=True)]):
            self.figure.text(at, 0.92, name, color=colour, fontsize=10, ha="right")
            at -= 0.014 * len(name) + 0.02


def tidy(axes: Axes) -> None:
    """No box, small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
    axes.tick_params(labelsize=SMALL, colors="#555555", length=2)
