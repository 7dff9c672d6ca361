"""Accuracy against training time of recorded trainings, as a figure.

    python benchmarks/accuracy_over_time.py OUT.png LABEL=RESULT.json [LABEL=RESULT.json ...]

A result is what `cifarkit fit --json`, with or without `--runs`, printed. One colour for each label, one
line for each seed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cifarkit.figures import save
from cifarkit.figures.canvas import CYCLE, finish, new_figure, tidy


def main(out: str, *results: str) -> None:
    figure = new_figure(6.5, 3.6)
    ax = figure.subplots()
    highest = 0.0
    for color, result in zip(CYCLE, results, strict=False):
        label, _, path = result.partition("=")
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        for fit in record.get("fits", [record]):
            seconds = [row["train_seconds"] for row in fit["rows"]]
            accuracies = [100 * row["val_acc"] for row in fit["rows"]]
            highest = max(highest, *accuracies)
            ax.plot(seconds, accuracies, color=color, marker="o", markersize=3, linewidth=1.2, label=label)
            label = ""
    for target in (90, 94):
        ax.axhline(target, color="#767676", linewidth=0.8, linestyle="--")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_ylim(40, max(95, highest + 1))
    ax.set_xlabel("seconds of training, validation included", fontsize=9)
    ax.set_ylabel("test accuracy, %", fontsize=9)
    ax.legend(frameon=False, fontsize=8, loc="lower center")
    tidy(ax, grid="both")
    save(finish(figure, "CIFAR-10, one line a seed"), Path(out))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
