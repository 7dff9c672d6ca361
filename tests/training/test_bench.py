from __future__ import annotations

from dataclasses import replace

from cifarkit.recipes import Recipe
from cifarkit.training.bench import measure_augmentation, measure_loader
from cifarkit.training.data import Data
from cifarkit.training.hardware import Hardware


def test_loaders_of_a_single_batch_have_a_rate(recipe: Recipe, data: Data, cpu: Hardware) -> None:
    recipe = replace(recipe, batch_size=len(data.train))
    for row in (
        *measure_augmentation(recipe, data, cpu, seconds=0.05),
        *measure_loader(recipe, data, cpu, workers=1, seconds=0.05),
    ):
        assert row.value > 0, row
