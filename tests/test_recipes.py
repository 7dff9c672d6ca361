from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from cifarkit.augment.policies import POLICIES
from cifarkit.cli import app
from cifarkit.data.datasets import DATASETS, find_dataset
from cifarkit.data.image_set import ImageSet
from cifarkit.errors import UnknownName, UsageError
from cifarkit.models import MODELS, check_size
from cifarkit.optim import OPTIMIZERS
from cifarkit.optim.schedules import OneCycle
from cifarkit.recipes import PRECISIONS, RECIPES, Plan, Recipe, find_recipe, recipe_for, scaled_side
from cifarkit.results import Evidence

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
FIT: Any = typer.main.get_command(app).commands["fit"]  # type: ignore[attr-defined]
EVERY = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@EVERY
def test_every_name_is_in_its_table(recipe: Recipe) -> None:
    assert recipe.model in MODELS
    assert recipe.policy in POLICIES
    assert recipe.optimizer in OPTIMIZERS
    assert recipe.precision in PRECISIONS
    assert RECIPES[recipe.name] is recipe


@EVERY
def test_numbers_are_usable(recipe: Recipe) -> None:
    assert recipe == recipe.override()
    assert recipe.description
    assert recipe.weight_decay >= 0
    assert 0 <= recipe.label_smoothing < 1
    assert recipe.image_scale
    assert all(0 < scale <= 1 for scale in recipe.image_scale)
    assert list(recipe.image_scale) == sorted(recipe.image_scale)
    assert all(0 < share <= 1 for share in recipe.keep_hardest)
    assert recipe.kept_in(0) == 1
    assert hash(recipe.schedule) == hash(replace(recipe.schedule))


def area(side: int) -> float:
    return (side / 32) ** 2


def test_work_follows_what_images_cost_and_how_many_are_shown() -> None:
    recipe = replace(RECIPES["fast"], epochs=4, image_scale=(0.5, 1.0), keep_hardest=(1.0, 0.5))
    work = partial(recipe.work, side=32, cost=area)
    assert work(0, 4) == 2 * 0.25 + 2 * 0.5
    assert work(1.5, 2.5) == 0.5 * 0.25 + 0.5 * 0.5
    assert work(4, 6) == 2 * 0.5  # a training that goes on
    assert work(0, 4, validation=0.2) == 1.5 + 0.2 * (0.25 + 0.25 + 1 + 1)
    assert work(2.5, 2.75, validation=0.2) == 0.125
    # Beyond the planned epochs all images are looked at where it may end only.
    assert work(2, 6, validation=0.25, early_validation=0.125, ends=(4, 6)) == 4 * 0.5 + 2 * 0.125 + 2 * 0.25
    # Images of 8 pixels are not made smaller.
    assert recipe.work(0, 4, side=8, cost=float) == 8 * (2 + 2 * 0.5)


def test_images_may_grow_within_an_epoch() -> None:
    recipe = replace(RECIPES["fast"], epochs=1, image_scale=(0.5, 1.0), keep_hardest=(1.0,))
    work = partial(recipe.work, side=32, cost=area)
    assert work(0, 1) == 0.5 * 0.25 + 0.5
    assert work(0, 1, validation=1.0) == 0.625 + 1
    assert sum(work(part / 4, (part + 1) / 4) for part in range(4)) == work(0, 1)


@EVERY
def test_evidence_is_complete(recipe: Recipe) -> None:
    for evidence in recipe.evidence:
        assert evidence.dataset in DATASETS
        assert 0 < evidence.accuracy_mean <= 1
        assert evidence.accuracy_std >= 0
        assert evidence.runs >= 1
        assert evidence.train_seconds > 0
        assert evidence.hardware
        program, command, *words = evidence.command.split()
        assert (program, command) == ("cifarkit", "fit")
        asked = FIT.make_context("fit", words).params
        assert asked["runs"] == evidence.runs
        assert (asked["recipe"] or DATASETS[asked["dataset"]].recipe, asked["dataset"]) == (
            recipe.name, evidence.dataset,
        )  # fmt: skip
        assert (asked["epochs"] or recipe.epochs) == evidence.epochs


def test_evidence_is_what_was_measured() -> None:
    """Of several seeds; `benchmarks/results` holds what `--runs` said."""

    def records(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict):
            if isinstance(value.get("evidence"), dict):
                yield value["evidence"]
            value = list(value.values())
        for each in value if isinstance(value, list) else ():
            yield from records(each)

    told = {
        record["command"].removesuffix(" --json"): record
        for path in RESULTS.glob("*.json")
        for record in records(json.loads(path.read_text(encoding="utf-8")))
    }
    compared = 0
    for evidence in (each for recipe in RECIPES.values() for each in recipe.evidence):
        if record := told.get(evidence.command):
            compared += 1
            for name in ("dataset", "runs", "epochs"):
                assert getattr(evidence, name) == record[name], evidence.command
            assert evidence.accuracy_mean == pytest.approx(record["accuracy_mean"], abs=6e-5)
            assert evidence.accuracy_std == pytest.approx(record["accuracy_std"], abs=6e-5)
            assert evidence.train_seconds == pytest.approx(record["train_seconds"], rel=3e-3)
    assert compared >= 7


@EVERY
def test_settings_survive_json(recipe: Recipe) -> None:
    settings = recipe.settings()
    assert not any(isinstance(value, dict) for value in settings.values())
    again = Recipe.from_settings(json.loads(json.dumps(settings)))
    assert again == replace(recipe, description="", evidence=())
    assert again.settings() == settings


def test_settings_name_everything_but_prose() -> None:
    settings = RECIPES["onecycle"].settings()
    assert settings["recipe"] == "onecycle"
    assert settings["schedule"] == "OneCycle"
    assert settings["schedule.rise"] == 5 / 24
    assert settings["lr"] is None
    names = {f.name for f in fields(Recipe)} - {"name", "description", "evidence"}
    assert names <= set(settings)


def test_settings_are_not_changed_by_reading_them() -> None:
    settings = RECIPES["fast"].settings()
    before = json.dumps(settings)
    Recipe.from_settings(settings)
    assert json.dumps(settings) == before


def test_a_plan_survives_json() -> None:
    recipe = replace(RECIPES["fast"], description="", evidence=())
    plan = Plan(recipe, seed=7, target_acc=0.9, max_epochs=12, workers=2, deterministic=True, compile=True)
    assert Plan.from_settings(json.loads(json.dumps(plan.settings()))) == plan
    assert {f.name for f in fields(Plan)} - {"recipe"} <= set(plan.settings()) - set(recipe.settings())


@pytest.mark.parametrize(
    ("planned", "target", "longest", "ends"),
    [
        (6, None, 20, (6,)), (6, 0.9, None, (6,)), (6, 0.9, 6, (6,)), (6, 0.9, 3, (6,)),
        (6, 0.9, 7, (6, 7)), (6, 0.9, 18, (6, 9, 14, 18)), (1, 0.9, 5, (1, 2, 3, 5)),
    ],
)  # fmt: skip
def test_where_a_training_may_end(
    planned: int, target: float | None, longest: int | None, ends: tuple[int, ...]
) -> None:
    assert Plan(RECIPES["fast"].override(epochs=planned), target_acc=target, max_epochs=longest).ends == ends


def test_override_replaces_what_is_given_and_keeps_the_rest() -> None:
    changed = RECIPES["digits"].override(epochs=2, lr=0.5, model=None, batch_size=None)
    assert changed == replace(RECIPES["digits"], epochs=2, lr=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"epochs": -3}, "epochs must be at least 1, not -3"),
        ({"batch_size": 1}, "batch size must be at least 2, for batch norm, not 1"),
        ({"batch_size": -1}, "batch size must be at least 2, for batch norm, not -1"),
        ({"lr": math.nan}, "learning rate must be a positive number, not nan"),
        ({"lr": 0.0}, "learning rate must be a positive number, not 0.0"),
        ({"lr": -1.0}, "learning rate must be a positive number, not -1.0"),
        ({"lr": math.inf}, "learning rate must be a positive number, not inf"),
        ({"precision": "fp16"}, "unknown precision 'fp16'.*valid: auto, fp32, bf16"),
    ],
)
def test_override_refuses_what_no_training_can_use(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RECIPES["fast"].override(**change)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_can_be_asked_for(precision: str) -> None:
    assert RECIPES["fast"].override(precision=precision).precision == precision


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
def test_every_data_set_has_a_recipe_whose_network_takes_its_images(dataset: object) -> None:
    entry = DATASETS[dataset.name]  # type: ignore[attr-defined]
    recipe = find_recipe(entry.recipe)
    side = scaled_side(entry.image_shape[1], min(recipe.image_scale))
    check_size(recipe.model, (entry.image_shape[0], side, side))


def test_a_target_takes_the_shortest_measured_training_that_reaches_it() -> None:
    def evidence(dataset: str, mean: float, std: float, epochs: int) -> Evidence:
        return Evidence(dataset, mean, std, 3, epochs, 1.0, "here", "cifarkit fit")

    table = (
        evidence("cifar10", 0.92, 0.001, 12),
        evidence("cifar10", 0.90, 0.002, 6),
        evidence("cifar10", 0.85, 0.0, 3),
        evidence("mnist", 0.99, 0.0, 1),
    )
    recipe = replace(RECIPES["fast"], evidence=table)

    def epochs(target: float, dataset: str = "cifar10") -> int | None:
        found = recipe.measured(dataset, target)
        return found and found.epochs

    assert [epochs(target) for target in (0.5, 0.85, 0.86, 0.898, 0.899, 0.919, 0.95)] == [
        3, 3, 6, 6, 12, 12, 12,
    ]  # fmt: skip
    assert epochs(0.95, "mnist") == 1
    assert epochs(0.5, "digits") is None


def test_a_target_beyond_the_default_takes_the_quickest_recipe_that_reaches_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def recipe(name: str, *evidence: tuple[float, float]) -> Recipe:
        measured = (
            Evidence("cifar10", mean, 0.001, 3, 1, seconds, "here", "cifarkit fit")
            for mean, seconds in evidence
        )
        return replace(RECIPES["fast"], name=name, evidence=tuple(measured))

    table = (
        recipe("default", (0.90, 100)),
        recipe("slow", (0.96, 900)),
        recipe("quick", (0.80, 10), (0.95, 500)),
        recipe("unknown"),
    )
    monkeypatch.setattr("cifarkit.recipes.RECIPES", {each.name: each for each in table})

    def chosen(target: float, dataset: str = "cifar10") -> str:
        return recipe_for(target, dataset, "default")

    # At 90%, half of the default's trainings need twice the time, which is still less.
    assert [chosen(target) for target in (0.7, 0.899, 0.90, 0.901, 0.94, 0.955, 0.97)] == [
        "default", "default", "default", "quick", "quick", "slow", "slow",
    ]  # fmt: skip
    assert chosen(0.94, "mnist") == "default"
    assert recipe_for(0.94, "cifar10", "slow") == "slow"


def test_times_are_those_of_the_same_kind_of_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe(name: str, seconds: float, device: str) -> Recipe:
        measured = Evidence("cifar10", 0.95, 0.001, 3, 1, seconds, "here", "cifarkit fit", device)
        return replace(RECIPES["fast"], name=name, evidence=(measured,))

    table = recipe("slow", 900, "cpu"), recipe("quick", 500, "cpu"), recipe("gpu", 2, "cuda")
    default = replace(RECIPES["fast"], name="default", evidence=())
    monkeypatch.setattr("cifarkit.recipes.RECIPES", {each.name: each for each in (*table, default)})
    assert recipe_for(0.9, "cifar10", "default") == "quick"
    assert recipe_for(0.9, "cifar10", "default", "cuda") == "gpu"
    assert recipe_for(0.99, "cifar10", "default", "cuda") == "gpu"  # the closest


def test_a_training_that_may_miss_its_target_counts_longer() -> None:
    measured = Evidence("cifar10", 0.94, 0.001, 30, 9, 2.0, "here", "cifarkit fit", "cuda")
    assert measured.expected_seconds(0.94) == pytest.approx(3.0)
    assert measured.expected_seconds(0.9) == pytest.approx(2.0)
    assert measured.expected_seconds(0.98) == pytest.approx(4.0)


def test_folders_have_a_recipe() -> None:
    assert find_dataset("folder:anywhere").recipe in RECIPES


def test_the_original_is_kept() -> None:
    original = RECIPES["onecycle"]
    assert (original.model, original.policy, original.optimizer) == (
        "custom-resnet", "original-cifar10", "adam",
    )  # fmt: skip
    assert original.schedule == OneCycle(rise=5 / 24, div_factor=100.0, final_div_factor=100.0)
    assert (original.epochs, original.batch_size, original.weight_decay) == (24, 512, 1e-2)


def test_unknown_recipes_get_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="unknown recipe 'fats': did you mean fast"):
        find_recipe("fats")


def test_a_sample_is_a_whole_fraction_of_the_images() -> None:
    recipe = replace(RECIPES["digits"], val_sample=2000)
    assert [recipe.val_stride(images) for images in (10, 2000, 3999, 4000, 10_000, 11_999)] == [
        1, 1, 1, 2, 5, 5,
    ]  # fmt: skip
    assert replace(recipe, val_sample=None).val_stride(10_000) == 1


def images(number: int) -> ImageSet:
    pixels = np.zeros((number, 16, 16, 3), np.uint8)
    return ImageSet("some", "train", pixels, np.zeros(number, np.int64), ("a", "b"), np.arange(number))


def test_a_recipe_says_what_images_it_cannot_train_on() -> None:
    recipe = RECIPES["fast"].override(batch_size=8, keep_hardest=(1.0,))
    with pytest.raises(UsageError, match="speednet-slim needs images of at least 9 x 9 pixels"):
        replace(recipe, image_scale=(0.5, 1.0)).check_fits(images(8))
    fitting = replace(recipe, image_scale=(0.625, 1.0))
    fitting.check_fits(images(8))
    with pytest.raises(UsageError, match=r"a batch of 8 is larger than the 7 training images$"):
        fitting.check_fits(images(7))
    with pytest.raises(UsageError, match="a batch of 9 is larger than the 8 training images; --batch-size 2"):
        replace(fitting, batch_size=9).check_fits(images(8))
    picky = replace(fitting, keep_hardest=(1.0, 0.5))
    with pytest.raises(UsageError, match="a batch of 8 is larger than the 5 of 10 training images that an"):
        picky.check_fits(images(10))
    picky.check_fits(images(16))
    small = replace(images(8), images=np.zeros((8, 8, 8, 3), np.uint8))
    cutting = replace(fitting, model="small-cnn", policy="airbench96")
    with pytest.raises(UsageError, match="needs images of at least 13 x 13 pixels, not 8 x 8"):
        cutting.check_fits(small)
    oblong = replace(images(8), images=np.zeros((8, 16, 20, 3), np.uint8))
    with pytest.raises(UsageError, match="images of some are 16 x 20 pixels; only square"):
        fitting.check_fits(oblong)


@pytest.mark.parametrize(
    ("number", "batch", "expected"), [(800, 100, 100), (799, 100, 99), (80, 100, 10), (5, 100, 2)]
)
def test_batches_shrink_with_the_data(number: int, batch: int, expected: int) -> None:
    assert RECIPES["digits"].override(batch_size=batch).with_batch_for(number).batch_size == expected
