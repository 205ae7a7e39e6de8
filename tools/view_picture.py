"""The README's picture of the terminal view: a real run, as a terminal shows it.

    python -m tools.view_picture [docs/view.svg]

The pump runs at 50,000 ticks a second; after ten seconds two looks at it, two
seconds apart, are drawn as the terminal would draw them, into an SVG.
"""

import asyncio
import io
import re
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from quants.page import shown
from quants.pipeline import Pipeline
from quants.settings import Settings
from quants.view_picture import WIDE, Picture

COMMAND = "python -m quants run --tick-rate 50000"
SECONDS, BETWEEN = 10, 2
KILOBYTES = 60


async def look(seconds: float, between: float) -> Picture:
    """Two looks at a pump that runs in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "ticks.log"
        pipeline = Pipeline(Settings(tick_rate=50_000, metrics_port=0, log_file=log))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pipeline.run())
            await pipeline.ready.wait()
            await asyncio.sleep(seconds)
            before = shown(pipeline)
            await asyncio.sleep(between)
            picture = Picture(before, shown(pipeline))
            pipeline.stop()
    return picture


def svg_of(picture: Picture) -> str:
    """The picture in a window, of nothing but itself."""
    console = Console(record=True, force_terminal=True, width=WIDE, file=io.StringIO())
    console.print(picture)
    svg = console.export_svg(title=COMMAND, unique_id="view")
    return alone(svg)


def alone(svg: str) -> str:
    """A drawing that asks nobody for a font: any of fixed width will do."""
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S)


def main() -> int:
    """Make the picture; 1 if it is too large for a README."""
    path = Path(sys.argv[1] if sys.argv[1:] else "docs/view.svg")
    svg = svg_of(asyncio.run(look(SECONDS, BETWEEN)))
    path.write_text(svg, encoding="utf-8", newline="\n")
    size = path.stat().st_size / 1000
    print(f"{path}: {size:.0f} kB")
    return int(size > KILOBYTES)


if __name__ == "__main__":
    raise SystemExit(main())
