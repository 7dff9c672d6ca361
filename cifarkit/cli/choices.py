"""From names on the command line to a data set and a recipe, before anything heavy is imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cifarkit.augment.policies import find_policy
from cifarkit.errors import UnknownName, UsageError
from cifarkit.models import find_model
from cifarkit.optim import OPTIMIZERS
from cifarkit.recipes import Recipe, find_recipe, recipe_for

if TYPE_CHECKING:
    from cifarkit.data.datasets import Dataset


def resolve(
    dataset: str,
    recipe: str | None,
    image_size: int | None,
    *,
    target_acc: float | None = None,
    gpus: int | None = None,
    **overrides: Any,
) -> tuple[Dataset, Recipe]:
    """The data set, and its recipe with what was asked for replaced.

    Args:
        target_acc: for which another recipe than the data set's own may be taken, where none is named and
            nothing of it is replaced but its precision.
        gpus: as asked for; a recipe's time counts on the same kind of device.

    Raises:
        UnknownName: data set, recipe, model, policy or optimizer.
        UsageError: a value no training can use.
    """
    source = find_source(dataset, image_size)
    replaced = {name for name, value in overrides.items() if value is not None}
    if recipe is None:
        recipe = source.recipe
        if target_acc is not None and replaced <= {"precision"}:
            recipe = recipe_for(target_acc, source.name, recipe, _likely_device(gpus))
    chosen = find_recipe(recipe).override(**overrides)
    find_model(chosen.model)
    find_policy(chosen.policy)
    if chosen.optimizer not in OPTIMIZERS:
        raise UnknownName("optimizer", chosen.optimizer, OPTIMIZERS)
    return source, chosen


def find_source(dataset: str, image_size: int | None) -> Dataset:
    """The data set, with the images of a folder at the size asked for.

    Raises:
        UnknownName: no such data set.
        UsageError: a size for images that have another.
    """
    from cifarkit.data.datasets import find_dataset  # brings numpy, which --help need not wait for

    if image_size is None:
        return find_dataset(dataset)
    source = find_dataset(dataset, image_size)
    side = source.image_shape[1]
    if image_size != side:
        raise UsageError(
            f"--image-size is for folder:PATH; the images of {dataset} are {side} x {side} pixels"
        )
    return source


def _likely_device(gpus: int | None) -> str:
    """``cuda`` or ``cpu``, told without torch, which takes seconds to load."""
    if gpus is not None:
        return "cuda" if gpus else "cpu"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return "cpu"
    import pynvml

    try:
        pynvml.nvmlInit()
        return "cuda" if pynvml.nvmlDeviceGetCount() else "cpu"
    except pynvml.NVMLError:
        return "cpu"
