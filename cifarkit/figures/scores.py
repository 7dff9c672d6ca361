"""Pictures of an `Evaluation`: confusion, calibration, scores by class."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from cifarkit.figures.canvas import (
    BLUE,
    INK,
    PALE,
    SKY,
    VERMILLION,
    finish,
    new_figure,
    percent,
    say_nothing_to_show,
    short,
    tidy,
)
from cifarkit.results import ClassScore, Evaluation, short_name

# More classes than this, and the counts in the cells are too small to read.
MAX_CLASSES_WITH_COUNTS = 20
MAX_CLASSES_WITH_NAMES = 125
# Predictions in a bin whose accuracy is not worth a judgement: of nine, one is eleven percent.
FEW = 10


def confusion_matrix(evaluation: Evaluation) -> Figure:
    """Share of each true class (row) predicted as each class (column), with counts where they fit."""
    classes = len(evaluation.confusion)
    side = float(np.clip(2.6 + 0.5 * classes, 4.2, 16))
    figure = new_figure(side + 0.9, side)
    ax = figure.add_subplot()
    title = f"Confusion: top-1 {percent(evaluation.top1, 2)}\n{_where(evaluation)}"
    if classes == 0:
        say_nothing_to_show(ax, "no classes")
        return finish(figure, title)

    counts = np.array(evaluation.confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # Errors are a few percent beside a diagonal of ninety: a power below one makes them visible.
    norm = PowerNorm(gamma=0.4, vmin=0, vmax=1)
    mesh = ax.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    names = [short(score.name, 18) for score in evaluation.per_class]
    slant = 0 if max(map(len, names)) <= 2 else 45 if classes <= 20 else 90
    # Letters get 0.6 of a cell's height; where that is too small to read, every second name, or third...
    every = -(-classes // MAX_CLASSES_WITH_NAMES)
    size = min(8.0, 0.6 * 72 * every * (side - 2) / classes)
    ax.set_xticks(range(0, classes, every), names[::every], rotation=slant, fontsize=size)
    if slant == 45:
        for label in ax.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    ax.set_yticks(range(0, classes, every), names[::every], fontsize=size)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    _separate_cells(ax, classes)
    ax.set_xlabel("predicted class", fontsize=9)
    ax.set_ylabel("true class", fontsize=9)
    if classes <= MAX_CLASSES_WITH_COUNTS:
        for i, j in np.argwhere(counts > 0):
            colour = "white" if shares[i, j] > 0.25 else INK
            ax.text(
                j,
                i,
                f"{counts[i, j]:.0f}",
                ha="center",
                va="center",
                fontsize=7,
                color=colour,
            )
    bar = figure.colorbar(
        mesh, ax=ax, shrink=0.7, aspect=20 if side < 9 else 45, pad=0.02, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1]
    )
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bar.ax.tick_params(labelsize=7, length=2)
    bar.ax.minorticks_off()
    bar.set_label("share of the true class", fontsize=8)
    bar.outline.set_visible(False)
    return finish(figure, title)


def calibration(evaluation: Evaluation) -> Figure:
    """Accuracy against confidence by bin, and how many predictions fall into each; bins of so few that they
    tell nothing are pale and show no gap."""
    figure = new_figure(4.8, 5.2)
    ax, counts_ax = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = [b for b in evaluation.calibration if b.samples and np.isfinite(b.accuracy + b.confidence)]
    left, width = np.array([b.lower for b in bins]), np.array([b.upper - b.lower for b in bins])
    few = np.array([b.samples < FEW for b in bins], dtype=bool)
    accuracy = np.array([b.accuracy for b in bins])
    gap = np.array([b.confidence for b in bins]) - accuracy
    rare = f"accuracy of fewer than {FEW} images"
    for those, colour, label in ((~few, SKY, "accuracy"), (few, PALE, rare)):
        if those.any():
            ax.bar(
                left[those],
                accuracy[those],
                width[those],
                align="edge",
                color=colour,
                edgecolor="white",
                label=label,
            )
    for sign, colour, label in ((1, VERMILLION, "overconfidence"), (-1, INK, "underconfidence")):
        some = (sign * gap > 0) & ~few
        if some.any():
            ax.bar(
                left[some],
                gap[some],
                width[some],
                bottom=accuracy[some],
                align="edge",
                facecolor="none",
                edgecolor=colour,
                hatch="////",
                linewidth=0.8,
                label=label,
            )
    ax.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", label="perfect calibration")
    ax.legend(fontsize=7.5, frameon=False, loc="upper left")
    counts_ax.bar(left, [b.samples for b in bins], width, align="edge", color=BLUE, edgecolor="white")
    if bins:
        # Nearly all predictions of a good model share one bin; on a linear scale the others vanish.
        counts_ax.set_yscale("log", nonpositive="clip")
        counts_ax.set_ylim(0.8, 2 * max(b.samples for b in bins))
        counts_ax.yaxis.set_major_locator(LogLocator(numticks=5))
        counts_ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        counts_ax.yaxis.set_minor_formatter(NullFormatter())
    for each in (ax, counts_ax):
        tidy(each, grid="y")
        each.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_ylabel("accuracy", fontsize=9)
    counts_ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    counts_ax.set_xlabel("confidence", fontsize=9)
    counts_ax.set_ylabel("images (log)", fontsize=9)
    return finish(figure, f"Calibration: ECE {percent(evaluation.ece, 2)}\n{_where(evaluation)}")


def per_class(evaluation: Evaluation) -> Figure:
    """F1 of each class as a bar, best on top, with its precision and recall as marks."""
    scores = sorted(evaluation.per_class, key=lambda score: _or_zero(score.f1), reverse=True)
    figure = new_figure(6.8, 1.5 + 0.24 * max(3, len(scores)))
    ax = figure.add_subplot()
    title = f"Scores by class: top-1 {percent(evaluation.top1, 2)}\n{_where(evaluation)}"
    if not scores:
        say_nothing_to_show(ax, "no classes")
        return finish(figure, title)

    places = np.arange(len(scores))
    ax.barh(places, [_or_zero(s.f1) for s in scores], height=0.72, color="#CFE3F1", label="F1 (written out)")
    marks = (("precision", VERMILLION, "D"), ("recall", BLUE, "|"))
    for name, colour, marker in marks:
        ax.scatter(
            [getattr(score, name) for score in scores],
            places,
            s=20 if marker == "D" else 75,
            color=colour,
            marker=marker,
            linewidths=2 if marker == "|" else 0,
            label=name,
            zorder=3,
        )
    for place, score in enumerate(scores):
        ax.text(0.012, place, f"{percent(score.f1, 1)}", va="center", fontsize=7, color=INK)
    ax.set_yticks(places, [_label(score) for score in scores])
    ax.set_ylim(len(scores) - 0.4, -0.6)
    tidy(ax, grid="x")
    ax.tick_params(axis="y", length=0, labelsize=8)
    ax.set_xlim(0, 1.01)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("score", fontsize=9)
    ax.legend(fontsize=8, frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    return finish(figure, title)


def _separate_cells(ax: Axes, classes: int) -> None:
    edges = np.arange(classes - 1) + 0.5
    ax.hlines(edges, -0.5, classes - 0.5, color="white", linewidth=1 if classes <= 20 else 0.2)
    ax.vlines(edges, -0.5, classes - 0.5, color="white", linewidth=1 if classes <= 20 else 0.2)


def _label(score: ClassScore) -> str:
    return f"{short(score.name, 18)}  ({score.support:,})"


def _or_zero(value: float) -> float:
    return value if np.isfinite(value) else 0.0


def _where(evaluation: Evaluation) -> str:
    tta = ", TTA" if evaluation.tta else ""
    images = f"{short_name(evaluation.dataset)} {evaluation.split}"
    return f"{images} ({evaluation.model}{tta}, {evaluation.samples:,} images)"
