"""Drawing only what moves, on a copy of all that stands still."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image


class Blit:
    """Draws frames of a figure whose background is drawn once.

    Args:
        moving: the artists that change between frames, lowest first.
    """

    def __init__(self, canvas: FigureCanvasAgg, moving: Sequence[Artist]) -> None:
        self.canvas, self.moving = canvas, moving
        self._background: Any = None  # None: draw it again first
        for artist in moving:
            artist.set_animated(True)

    def limits_changed(self) -> None:
        """The next frame draws axes and ticks again; some ten times the cost."""
        self._background = None

    def prepare(self) -> None:
        """Draw what stands still, if that is due."""
        if self._background is None:
            self.canvas.draw()
            self._background = self.canvas.copy_from_bbox(self.canvas.figure.bbox)

    def jpeg(self) -> bytes:
        """One frame."""
        self.prepare()
        self.canvas.restore_region(self._background)
        for artist in self.moving:
            self.canvas.figure.draw_artist(artist)
        return saved(picture_of(self.canvas), "JPEG", quality=90)


def picture_of(canvas: FigureCanvasAgg) -> Image.Image:
    """The canvas's pixels."""
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    """The picture as a file's bytes."""
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()
