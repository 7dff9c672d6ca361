"""Bars: how fast the parts of a training are."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from cifarkit.figures.canvas import BLUE, VERMILLION, finish, new_figure, tidy
from cifarkit.results import BenchRow


def bench_bars(rows: Sequence[BenchRow], suptitle: str = "") -> Figure:
    """Images per second of everything measured in them, on a logarithmic axis: the shortest bar is what a
    training waits for."""
    rates = [row for row in rows if row.unit == "images/s" and row.value > 0]
    figure = new_figure(7, 0.9 + 0.36 * max(1, len(rates)))
    ax = figure.subplots()
    slowest = min((row.value for row in rates), default=0.0)
    colors = [BLUE if row.value > slowest else VERMILLION for row in rates]
    ax.barh(range(len(rates)), [row.value for row in rates], color=colors, height=0.7)
    ax.set_yticks(range(len(rates)), [row.name for row in rates], fontsize=9)
    ax.invert_yaxis()
    if rates:
        ax.set_xscale("log")
        ax.set_xlim(min(1.0, slowest / 3), max(row.value for row in rates) * 3)
    for i, row in enumerate(rates):
        share = f"  ({100 * row.share:.0f}%)" if row.share is not None else ""
        ax.annotate(
            f"{row.value:,.0f}{share}",
            (row.value, i),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    shares = "\n(in brackets: share of the matrix product rate)" if any(row.share for row in rates) else ""
    ax.set_xlabel(f"images per second, logarithmic{shares}", fontsize=9)
    tidy(ax, grid="x")
    return finish(figure, suptitle or "Training speed, part by part")
