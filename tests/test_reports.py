from __future__ import annotations

import numpy as np

from cifarkit.reports.training import _across_classes


def test_pictures_take_turns_among_the_classes() -> None:
    labels = np.array([2, 2, 0, 2, 1, 0, 2])
    assert _across_classes(labels, 4).tolist() == [2, 4, 0, 5]
    assert _across_classes(labels, 100).tolist() == [2, 4, 0, 5, 1, 3, 6]
    assert _across_classes(labels[:0], 3).tolist() == []
