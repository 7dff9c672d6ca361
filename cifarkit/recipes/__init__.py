"""Recipes: named presets of everything a training needs, as data.

Every field is a name from another table, a number, or a value that prints itself; a recipe adds no code.
Its evidence states what was measured, on which hardware and by which command.
"""

from __future__ import annotations

from cifarkit.errors import UnknownName
from cifarkit.recipes.plan import PATIENCE, Plan
from cifarkit.recipes.recipe import PRECISIONS, Recipe, scaled_side
from cifarkit.recipes.table import RECIPES

__all__ = ["PATIENCE", "PRECISIONS", "RECIPES", "Plan", "Recipe", "find_recipe", "recipe_for", "scaled_side"]


def find_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        UnknownName: not in `RECIPES`.
    """
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    return RECIPES[name]


def recipe_for(target: float, dataset: str, default: str, device: str = "cpu") -> str:
    """The default recipe where it promises a target accuracy on this data set; else, of those measured on
    this kind of device, ``cpu`` or ``cuda``, the quickest to reach it, or the one that came closest."""
    measured = {name: evidence for name in RECIPES if (evidence := RECIPES[name].measured(dataset, target))}
    if default in measured and measured[default].promises(target):
        return default
    here = {name: each for name, each in measured.items() if each.device == device}
    enough = [name for name, each in here.items() if each.accuracy_mean >= target]
    if enough:
        return min(enough, key=lambda name: here[name].expected_seconds(target))
    return max(here, key=lambda name: here[name].accuracy_mean, default=default)
