"""A sheet of small images with their lettering.

The size of everything is known, so nothing has to be laid out, and an image is copied to its place: an axes
for each of a hundred images would cost seconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cifarkit.figures.canvas import DPI, INK, TITLE_SIZE, Image, blank, families, wrapped

EDGE = 0.04  # inches of white around everything
TITLE_LINE = 1.3 * TITLE_SIZE / 72  # inches

Box = tuple[float, float, float, float]  # left, top, width, height


class Sheet:
    """Paper measured in inches: x from the left, y downwards from under the title."""

    def __init__(self, width: float, height: float, title: str = "") -> None:
        text = wrapped(title, width)
        self.head = TITLE_LINE * (text.count("\n") + 1) + 2 * EDGE if text else EDGE
        self.paper = blank(width, self.head + height)
        wide, high = self.paper.canvas.get_width_height()
        self.pixels: NDArray[np.uint8] = np.full((high, wide, 3), 255, np.uint8)
        self.axes = self.paper.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, -self.head))
        self.axes.set_axis_off()
        if text:
            room = (width - 2 * EDGE, self.head)
            self.write(width / 2, 1.5 * EDGE - self.head, text, TITLE_SIZE, room=room, va="top", ha="center")

    def image(self, image: Image, box: Box) -> None:
        """Fill a box with an image (H, W, C), uint8 or float 0..1, with crisp pixels."""
        if image.dtype != np.uint8:
            image = (255 * np.clip(np.nan_to_num(image.astype(np.float64)), 0, 1)).round().astype(np.uint8)
        left, top, width, height = box
        x, y = round(DPI * left), round(DPI * (self.head + top))
        wide, high = max(1, round(DPI * width)), max(1, round(DPI * height))
        rows = np.arange(high) * image.shape[0] // high
        columns = np.arange(wide) * image.shape[1] // wide
        self.pixels[y : y + high, x : x + wide] = image[rows[:, None], columns]

    def write(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        *,
        room: tuple[float, float],
        color: str = INK,
        **place: Any,
    ) -> None:
        """Lettering at a point, smaller than ``size`` where it would not fit into ``room``, width by height
        in inches."""
        shown = self.axes.text(x, y, text, fontsize=size, color=color, fontfamily=families(), **place)
        box = shown.get_window_extent()
        fit = min(DPI * side / max(need, 1) for side, need in zip(room, (box.width, box.height), strict=True))
        shown.set_fontsize(size * min(1.0, fit))

    def figure(self) -> Figure:
        self.paper.add_artist(_Pixels(self.pixels))
        return self.paper


class _Pixels(Artist):
    """Pixels as they are over all of a paper, under the lettering.

    matplotlib's own images are resampled even where nothing changes, which takes longer than all the rest.
    """

    zorder = -1

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        super().__init__()
        self.set_in_layout(False)
        opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
        self.pixels = np.concatenate([pixels, opaque], axis=2)[::-1]

    def draw(self, renderer: RendererBase) -> None:
        renderer.draw_image(renderer.new_gc(), 0, 0, self.pixels)


def inside(box: Box, image: Image) -> Box:
    """As much of a box, from the middle of its top, as an image fills without being distorted."""
    left, top, width, height = box
    scale = min(width / image.shape[1], height / image.shape[0])
    wide, high = scale * image.shape[1], scale * image.shape[0]
    return left + (width - wide) / 2, top, wide, high
