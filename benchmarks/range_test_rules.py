"""Which rule of the range test picks the learning rate that trains best.

For every optimiser and seed one range test on the embedded digits, and one short training at the learning
rate of every rule.

    python benchmarks/range_test_rules.py [--seeds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from cifarkit.data.datasets import find_dataset
from cifarkit.data.loading import load_splits
from cifarkit.errors import DivergedError
from cifarkit.optim import OPTIMIZERS
from cifarkit.recipes import RECIPES, Plan, Recipe
from cifarkit.training.data import Data
from cifarkit.training.fit import fit
from cifarkit.training.hardware import Hardware, choose_hardware
from cifarkit.training.lr_find import find_lr
from cifarkit.training.lr_rules import RULES

EPOCHS = 4


def accuracy(recipe: Recipe, data: Data, hardware: Hardware, seed: int) -> float:
    """After the last epoch; 0 where the training diverged."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return fit(Plan(recipe, seed=seed), data, hardware, Path(folder)).rows[-1].val_acc
        except DivergedError:
            return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description="How well the rules of the range test choose.")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each optimiser, from 1 on (5)")
    arguments = parser.parse_args()
    digits = find_dataset("digits")
    data = Data.of(digits, load_splits(digits, Path()))
    hardware = choose_hardware(0, precision="fp32")
    record: dict[str, object] = {
        "epochs": EPOCHS,
        "torch": torch.__version__,
        "hardware": hardware.describe(),
    }
    print(f"test accuracy on digits after {EPOCHS} epochs: mean, lowest; learning rates")
    for optimizer in OPTIMIZERS:
        recipe = replace(RECIPES["digits"], optimizer=optimizer, epochs=EPOCHS)
        trained: dict[str, list[dict[str, float]]] = {rule: [] for rule in RULES}
        for seed in range(1, arguments.seeds + 1):
            for rule, lr in find_lr(recipe, data, hardware, seed=seed).rules.items():
                reached = accuracy(replace(recipe, lr=lr), data, hardware, seed) if lr else 0.0
                trained[rule].append({"seed": seed, "lr": lr or 0.0, "accuracy": reached})
        record[optimizer] = trained
        for rule, runs in trained.items():
            accuracies, lrs = ([run[key] for run in runs] for key in ("accuracy", "lr"))
            print(
                f"{optimizer:8}{rule:12}{statistics.mean(accuracies):8.2%}{min(accuracies):8.2%}"
                f"   {min(lrs):.2g} to {max(lrs):.2g}"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
