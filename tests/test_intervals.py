from __future__ import annotations

import pytest

from cifarkit.intervals import accuracy_interval, spread


def test_a_mean_has_student_s() -> None:
    """The textbook's: five values, t(0.975, 4) = 2.776."""
    of_five = spread([1.0, 2.0, 3.0, 4.0, 5.0])
    assert of_five.mean == 3.0
    assert of_five.std == pytest.approx(2.5**0.5)
    assert of_five.low == pytest.approx(3 - 2.7764451 * (2.5 / 5) ** 0.5)
    assert of_five.high == pytest.approx(3 + 2.7764451 * (2.5 / 5) ** 0.5)


def test_one_value_has_no_interval() -> None:
    assert (spread([0.5]).mean, spread([0.5]).std, spread([0.5]).low, spread([0.5]).high) == (
        0.5,
        0,
        None,
        None,
    )


def test_an_interval_ends_where_its_values_do() -> None:
    of_two = spread([0.8, 0.9], most=1.0)
    assert (of_two.low, of_two.high) == (pytest.approx(0.85 - 12.7062 * 0.05, abs=1e-4), 1.0)
    assert spread([1.0, 9.0]).low == 0.0


@pytest.mark.parametrize(
    ("accuracy", "samples", "low", "high"),
    [(0.5, 100, 0.4038, 0.5962), (0.912, 10_000, 0.9063, 0.9174), (1.0, 10, 0.7225, 1.0)],
)
def test_an_accuracy_has_wilson_s(accuracy: float, samples: int, low: float, high: float) -> None:
    assert accuracy_interval(accuracy, samples) == pytest.approx((low, high), abs=5e-5)
