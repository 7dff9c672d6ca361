"""The figures of a training itself, and of what its augmentation does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cifarkit import figures
from cifarkit.augment.batched import Batched
from cifarkit.augment.policies import find_policy
from cifarkit.data.image_set import ImageSet
from cifarkit.optim import GROUPS
from cifarkit.pipeline import Preprocessing, as_tensors
from cifarkit.recipes import Recipe
from cifarkit.reports.folder import Folder
from cifarkit.results import FitResult, to_dict
from cifarkit.training.data import Data


def preview_figure(
    images: ImageSet,
    preprocessing: Preprocessing,
    policy: str,
    *,
    seed: int,
    count: int,
    rows: int,
    stages: bool,
) -> tuple[tuple[int, ...], Any]:
    """The figure of raw and augmented images (or of every op's effect), and which images it shows.

    The augmentation is the one that training with this seed would draw in its first epochs.
    """
    at = _across_classes(images.labels, count)
    some = images.take(at)
    pixels, _ = as_tensors(some)
    augment = Batched(find_policy(policy), preprocessing.mean, preprocessing.std, seed)
    indices = torch.from_numpy(at)
    titles = [images.classes[label] for label in some.labels]
    title = f"{images.short_name} {images.split}, policy {policy}"

    def shown(batch: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return figures.denormalize(batch.numpy(), preprocessing.mean, preprocessing.std)

    drawn: Any
    if stages:
        steps = [(repr(op), shown(batch)) for op, batch in augment.stages(pixels, indices, 0)]
        drawn = figures.stages([("raw", some.images), *steps], titles, title)
    else:
        epochs = [shown(augment(pixels, indices, epoch)) for epoch in range(rows)]
        drawn = figures.preview(some.images, epochs, titles, title)
    return tuple(int(i) for i in some.indices), drawn


def _across_classes(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Positions of images of all classes in turn, each class's in the order of the split."""
    by_class = np.argsort(labels, kind="stable")
    turns = np.empty_like(by_class)
    begins = np.searchsorted(labels[by_class], labels[by_class])
    turns[by_class] = np.arange(len(labels)) - begins
    return np.lexsort((labels, turns))[:count]


def report_training(
    result: FitResult, data: Data, recipe: Recipe, lrs: Sequence[Sequence[Sequence[float]]], out: Folder
) -> None:
    """The figures of a training itself: examples, augmentation, schedule, curves; its history as JSON.

    Args:
        lrs: by epoch, step and parameter group.
    """
    title = f"{data.train.short_name}, recipe {result.recipe}, seed {result.seed}"
    out.figure("curves", figures.training_curves(result.rows, result.target_acc, title))
    epochs = [epoch + i / len(steps) for epoch, steps in enumerate(lrs) for i in range(len(steps))]
    groups = list(zip(*(step for steps in lrs for step in steps), strict=True))
    names = GROUPS.get(recipe.optimizer, ())
    if len(names) != len(groups):  # a network without one of them
        names = tuple(f"group {i + 1}" for i in range(len(groups)))
    series: Any = dict(zip(names, groups, strict=True)) if len(groups) > 1 else groups[0]
    out.figure("learning_rate", figures.lr_schedule(series, epochs, title))
    first = data.train.take(_across_classes(data.train.labels, 40))
    titles = [first.classes[label] for label in first.labels]
    out.figure(
        "examples", figures.image_grid(first.images, titles, suptitle=f"{data.train.short_name} train")
    )
    _, drawn = preview_figure(
        data.train, data.preprocessing, recipe.policy, seed=result.seed, count=10, rows=5, stages=False
    )
    out.figure("augmentation", drawn)
    out.report("history.json", json.dumps([to_dict(row) for row in result.rows], indent=2))
