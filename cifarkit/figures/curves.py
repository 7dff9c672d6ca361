"""Lines over steps and epochs: the range test, schedules, training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from cifarkit.figures.canvas import (
    BLUE,
    CYCLE,
    GRAY,
    INK,
    VERMILLION,
    finish,
    new_figure,
    percent,
    plain,
    say_nothing_to_show,
    tidy,
)
from cifarkit.results import EpochRow, LrCurve, merit, short_name

MARKERS = "osD^vP"
DASHES = ("-", "--", "-.", ":")

# So many epochs have markers that can be told apart.
FEW = 30
# Beyond this ratio of their peaks, two groups' learning rates are not legible on one linear axis.
ONE_AXIS_RATIO = 15

Floats = NDArray[np.float64]


def lr_range_test(curve: LrCurve) -> Figure:
    """Loss over learning rate, with what each rule suggests marked on the smoothed curve.

    The vertical range follows the descent: a loss that explodes at the end leaves the picture.
    """
    figure = new_figure(7, 4.2)
    ax = figure.add_subplot()
    tidy(ax, grid="y")
    title = f"Learning-rate range test: {curve.model}, {short_name(curve.dataset)}, {curve.optimizer}"
    lrs, losses, smoothed = (_finite(values) for values in (curve.lrs, curve.losses, curve.smoothed))
    # A smoothing that met one NaN may have spread it over the whole curve.
    trend = smoothed if np.isfinite(smoothed).any() else losses
    if not (np.isfinite(trend) & (lrs > 0)).any():
        say_nothing_to_show(ax, "no finite loss")
        return finish(figure, title)

    one = len(lrs) == 1
    ax.plot(lrs, losses, color=GRAY, alpha=0.45, linewidth=0.9, marker="." if one else "", label="loss")
    if trend is smoothed:
        ax.plot(lrs, smoothed, color=BLUE, linewidth=2, marker="." if one else "", label="its running mean")
    _mark_rules(ax, curve, lrs, trend)
    ax.set_ylim(*_descent_range(losses, trend))
    _plain_log_axis(ax)
    ax.set_xlabel("learning rate", fontsize=9)
    ax.set_ylabel("training loss", fontsize=9)
    if curve.diverged:
        ax.annotate(
            "stopped: loss diverged",
            (1, 1),
            xytext=(0, 3),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=GRAY,
        )
    # Beside the axes, where it can hide no part of the curve.
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return finish(figure, title)


def lr_schedule(
    lrs: Sequence[float] | Mapping[str, Sequence[float]], epochs: Sequence[float], suptitle: str = ""
) -> Figure:
    """Learning rate of every step over ``epochs``, where it came; one line per parameter group.

    Groups whose peaks differ more than fifteenfold get a panel each.
    """
    groups = dict(lrs) if isinstance(lrs, Mapping) else {"": lrs}
    series = {name: _finite(values) for name, values in groups.items() if len(values)}
    title = suptitle or "Learning-rate schedule"
    if not series:
        figure = new_figure(6, 2)
        say_nothing_to_show(figure.add_subplot(), "no steps")
        return finish(figure, title)

    peaks = [float(np.nanmax(np.append(values, 0))) for values in series.values()]
    apart = max(peaks) > ONE_AXIS_RATIO * min(peaks)
    panels = len(series) if apart else 1
    figure = new_figure(6.5, 3.2 if panels == 1 else 0.9 + 1.35 * panels)
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for i, (name, values) in enumerate(series.items()):
        ax = axes[i if apart else 0]
        # Groups may share one schedule; dashes let the line below show through.
        ax.plot(
            epochs,
            values,
            color=CYCLE[i % len(CYCLE)],
            linestyle="-" if apart else DASHES[i % len(DASHES)],
            linewidth=1.8,
            marker="o" if len(values) == 1 else "",
            label=plain(name).lstrip("_") or "learning rate",
        )
    for ax in axes:
        tidy(ax, grid="y")
        ax.set_ylim(bottom=0)
        ax.margins(x=0.02)
        ax.set_ylabel("learning rate", fontsize=9)
        if len(series) > 1:
            ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    axes[-1].set_xlabel("epoch", fontsize=9)
    return finish(figure, title)


def training_curves(rows: Sequence[EpochRow], target_acc: float | None = None, suptitle: str = "") -> Figure:
    """Loss and accuracy by epoch, training against validation, with the best epoch and the target."""
    figure = new_figure(9, 3.6)
    loss_ax, acc_ax = figure.subplots(1, 2)
    title = suptitle or "Training"
    if not rows:
        for ax in (loss_ax, acc_ax):
            say_nothing_to_show(ax, "no finished epoch")
        return finish(figure, title)

    epochs = np.array([row.epoch for row in rows])
    val_name = plain(rows[-1].val_split).lstrip("_") or "val"
    val_acc = _finite([row.val_acc for row in rows])
    train_loss, val_loss = _finite([r.train_loss for r in rows]), _finite([r.val_loss for r in rows])
    _pair(loss_ax, epochs, train_loss, val_loss, val_name)
    _pair(acc_ax, epochs, _finite([row.train_acc for row in rows]), val_acc, val_name)
    sampled = np.array([row.val_sampled for row in rows])
    if sampled.any() and len(rows) <= FEW:
        for ax, values in ((loss_ax, val_loss), (acc_ax, val_acc)):
            ax.plot(
                epochs[sampled],
                values[sampled],
                linestyle="",
                marker="o",
                markersize=4.5,
                color=BLUE,
                markerfacecolor="white",
                label=f"{val_name}, of a sample",
            )
    loss_ax.set_ylabel("loss", fontsize=9)
    acc_ax.set_ylabel("accuracy", fontsize=9)
    acc_ax.yaxis.set_major_formatter(PercentFormatter(1.0))

    if np.isfinite(val_acc).any():
        best = max(map(int, np.flatnonzero(np.isfinite(val_acc))), key=lambda at: merit(rows[at]))
        for ax, values in ((loss_ax, val_loss), (acc_ax, val_acc)):
            ax.axvline(epochs[best], color=GRAY, linewidth=0.8, linestyle=":", zorder=1)
            value = f"{percent(val_acc[best], 2)}, " if ax is acc_ax else ""
            ax.plot(
                epochs[best],
                values[best],
                marker="*",
                markersize=15,
                color=VERMILLION,
                markeredgecolor="white",
                linestyle="",
                label=f"best: {value}epoch {epochs[best]}",
                gid="best",
                zorder=1.5,  # seen behind the point that it marks
            )
    if target_acc is not None:
        acc_ax.axhline(
            target_acc, color=INK, linewidth=1, linestyle="--", label=f"target: {percent(target_acc, 1)}"
        )
    for ax, corner in ((loss_ax, "upper right"), (acc_ax, "lower right")):
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8, loc=corner, framealpha=0.9, edgecolor="none")
    return finish(figure, title)


def _pair(ax: Axes, epochs: NDArray[np.int64], train: Floats, val: Floats, val_name: str) -> None:
    """Two lines of one panel; markers while the epochs are few enough to tell apart."""
    tidy(ax, grid="y")
    few = len(epochs) <= FEW
    for values, name, colour, marker in ((train, "train", GRAY, "s"), (val, val_name, BLUE, "o")):
        if np.isfinite(values).any():
            ax.plot(
                epochs,
                values,
                color=colour,
                linewidth=1.6,
                marker=marker if few else "",
                markersize=3.5,
                label=name,
            )
    ax.set_xlabel("epoch", fontsize=9)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)


def _mark_rules(ax: Axes, curve: LrCurve, lrs: Floats, smoothed: Floats) -> None:
    known = np.isfinite(smoothed) & (lrs > 0)
    found = {rule: lr for rule, lr in curve.rules.items() if lr is not None and np.isfinite(lr) and lr > 0}
    for i, (rule, lr) in enumerate(found.items()):
        used = rule == curve.rule
        ax.plot(
            lr,
            float(np.interp(np.log(lr), np.log(lrs[known]), smoothed[known])),
            linestyle="",
            marker="*" if used else MARKERS[i % len(MARKERS)],
            markersize=15 if used else 7,
            color=VERMILLION if used else CYCLE[(i + 2) % len(CYCLE)],
            markeredgecolor="white",
            zorder=5 if used else 6,  # the star is seen behind another mark
            label=f"{plain(rule)}: {lr:.2g}" + (" (used)" if used else ""),
        )
    if curve.suggestion is not None and np.isfinite(curve.suggestion) and curve.suggestion > 0:
        ax.axvline(curve.suggestion, color=INK, linewidth=0.9, linestyle=":", zorder=1)


def _descent_range(losses: Floats, smoothed: Floats) -> tuple[float, float]:
    """Vertical limits that hold everything before the lowest point and the beginning of the rise."""
    bottom = int(np.nanargmin(smoothed))
    descent = np.concatenate([losses[: bottom + 1], smoothed[: bottom + 1]])
    low, high = float(np.nanmin(descent)), float(np.nanmax(descent))
    start = float(smoothed[np.isfinite(smoothed)][0])
    room = max(high - low, 0.25 * abs(start), 1e-6)
    return low - 0.08 * room, high + 0.25 * room


def _plain_log_axis(ax: Axes) -> None:
    """Logarithmic x with ticks written as a person types them: 0.001, 1e-05."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(numticks=12))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _finite(values: Sequence[float]) -> Floats:
    """As an array, infinities and missing values as NaN, which leaves a gap in a line."""
    array = np.array(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)
