"""Class activation maps: what the network looked at for the class it chose and for the true one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from cifarkit.figures.canvas import (
    GRAY,
    INK,
    PALE,
    PREDICTED,
    TRUE,
    Image,
    bare,
    draw_image,
    finish,
    new_figure,
    plain,
    say_nothing_to_show,
    short,
)
from cifarkit.results import CamRow

COLOURS = "turbo"
KINDS = ("predicted", "true")
OVERLAY_SIDE = 160  # pixels an overlay has at least, so that a smooth map looks smooth on 28x28 images

Map = NDArray[np.floating]


def overlay(image: Image, cam: Map, alpha: float = 0.5) -> NDArray[np.uint8]:
    """Blend a map (h, w) in 0..1 over a uint8 image (H, W, C): uint8 (k*H, k*W, 3), k a whole number.

    The image is enlarged by repeating its pixels, the map bilinearly.
    """
    factor = max(1, -(-OVERLAY_SIDE // max(image.shape[:2])))
    pixels = image.repeat(factor, axis=0).repeat(factor, axis=1).astype(np.float64) / 255
    heat = np.clip(np.nan_to_num(cam.astype(np.float64)), 0, 1)
    heat = _bilinear(pixels.shape[0], heat.shape[0]) @ heat @ _bilinear(pixels.shape[1], heat.shape[1]).T
    blended = (1 - alpha) * pixels + alpha * colormaps[COLOURS](heat)[..., :3]
    return np.asarray((blended * 255).round(), dtype=np.uint8)


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
    width = 1 + 2 * pairs
    figure = new_figure(max(3.2, (0.98 * width + 0.3) * blocks), 0.5 + 1.2 * lines, gap=0.02)
    ratios = ([1.0] * width + [0.25]) * blocks
    grid = figure.add_gridspec(lines, len(ratios) - 1, width_ratios=ratios[:-1])
    for i, (image, maps, row) in enumerate(zip(originals, panels, rows, strict=True)):
        line, block = divmod(i, blocks)
        axes = [figure.add_subplot(grid[line, block * (width + 1) + j]) for j in range(1 + 2 * len(maps))]
        draw_image(axes[0], image)
        _entitle(axes[0], _source(row), GRAY, "image" if line == 0 else None)
        for k, (title, cam) in enumerate(maps):
            pair = axes[1 + 2 * k], axes[2 + 2 * k]
            kind = KINDS[k] if k < len(KINDS) else ""
            colour = TRUE if kind == "true" else PREDICTED
            _draw_pair(pair, image, cam, _reason(row, kind))
            _entitle(pair[0], short(title, 26), colour, f"{kind}: map".lstrip(": ") if line == 0 else None)
            _entitle(pair[1], "", colour, "overlay" if line == 0 else None)
    return finish(figure, suptitle)


def _draw_pair(axes: tuple[Axes, Axes], image: Image, cam: Map | None, reason: str) -> None:
    if cam is None:
        for ax, text in zip(axes, (reason, ""), strict=True):
            _draw_missing(ax, text, image.shape[1] / image.shape[0])
        return
    heat = np.clip(np.nan_to_num(cam.astype(np.float64)), 0, 1)
    # The map keeps its own few pixels: how coarse it is belongs to what it says.
    high, wide = image.shape[:2]
    axes[0].imshow(heat, cmap=COLOURS, vmin=0, vmax=1, interpolation="nearest", extent=(0, wide, high, 0))
    bare(axes[0])
    draw_image(axes[1], overlay(image, cam))


def _draw_missing(ax: Axes, reason: str, aspect: float) -> None:
    """A hatched grey panel of the image's shape with the reason written on it."""
    ax.set(xlim=(0, aspect), ylim=(0, 1), aspect="equal")
    ax.add_patch(Rectangle((0, 0), aspect, 1, facecolor=PALE, edgecolor="white", hatch="////", linewidth=0))
    bare(ax)
    if reason:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        ax.text(aspect / 2, 0.5, reason, ha="center", va="center", fontsize=6.5, color=INK, bbox=box)


def _entitle(ax: Axes, title: str, colour: str, heading: str | None) -> None:
    """The title, which may run on over the next column, and in the first line a column heading above."""
    # The layout counts a title's height but not its width, so an empty line makes room for the heading.
    ax.set_title(
        title if heading is None else f" \n{title or ' '}", loc="left", pad=3, fontsize=6.5, color=colour
    )
    if heading is not None:
        above = ax.annotate(
            heading,
            (0, 1),
            (0, 13),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=6.5,
            color=colour,
        )
        above.set_in_layout(False)


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
