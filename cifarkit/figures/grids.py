"""Grids of small images: examples, augmentations, mistakes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cifarkit.figures.canvas import (
    GRAY,
    PREDICTED,
    TRUE,
    Image,
    finish,
    new_figure,
    percent,
    plain,
    say_nothing_to_show,
    short,
)
from cifarkit.figures.sheet import Sheet, inside
from cifarkit.results import Mistake

MIN_WIDTH = 3.2  # inches; below it a title has no room beside one image
# Inches: between two images, and of the room for a line above them, from its top to the letters' feet.
GAP, ABOVE, FEET = 0.08, 0.19, 0.15


def denormalize(
    images: NDArray[np.floating], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.uint8]:
    """Undo ``(x / 255 - mean) / std`` and clip: float (N, C, H, W) to uint8 (N, H, W, C), NaN to black."""
    shape = (1, -1, 1, 1)
    values = images.astype(np.float64) * np.reshape(std, shape) + np.reshape(mean, shape)
    pixels = np.clip(np.nan_to_num(values * 255), 0, 255).round().astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def image_grid(images: Image, titles: Sequence[str], columns: int = 10, suptitle: str = "") -> Figure:
    """Images (N, H, W, C) row by row, each under its title."""
    if len(images) == 0:
        return finish(_empty("no images"), suptitle)
    sheet, corners = _cells(len(images), columns, 0.95, 1.12, suptitle)
    side = 0.95 - GAP
    for (x, y), image, title in zip(corners, images, _padded(titles, len(images)), strict=False):
        sheet.image(image, inside((x, y + ABOVE, side, side), image))
        _title(sheet, x + side / 2, y + FEET, title, side)
    return sheet.figure()


def preview(raw: Image, augmented: Sequence[Image], titles: Sequence[str], suptitle: str = "") -> Figure:
    """The images (N, H, W, C) in the first row, one draw of the augmentation in each row below.

    Args:
        raw: uint8, or float 0..1.
        augmented: one array per epoch, each shaped like ``raw``.
        titles: class name of each image.
        suptitle: data set, split and policy.
    """
    draws = [(f"epoch {epoch}", images) for epoch, images in enumerate(augmented, start=1)]
    return stages([("raw", raw), *draws], titles, suptitle)


def stages(rows: Sequence[tuple[str, Image]], titles: Sequence[str], suptitle: str = "") -> Figure:
    """One labelled row of images (N, H, W, C), uint8 or float 0..1, per step of a pipeline."""
    columns = max((len(images) for _, images in rows), default=0)
    if columns == 0:
        return finish(_empty("no images"), suptitle)
    labels = ["\n".join(textwrap.wrap(plain(label), 22)) for label, _ in rows]
    # Letters of 8 points are about 0.07 inch wide.
    margin = 0.15 + 0.07 * max(len(line) for label in labels for line in [*label.splitlines(), ""])
    side, step, down = 0.95, 0.99, 1.06
    width = max(MIN_WIDTH, margin + step * columns)
    sheet = Sheet(width, ABOVE + down * len(rows), suptitle)
    left = (width + margin - step * columns) / 2
    for j, title in enumerate(_padded(titles, columns)[:columns]):
        _title(sheet, left + step * j + side / 2, FEET, title, side)
    for i, (label, (_, images)) in enumerate(zip(labels, rows, strict=True)):
        top = ABOVE + down * i
        sheet.write(left - 0.08, top + side / 2, label, 8, room=(margin - 0.1, side), ha="right", va="center")
        for j, image in enumerate(images):
            sheet.image(image, inside((left + step * j, top, side, side), image))
    return sheet.figure()


def misclassified(images: Image, mistakes: Sequence[Mistake], suptitle: str = "", columns: int = 5) -> Figure:
    """Wrongly classified images (N, H, W, C): what was predicted, how surely, and what is true.

    Each image carries the predicted class with its confidence, the true class with the confidence it
    got, and below, small, its index in the published split.
    """
    if not mistakes:
        return finish(_empty("no images"), suptitle)
    width = 1.42
    sheet, corners = _cells(len(mistakes), columns, width, 1.8, suptitle)
    side = width - GAP
    for (x, y), image, mistake in zip(corners, images, mistakes, strict=False):
        top = y + 0.14 + ABOVE
        sheet.image(image, inside((x, top, side, side), image))
        lines = (
            (y + FEET, 7, PREDICTED, f"pred: {short(mistake.pred_class)} ({percent(mistake.confidence)})"),
            (top - 0.04, 7, TRUE, f"true: {short(mistake.true_class)} ({percent(mistake.true_confidence)})"),
            (top + side + 0.09, 5.5, GRAY, f"#{mistake.index}"),
        )
        for feet, size, color, text in lines:
            sheet.write(x + side / 2, feet, text, size, room=(width - 0.02, ABOVE), color=color, ha="center")
    return sheet.figure()


def _cells(
    count: int, columns: int, width: float, height: float, title: str
) -> tuple[Sheet, list[tuple[float, float]]]:
    """A sheet and the upper left corners of ``count`` cells of this size on it, row by row."""
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    sheet = Sheet(max(MIN_WIDTH, width * columns), height * rows, title)
    left = (max(MIN_WIDTH, width * columns) - width * columns + GAP) / 2
    return sheet, [(left + width * (i % columns), height * (i // columns)) for i in range(count)]


def _title(sheet: Sheet, x: float, y: float, title: str, width: float) -> None:
    """What stands above an image, in the middle."""
    sheet.write(x, y, short(title), 7, room=(width, ABOVE), ha="center")


def _empty(text: str) -> Figure:
    figure = new_figure(MIN_WIDTH, 1.5)
    say_nothing_to_show(figure.add_subplot(), text)
    return figure


def _padded(titles: Sequence[str], count: int) -> list[str]:
    return [*titles, *[""] * (count - len(titles))]
