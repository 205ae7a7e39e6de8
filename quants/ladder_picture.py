"""The picture of a ladder: throughput against batch size, a line an engine."""

import io
from typing import Any

from quants.errors import SettingsError
from quants.ladder import NEVER, Ladder, Rung

# Colours that colour-blind readers tell apart (Okabe and Ito, 2008).
LOOKS = {
    "inline": ("#222222", "o"),
    "threads": ("#E69F00", "^"),
    "processes": ("#D55E00", "v"),
    "shared": ("#0072B2", "s"),
    "interpreters": ("#009E73", "D"),
}


def needs_matplotlib() -> Any:
    """Its module of figures.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        import matplotlib.figure
    except ImportError as error:
        way_out = 'it needs matplotlib; pip install "quants-in-motion[lab]"'
        raise SettingsError("png", "FILE", way_out) from error
    return matplotlib.figure


def figure(ladder: Ladder) -> Any:
    """Throughput against batch size: a panel a kernel, a line an engine."""
    kernels = ladder.kernels()
    drawn = needs_matplotlib().Figure(
        figsize=(1 + 4.5 * len(kernels), 5.2), layout="constrained"
    )
    panels = drawn.subplots(1, len(kernels), sharey=True, squeeze=False)[0]
    for axes, kernel in zip(panels, kernels, strict=True):
        draw(axes, ladder, kernel)
    panels[0].set_ylabel("throughput (ticks/s, submitted until summed)")
    panels[0].legend(frameon=False)
    drawn.suptitle("Where a VWAP is summed: every engine against inline")
    drawn.supxlabel(footnote(ladder), fontsize=8, color="#555555")
    return drawn


def draw(axes: Any, ladder: Ladder, kernel: str) -> None:
    """A kernel's panel; a ring is where an engine begins to beat inline."""
    beats = {e: batch for k, e, batch in ladder.crossovers() if k == kernel and batch}
    for engine in LOOKS:
        if line := ladder.line(kernel, engine):
            draw_line(axes, line, ring=beats.get(engine))
    told = ", ".join(f"{engine} from {n:,} rows on" for engine, n in beats.items())
    told = f"faster than inline (ring): {told}" if told else NEVER
    axes.set_title(f"{kernel} kernel\n{told}", fontsize=9)
    scale(axes, sorted({rung.batch for rung in ladder.rungs}))


def draw_line(axes: Any, line: list[Rung], ring: int | None) -> None:
    """An engine's line; inline's has the A/A band around it."""
    engine, at = line[0].engine, {rung.batch: rung.ticks_per_second for rung in line}
    color, marker = LOOKS[engine]
    x, y = list(at), list(at.values())
    axes.plot(x, y, color=color, marker=marker, markersize=4, label=engine)
    if engine == "inline":
        low, high = ([at[r.batch] * r.band**n for r in line] for n in (-1, 1))
        axes.fill_between(x, low, high, color=color, alpha=0.15, label="A/A band")
    if ring is not None:
        axes.plot(ring, at[ring], "o", color=color, markersize=13, fillstyle="none")


def scale(axes: Any, sizes: list[int]) -> None:
    """Logarithms, because a crossover is where two slopes meet."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("batch (rows)")
    axes.grid(which="major", color="#E6E6E6", linewidth=0.6)


def footnote(ladder: Ladder) -> str:
    """What was measured how often, and on what."""
    how = ladder.settings
    return (
        f"n = {how['rounds']} rounds of {how['seconds']:g} s a point, medians; "
        f"{how['workers']} workers on {ladder.host['cores']} cores\n"
        f"{ladder.host['interpreter']}"
    )


def png(drawn: Any) -> bytes:
    """A figure as the bytes of a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    file = io.BytesIO()
    FigureCanvasAgg(drawn).print_png(file)
    return file.getvalue()
