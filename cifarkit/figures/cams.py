"""Class activation maps: what the network looked at for the class it chose and for the true one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from cifarkit.figures.canvas import (
    GRAY,
    PALE,
    PREDICTED,
    TRUE,
    Image,
    finish,
    new_figure,
    plain,
    say_nothing_to_show,
    short,
)
from cifarkit.figures.sheet import EDGE, Box, Sheet, inside
from cifarkit.results import CamRow

# From dark to light: where there is no evidence, the image under it is dimmed.
COLOURS = "inferno"
KINDS = ("predicted", "true")
OVERLAY_SIDE = 160  # pixels an overlay has at least, so that a smooth map looks smooth on 28x28 images

# Inches: from column to column, from line to line, of an image, and above the first and every line.
STEP, DOWN, SIDE, HEADING, TITLE = 1.01, 1.21, 0.975, 0.12, 0.18
# Of the key below: its line, its width with the words at both ends, and its bar.
KEY, KEY_WIDTH, BAR_WIDTH, BAR_HEIGHT = 0.2, 2.7, 0.9, 0.08

Map = NDArray[np.floating]


def overlay(image: Image, cam: Map, alpha: float = 0.5) -> NDArray[np.uint8]:
    """Blend a map (h, w) in 0..1 over a uint8 image (H, W, C): uint8 (k*H, k*W, 3), k a whole number.

    The image is enlarged by repeating its pixels, the map bilinearly.
    """
    factor = max(1, -(-OVERLAY_SIDE // max(image.shape[:2])))
    pixels = image.repeat(factor, axis=0).repeat(factor, axis=1).astype(np.float64) / 255
    heat = _bounded(cam)
    heat = _bilinear(pixels.shape[0], heat.shape[0]) @ heat @ _bilinear(pixels.shape[1], heat.shape[1]).T
    blended = (1 - alpha) * pixels + alpha * colormaps[COLOURS](heat)[..., :3]
    return np.asarray((blended * 255).round(), dtype=np.uint8)


def _bounded(cam: Map) -> NDArray[np.float64]:
    return np.asarray(np.clip(np.nan_to_num(cam.astype(np.float64)), 0, 1))


def cam_grid(
    originals: Image,
    panels: Sequence[Sequence[tuple[str, Map | None]]],
    rows: Sequence[CamRow],
    suptitle: str = "",
) -> Figure:
    """Per image: the original, then the raw map and its overlay for the predicted and the true class.

    Args:
        originals: uint8 (N, H, W, C).
        panels: per image its explained classes, predicted first: a title such as ``"cat 93%"`` and a
            map (h, w) in 0..1, or None for a map that says nothing.
        rows: per image its source, and in ``flags`` the reason for a missing map.
        suptitle: data set, split and method.
    """
    count = len(panels)
    pairs = max((len(maps) for maps in panels), default=0)
    if count == 0:
        figure = new_figure(3.2, 1.5)
        say_nothing_to_show(figure.add_subplot(), "no images")
        return finish(figure, suptitle)

    # Two images side by side keep twenty of them on one page.
    blocks = min(2, count)
    lines = -(-count // blocks)
    width = STEP * (1 + 2 * pairs) + 0.25  # of a block
    wide, high = max(3.2, width * blocks - 0.25), HEADING + DOWN * lines
    sheet = Sheet(wide, high + KEY, suptitle)
    _key(sheet, wide / 2, high + KEY / 2)
    for block in range(blocks):
        _head(sheet, width * block, pairs)
    for i, (image, maps, row) in enumerate(zip(originals, panels, rows, strict=True)):
        line, block = divmod(i, blocks)
        top = HEADING + DOWN * line + TITLE
        lefts = (width * block + STEP * j + EDGE / 2 for j in range(1 + 2 * pairs))
        boxes = [inside((left, top, SIDE, SIDE), image) for left in lefts]
        sheet.image(image, boxes[0])
        _write(sheet, boxes[0], _source(row), GRAY)
        for k, (title, cam) in enumerate(maps):
            pair = boxes[1 + 2 * k], boxes[2 + 2 * k]
            if cam is None:
                _draw_missing(sheet, pair, _reason(row, _kind(k)))
            else:
                # The map keeps its own few pixels: how coarse it is belongs to what it says.
                sheet.image(colormaps[COLOURS](_bounded(cam))[..., :3], pair[0])
                sheet.image(overlay(image, cam), pair[1])
            _write(sheet, pair[0], short(title, 26), _colour(k), panels=2)
        if len(maps) < pairs:
            _write(sheet, boxes[1 + 2 * len(maps)], "predicted is true", GRAY, panels=2)
    return sheet.figure()


def _head(sheet: Sheet, left: float, pairs: int) -> None:
    """What the columns of a block show."""
    headings = [("image", GRAY)]
    for k in range(pairs):
        headings += [(f"{_kind(k)}: map".lstrip(": "), _colour(k)), ("overlay", _colour(k))]
    for j, (heading, colour) in enumerate(headings):
        _write(sheet, (left + STEP * j + EDGE / 2, HEADING, SIDE, SIDE), heading, colour)


def _key(sheet: Sheet, middle: float, height: float) -> None:
    """What the colours of the maps mean."""
    left = middle - KEY_WIDTH / 2 + 0.3
    right = left + BAR_WIDTH
    colours = colormaps[COLOURS](np.linspace(0, 1, 256))[None, :, :3]
    sheet.image(colours, (left, height - BAR_HEIGHT / 2, BAR_WIDTH, BAR_HEIGHT))
    look: Any = {"room": (1.6, KEY), "color": GRAY, "va": "center_baseline"}
    sheet.write(left - 0.06, height, "least", 6.5, ha="right", **look)
    sheet.write(right + 0.06, height, "most evidence within each map", 6.5, ha="left", **look)


def _write(sheet: Sheet, box: Box, text: str, colour: str, panels: int = 1) -> None:
    """Above a box, running on over the next ones."""
    left, top, *_ = box
    sheet.write(left, top - 0.05, text, 6.5, room=(STEP * panels - EDGE, TITLE), color=colour)


def _draw_missing(sheet: Sheet, boxes: tuple[Box, Box], reason: str) -> None:
    """Two hatched grey panels with the reason written on the first."""
    look: Any = {"facecolor": PALE, "edgecolor": "white", "hatch": "////", "linewidth": 0}
    for left, top, width, height in boxes:
        sheet.axes.add_patch(Rectangle((left, top), width, height, **look))
    left, top, width, height = boxes[0]
    sheet.write(
        left + width / 2,
        top + height / 2,
        reason,
        6.5,
        room=(width - 0.1, height),
        ha="center",
        va="center",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )


def _kind(k: int) -> str:
    return KINDS[k] if k < len(KINDS) else ""


def _colour(k: int) -> str:
    return TRUE if _kind(k) == "true" else PREDICTED


def _reason(row: CamRow, kind: str) -> str:
    """What the flag ``"predicted: constant"`` says of the predicted class's map."""
    said = [flag.partition(":")[2] for flag in row.flags if kind and flag.startswith(kind)]
    return short(said[0] if said else "no map", 16)


def _source(row: CamRow) -> str:
    """The end of the source, where an index or a file's name stands."""
    name = row.source.replace("\\", "/").rpartition("/")[2] or row.source
    return plain(name) if len(name) <= 14 else plain("…" + name[-13:])


def _bilinear(size: int, source: int) -> NDArray[np.float64]:
    """Weights (size, source) of linear interpolation between pixel centres, flat beyond the outermost."""
    place = np.clip((np.arange(size) + 0.5) * source / size - 0.5, 0, source - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(source)[None, :])))
