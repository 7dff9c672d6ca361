"""Trainings that differ in their seeds only: how far they come to the same."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from cifarkit.figures.canvas import (
    BLUE,
    CYCLE,
    INK,
    SKY,
    VERMILLION,
    finish,
    new_figure,
    percent,
    plain,
    tidy,
)
from cifarkit.results import FitRuns, short_name

# Seeds of as many digits in all find room below the axis.
NAMED_DIGITS = 36


def seeds(summary: FitRuns) -> Figure:
    """Left, validation accuracy by epoch of every seed; right, the last one of each, with their mean and its
    95% interval."""
    first = summary.fits[0]
    figure = new_figure(9, 3.6)
    course, ends = figure.subplots(1, 2)
    for ax, which in ((course, ""), (ends, ", last epoch")):
        tidy(ax, grid="y")
        ax.set_ylabel(f"{plain(first.val_split)} accuracy{which}", fontsize=9)
    # Of few seeds each has a colour of its own on both sides.
    few = len(summary.fits) <= len(CYCLE)
    colours = [CYCLE[at] if few else BLUE for at in range(len(summary.fits))]
    for fit, colour in zip(summary.fits, colours, strict=True):
        epochs = [row.epoch for row in fit.rows]
        accuracies = [row.val_acc for row in fit.rows]
        course.plot(epochs, accuracies, color=colour, alpha=0.8 if few else 0.4, linewidth=1.2)
        course.plot(epochs[-1], accuracies[-1], color=colour, marker="o", markersize=3.5)
    course.yaxis.set_major_formatter(PercentFormatter(1.0))
    course.set_xlabel("epoch", fontsize=9)
    course.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

    places = np.arange(len(summary.fits))
    mean, low, high = summary.accuracy.mean, summary.accuracy.low, summary.accuracy.high
    ends.axhline(mean, color=INK, linewidth=1, label=f"mean {percent(mean, 2)}")
    if low is not None and high is not None:
        ends.axhspan(low, high, color=SKY, alpha=0.25, linewidth=0, label="its 95% interval")
    if first.target_acc is not None:
        label = f"target {percent(first.target_acc, 2)}"
        ends.axhline(first.target_acc, color=VERMILLION, linewidth=1, linestyle="--", label=label)
    last = [fit.last_val_acc for fit in summary.fits]
    ends.scatter(places, last, color=colours, s=28, zorder=3)
    names = [str(seed) for seed in summary.seeds]
    step = -(-len(places) * max(3, *map(len, names)) // NAMED_DIGITS)
    ends.set_xticks(places[::step], names[::step])
    ends.set_xlim(-0.5, len(places) - 0.5)
    ends.margins(y=0.15)
    ends.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, 2)))
    ends.set_xlabel("seed", fontsize=9)
    ends.legend(
        fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, columnspacing=1.2
    )
    several = len(summary.fits) > 1
    deviation = f", standard deviation {percent(summary.accuracy.std, 2)}" if several else ""
    title = f"{short_name(first.dataset)}, recipe {first.recipe}, {len(places)} seed{'s' * several}: "
    return finish(figure, f"{title}mean {percent(mean, 2)}{deviation}")
