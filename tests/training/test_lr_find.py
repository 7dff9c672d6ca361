from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from cifarkit.errors import UsageError
from cifarkit.optim import OPTIMIZERS
from cifarkit.recipes import Recipe
from cifarkit.training.data import Data, build_network
from cifarkit.training.hardware import Hardware
from cifarkit.training.lr_find import find_lr, range_test
from cifarkit.training.lr_rules import RULE, RULES, smooth


@pytest.fixture
def network(recipe: Recipe, data: Data) -> nn.Module:
    torch.manual_seed(0)
    return build_network(recipe, data)


@pytest.fixture
def batches(data: Data) -> list[tuple[torch.Tensor, torch.Tensor]]:
    images = data.preprocessing(torch.from_numpy(data.train.images).permute(0, 3, 1, 2))
    labels = torch.from_numpy(data.train.labels)
    return list(zip(images.split(40), labels.split(40), strict=True))


def test_rates_grow_exponentially_from_end_to_end(recipe: Recipe, network: nn.Module, batches: Any) -> None:
    heard = []
    lrs, losses, diverged = range_test(
        network, batches, recipe, lr_min=1e-6, lr_max=1e-2, steps=21,
        on_step=lambda step, lr, loss: heard.append((step, lr, loss)),
    )  # fmt: skip
    assert lrs == pytest.approx([10 ** (-6 + i / 5) for i in range(21)])
    assert not diverged
    assert heard == list(zip(range(1, 22), lrs, losses, strict=True))


def test_the_first_loss_is_that_of_the_network_as_it_is(
    recipe: Recipe, network: nn.Module, batches: Any
) -> None:
    _, losses, _ = range_test(network, batches, recipe, lr_min=1e-6, lr_max=1e-2, steps=10)
    torch.manual_seed(0)
    network[3].p = 0.0  # type: ignore[index]
    images, labels = batches[0]
    expected = nn.functional.cross_entropy(copy.deepcopy(network).train()(images), labels).item()
    assert losses[0] == pytest.approx(expected, rel=0.2)  # up to dropout


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_in_bf16_the_losses_are_nearly_the_same(
    recipe: Recipe, network: nn.Module, batches: Any, optimizer: str
) -> None:
    network[3].p = 0.0  # type: ignore[index]
    full, mixed = (
        range_test(
            network,
            batches,
            replace(recipe, optimizer=optimizer),
            lr_min=1e-6,
            lr_max=1e-2,
            steps=12,
            bf16=bf16,
        )[1]
        for bf16 in (False, True)
    )
    assert mixed == pytest.approx(full, rel=0.05)
    assert mixed != full


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_network_stays_as_it_is(recipe: Recipe, network: nn.Module, batches: Any, optimizer: str) -> None:
    before = copy.deepcopy(network.state_dict())
    network.eval()
    changed = replace(recipe, optimizer=optimizer)
    range_test(network, batches, changed, lr_min=1e-5, lr_max=1.0, steps=12)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not network.training
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_stops_where_the_loss_explodes(
    recipe: Recipe, network: nn.Module, batches: Any, optimizer: str
) -> None:
    changed = replace(recipe, optimizer=optimizer)
    lrs, losses, diverged = range_test(network, batches, changed, lr_min=1e-4, lr_max=1e12, steps=60)
    assert diverged
    assert len(lrs) == len(losses) < 60
    assert not losses[-1] <= 2 * losses[0]


def test_few_batches_are_repeated(recipe: Recipe, network: nn.Module, batches: Any) -> None:
    lrs, _, _ = range_test(network, batches[:2], recipe, lr_min=1e-6, lr_max=1e-3, steps=15)
    assert len(lrs) == 15


@pytest.mark.parametrize(
    ("lr_min", "lr_max", "steps", "message"),
    [
        (1e-2, 1e-3, 50, "0 < min < max"),
        (0.0, 1.0, 50, "0 < min < max"),
        (-1.0, 1.0, 50, "0 < min < max"),
        (math.nan, 1.0, 50, "0 < min < max"),
        (1e-3, math.inf, 50, "max"),
        (1e-6, 1.0, 9, "at least 10 steps, not 9"),
    ],
)
def test_a_range_that_makes_no_test_is_refused(
    recipe: Recipe, network: nn.Module, batches: Any, lr_min: float, lr_max: float, steps: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        range_test(network, batches, recipe, lr_min=lr_min, lr_max=lr_max, steps=steps)


# -- from a recipe --------------------------------------------------------------------------------


def test_a_curve_is_the_whole_record(recipe: Recipe, data: Data, cpu: Hardware) -> None:
    curve = find_lr(recipe, data, cpu, seed=1, lr_min=1e-5, lr_max=0.5, steps=40)
    assert (curve.dataset, curve.model, curve.optimizer) == ("digits", recipe.model, "adamw")
    assert list(curve.smoothed) == smooth(curve.lrs, curve.losses)
    assert curve.rule == RULE
    assert curve.suggestion == curve.rules[RULE]
    assert set(curve.rules) == set(RULES)
    assert curve == find_lr(recipe, data, cpu, seed=1, lr_min=1e-5, lr_max=0.5, steps=40)
    assert curve.losses != find_lr(recipe, data, cpu, seed=2, lr_min=1e-5, lr_max=0.5, steps=40).losses


def test_a_curve_that_its_rule_makes_nothing_of_is_a_record_too(
    recipe: Recipe, data: Data, cpu: Hardware
) -> None:
    curve = find_lr(replace(recipe, optimizer="sgd"), data, cpu, seed=1, lr_min=1e30, lr_max=1e35, steps=12)
    assert curve.suggestion is curve.rules[RULE] is None
    assert curve.losses


def test_a_curve_that_ends_in_no_number_is_smooth_up_to_there(
    recipe: Recipe, data: Data, cpu: Hardware
) -> None:
    steep = replace(recipe, optimizer="sgd")
    curve = find_lr(steep, data, cpu, seed=1, lr_min=1e-4, lr_max=1e35, steps=100)
    assert curve.diverged
    for loss, smoothed in zip(curve.losses, curve.smoothed, strict=True):
        assert math.isfinite(smoothed) or not math.isfinite(loss)


@pytest.mark.parametrize(("optimizer", "highest"), [("adam", 0.1), ("adamw", 0.1), ("sgd", 10.0)])
def test_the_default_range_suits_the_optimizer(
    recipe: Recipe, data: Data, cpu: Hardware, optimizer: str, highest: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked: list[tuple[float, float]] = []

    def note(*args: Any, lr_min: float, lr_max: float, **kwargs: Callable[..., Any]) -> Any:
        asked.append((lr_min, lr_max))
        lrs = [10 ** (i / 10 - 6) for i in range(60)]
        return lrs, [2.5 / (1 + 100 * lr) for lr in lrs], False

    monkeypatch.setattr("cifarkit.training.lr_find.range_test", note)
    curve = find_lr(replace(recipe, optimizer=optimizer), data, cpu, seed=0)
    assert asked == [(1e-7, highest)]
    assert 1e-3 < curve.suggestion < 1e-1
