"""From names on the command line to a data set and a recipe, before anything heavy is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cifarkit.augment.policies import find_policy
from cifarkit.errors import UnknownName
from cifarkit.models import find_model
from cifarkit.optim import OPTIMIZERS
from cifarkit.recipes import Recipe, find_recipe

if TYPE_CHECKING:
    from cifarkit.data.datasets import Dataset


def resolve(dataset: str, recipe: str | None, image_size: int, **overrides: Any) -> tuple[Dataset, Recipe]:
    """The data set, and its recipe with what was asked for replaced.

    Raises:
        UnknownName: data set, recipe, model, policy or optimizer.
        UsageError: a value no training can use.
    """
    from cifarkit.data.datasets import find_dataset  # brings numpy, which --help need not wait for

    source = find_dataset(dataset, image_size)
    chosen = find_recipe(recipe or source.recipe).override(**overrides)
    find_model(chosen.model)
    find_policy(chosen.policy)
    if chosen.optimizer not in OPTIMIZERS:
        raise UnknownName("optimizer", chosen.optimizer, OPTIMIZERS)
    return source, chosen
