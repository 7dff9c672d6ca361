"""Grids of small images: examples, augmentations, mistakes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cifarkit.figures.canvas import (
    GRAY,
    INK,
    PREDICTED,
    TRUE,
    Image,
    draw_image,
    finish,
    new_figure,
    percent,
    plain,
    say_nothing_to_show,
    short,
)
from cifarkit.results import Mistake

MIN_WIDTH = 3.2  # inches; below it a title has no room beside one image


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
    figure, cells = _cells(len(images), columns, width=0.95, height=1.1)
    for ax, image, title in zip(cells, images, _padded(titles, len(images)), strict=False):
        draw_image(ax, image)
        ax.set_title(short(title), fontsize=7, color=INK, pad=3)
    return finish(figure, suptitle)


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
    # Letters of 8 points are about 0.075 inch wide.
    margin = 0.3 + 0.075 * max(len(line) for label in labels for line in [*label.splitlines(), ""])
    figure = new_figure(max(MIN_WIDTH, margin + 0.95 * columns), 0.6 + 1.0 * len(rows), gap=0.02)
    grid = figure.add_gridspec(len(rows), columns)
    for i, (label, (_, images)) in enumerate(zip(labels, rows, strict=True)):
        for j, image in enumerate(images):
            ax = figure.add_subplot(grid[i, j])
            draw_image(ax, image)
            if i == 0:
                ax.set_title(short(_padded(titles, columns)[j]), fontsize=7, color=INK, pad=3)
            if j == 0:
                ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8, color=INK, labelpad=6)
    return finish(figure, suptitle)


def misclassified(images: Image, mistakes: Sequence[Mistake], suptitle: str = "", columns: int = 5) -> Figure:
    """Wrongly classified images (N, H, W, C): what was predicted, how surely, and what is true.

    Each image carries the predicted class with its confidence, the true class with the confidence it
    got, and below, small, its index in the published split.
    """
    figure, cells = _cells(len(mistakes), columns, width=1.42, height=1.75)
    for ax, image, mistake in zip(cells, images, mistakes, strict=False):
        draw_image(ax, image)
        lines = (
            (14, PREDICTED, f"pred: {short(mistake.pred_class)} ({percent(mistake.confidence)})"),
            (4, TRUE, f"true: {short(mistake.true_class)} ({percent(mistake.true_confidence)})"),
        )
        for offset, colour, text in lines:
            ax.annotate(
                text,
                (0.5, 1),
                xytext=(0, offset),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=colour,
            )
        ax.set_xlabel(f"#{mistake.index}", fontsize=5.5, color=GRAY, labelpad=2)
    return finish(figure, suptitle)


def _cells(count: int, columns: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Paper with ``count`` axes of the given size in inches, filled row by row."""
    if count == 0:
        return _empty("no images"), []
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    figure = new_figure(max(MIN_WIDTH, width * columns), 0.45 + height * rows)
    grid = figure.add_gridspec(rows, columns)
    return figure, [figure.add_subplot(grid[divmod(i, columns)]) for i in range(count)]


def _empty(text: str) -> Figure:
    figure = new_figure(MIN_WIDTH, 1.5)
    say_nothing_to_show(figure.add_subplot(), text)
    return figure


def _padded(titles: Sequence[str], count: int) -> list[str]:
    return [*titles, *[""] * (count - len(titles))]
