from __future__ import annotations

import pytest

from cifarkit.repeats import spread


def test_the_interval_is_student_s() -> None:
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
