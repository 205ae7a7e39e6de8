"""The README's moving picture: a real ring of the bell, frame by frame.

    python -m tools.picture [docs/bell.webp]

The naive pump at 1,000 ticks a second, turned up to 50,000 by the same call the
slider makes; then the other pump. The frames are those a notebook shows.
"""

import asyncio
import io
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from quants.lab import close
from quants.lab.bell import Show
from quants.lab.pumps import PUMPS, PumpName
from quants.lab.session import session

TURNS = {1.5: 5_000, 2.5: 20_000, 3.5: 50_000}  # seconds: ticks/s
NAIVE_SECONDS, QUANTS_SECONDS = 7.0, 5.0
FULL = 50_000
FRAME_MS, LAST_MS = 125, 2000
KILOBYTES = 600

Frames = list[Image.Image]


async def ring(
    pump: PumpName, rate: int, seconds: float, turns: dict[float, int]
) -> Frames:
    """The frames of one ring; `turns` says when the rate changes."""
    lab, frames = await session(), Frames()
    async with PUMPS[pump](lab, rate) as running:
        show = Show(running, rate, seconds, None)
        draw = show.live.draw

        def draw_and_keep() -> None:
            draw()
            frames.append(Image.open(io.BytesIO(show.live.widget.value)))

        setattr(show.live, "draw", draw_and_keep)  # noqa: B010 - a method, to mypy
        await show.live.run(turning(show, turns, seconds))
    return frames


def turning(show: Show, turns: dict[float, int], seconds: float) -> Callable[[], bool]:
    """The show's update, which also turns the rate when it is time."""
    waiting = dict(turns)

    def update() -> bool:
        now = show.readings[-1].seconds if show.readings else 0.0
        for when in [when for when in waiting if when <= now]:
            show.turn(waiting.pop(when))
        return show.update() and now < seconds

    return update


async def frames() -> Frames:
    """The whole picture."""
    collapsing = await ring("naive", 1000, NAIVE_SECONDS, TURNS)
    holding = await ring("quants", FULL, QUANTS_SECONDS, {})
    print(await close())
    return collapsing + holding


def write(path: Path, pictures: Frames) -> None:
    """The frames as one animation, looped; the last one stays a while."""
    first, *rest = pictures
    stay = [FRAME_MS] * len(rest) + [LAST_MS]
    first.save(
        path, save_all=True, append_images=rest, duration=stay, loop=0, quality=50,
        method=6,
    )  # fmt: skip


def main() -> int:
    """Make the picture; 1 if it is too large for a README."""
    path = Path(sys.argv[1] if sys.argv[1:] else "docs/bell.webp")
    path.parent.mkdir(exist_ok=True)
    pictures = asyncio.run(frames())
    write(path, pictures)
    size = path.stat().st_size / 1000
    print(f"{path}: {len(pictures)} frames, {size:.0f} kB")
    return int(size > KILOBYTES)


if __name__ == "__main__":
    raise SystemExit(main())
