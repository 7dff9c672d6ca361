from __future__ import annotations

import math

import numpy as np
import pytest

from cifarkit.errors import CifarkitError, UnknownName
from cifarkit.training.lr_rules import RULES, choose, minimum_tenth, smooth, steepest, suggest, valley

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


def test_what_only_scatters_supports_no_rule() -> None:
    scatter = np.random.default_rng(0).normal(0, 0.003, len(LRS))
    assert suggest(LRS, list(2.303 + scatter)) == dict.fromkeys(RULES)
    falling = suggest(LRS, list(fall(1e-2) + scatter))
    assert all(lr is not None for lr in falling.values())


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
    with pytest.raises(
        CifarkitError,
        match=r"rule 'valley' nothing to go by.*--max-lr or --rule \(steepest: 0.1, minimum/10: 0.2\)",
    ):
        choose(rules, "valley")
    with pytest.raises(UnknownName, match="unknown rule 'valey': did you mean valley"):
        choose(rules, "valey")
