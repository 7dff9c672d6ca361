from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cifarkit.errors import CifarkitError, UnknownName, UsageError
from cifarkit.optim import OPTIMIZERS
from cifarkit.recipes import Recipe
from cifarkit.training.data import Data, build_network
from cifarkit.training.hardware import Hardware
from cifarkit.training.lr_find import (
    RULE,
    RULES,
    choose,
    find_lr,
    minimum_tenth,
    range_test,
    smooth,
    steepest,
    suggest,
    valley,
)

LRS = [float(lr) for lr in np.logspace(-6, 1, 141)]  # 20 steps per decade


def fall(centre: float, width: float = 0.4) -> list[float]:
    """A loss that falls from 2.5 to 0.5 as a logistic curve over log lr, fastest at ``centre``."""
    return [0.5 + 2 / (1 + math.exp((math.log10(lr / centre)) / width)) for lr in LRS]


def bowl(lowest: float) -> list[float]:
    return [1 + math.log10(lr / lowest) ** 2 for lr in LRS]


# -- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("centre", [1e-4, 1e-2, 1.0])
def test_steepest_is_where_the_loss_falls_fastest_per_decade(centre: float) -> None:
    assert steepest(LRS, fall(centre)) == pytest.approx(centre)


def test_steepest_ignores_the_length_of_steps_in_lr() -> None:
    """Over lr itself the first, shortest steps would look steepest."""
    lrs, losses = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2], [10.0, 9.9, 9.8, 8.0, 6.2]
    assert steepest(lrs, losses) == 1e-3


def test_steepest_needs_a_fall() -> None:
    assert steepest(LRS, [1.0] * len(LRS)) is None
    assert steepest(LRS, [float(i) for i in range(len(LRS))]) is None


def test_steepest_passes_over_what_is_no_number() -> None:
    losses = fall(1e-3)
    losses[-1] = math.nan
    assert steepest(LRS, losses) == pytest.approx(1e-3)


@pytest.mark.parametrize("lowest", [1e-3, 1e-1])
def test_minimum_tenth_is_a_tenth_of_the_lowest(lowest: float) -> None:
    assert minimum_tenth(LRS, bowl(lowest)) == pytest.approx(lowest / 10)


def test_minimum_tenth_needs_a_fall() -> None:
    assert minimum_tenth(LRS, [float(i) for i in range(len(LRS))]) is None


def test_valley_is_two_thirds_along_the_longest_fall() -> None:
    losses = [5.0, 4.0, 5.0] + [4.0 - 0.1 * i for i in range(30)] + [9.0] * 10
    # The fall begins at the peak, point 2, and has 31 points.
    assert valley(LRS[:43], losses) == LRS[2 + 31 * 2 // 3]


def test_valley_needs_more_than_three_points() -> None:
    assert valley(LRS[:10], [3.0, 2.0, 3.0, 2.0, 1.0, 3.0, 2.0, 3.0, 2.0, 3.0]) is None
    assert valley(LRS[:10], [3.0, 2.0, 3.0, 2.0, 1.0, 0.0, 2.0, 3.0, 2.0, 3.0]) == LRS[4]


def test_valley_takes_the_first_of_equal_falls() -> None:
    assert valley(LRS[:8], [4.0, 3.0, 2.0, 1.0, 4.0, 3.0, 2.0, 1.0]) == LRS[2]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_suggests_a_rate_inside_a_good_curve(rule: str) -> None:
    falling = fall(1e-2)
    losses = [loss + 3 * max(0.0, math.log10(lr / 0.3)) for lr, loss in zip(LRS, falling, strict=True)]
    lr = suggest(LRS, losses)[rule]
    assert lr is not None
    assert 1e-3 < lr < 0.5


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rule", ["steepest", "valley"])
def test_noise_does_not_lead_the_rules_astray(rule: str, seed: int) -> None:
    """The loss of a batch of 512 scatters by about 2 percent."""
    noise = np.random.default_rng(seed).normal(0, 0.05, len(LRS))
    losses = [loss + float(n) for loss, n in zip(fall(1e-2), noise, strict=True)]
    lr = suggest(LRS, losses)[rule]
    assert lr is not None
    assert 1e-2 < lr < 1


# -- smoothing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps_per_decade", [1, 5, 40])
def test_smoothing_forgets_by_the_decade_whatever_the_steps(steps_per_decade: int) -> None:
    lrs = [10 ** (i / steps_per_decade) for i in range(3 * steps_per_decade + 1)]
    smoothed = smooth(lrs, [1.0] + [0.0] * (len(lrs) - 1))
    assert smoothed[::steps_per_decade] == pytest.approx([math.exp(-decade) for decade in range(4)])


def test_smoothing_keeps_what_is_constant_and_looks_back_only() -> None:
    assert smooth(LRS, [3.0] * len(LRS)) == pytest.approx([3.0] * len(LRS))
    assert smooth(LRS[:50], fall(1e-3)[:50]) == smooth(LRS, fall(1e-3))[:50]
    assert smooth([], []) == []


def test_smoothing_lags_by_less_than_two_decades() -> None:
    lr = steepest(LRS, smooth(LRS, fall(1e-3)))
    assert lr is not None
    assert 1e-3 < lr < 1e-1


# -- suggestions ----------------------------------------------------------------------------------


def test_a_short_curve_supports_no_rule() -> None:
    assert suggest(LRS[:9], [9.0 - i for i in range(9)]) == dict.fromkeys(RULES)


@pytest.mark.parametrize("losses", [[], [math.nan], [math.inf] * 20], ids=["none", "one", "many"])
def test_a_curve_without_numbers_supports_no_rule(losses: list[float]) -> None:
    assert suggest(LRS[: len(losses)], losses) == dict.fromkeys(RULES)


def test_what_is_no_number_is_left_out() -> None:
    losses = fall(1e-2)
    assert suggest([*LRS, 20.0], [*losses, math.nan]) == suggest(LRS, losses)


@pytest.mark.parametrize("explosion", [[30.0], [30.0, 1e4], [1e12]], ids=str)
def test_the_explosion_at_the_end_does_not_reach_back(explosion: list[float]) -> None:
    """Where a test ends by divergence, its last losses can be of any size."""
    at = LRS.index(pytest.approx(1.0))
    lrs, losses = LRS[: at + len(explosion)], fall(1e-2)[:at] + explosion
    lr = suggest(lrs, losses)["steepest"]
    assert lr is not None
    assert 1e-2 < lr < 1


def test_choose_takes_the_rule_asked_for() -> None:
    rules: dict[str, float | None] = {"steepest": 0.1, "minimum/10": 0.2, "valley": None}
    assert choose(rules, "minimum/10") == 0.2
    with pytest.raises(CifarkitError, match=r"rule 'valley' nothing to go by.*--max-lr"):
        choose(rules, "valley")
    with pytest.raises(UnknownName, match="unknown rule 'valey': did you mean valley"):
        choose(rules, "valey")


# -- the test itself ------------------------------------------------------------------------------


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
        return LRS, fall(1e-3), False

    monkeypatch.setattr("cifarkit.training.lr_find.range_test", note)
    curve = find_lr(replace(recipe, optimizer=optimizer), data, cpu, seed=0)
    assert asked == [(1e-7, highest)]
    assert 1e-3 < curve.suggestion < 1e-1
