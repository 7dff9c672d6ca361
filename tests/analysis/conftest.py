from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from cifarkit.analysis.predictions import Predictions

Make = Callable[..., Predictions]


@pytest.fixture
def make() -> Make:
    """Predictions from rows of probabilities; classes are a, b, c, ..."""

    def made(
        rows: Sequence[Sequence[float]], labels: Sequence[int], indices: Sequence[int] | None = None
    ) -> Predictions:
        probabilities = np.asarray(rows, dtype=np.float64)
        at = np.arange(len(labels)) if indices is None else np.asarray(indices)
        classes = tuple("abcdefghijklmnopqrstuvwxyz"[: probabilities.shape[1]])
        return Predictions(probabilities, np.asarray(labels, dtype=np.int64), at, classes)

    return made


@pytest.fixture
def six(make: Make) -> Predictions:
    """Six images of three classes: three right, three wrong."""
    rows = [
        [0.90, 0.05, 0.05],  # a, right
        [0.20, 0.70, 0.10],  # a, called b
        [0.10, 0.80, 0.10],  # b, right
        [0.10, 0.30, 0.60],  # b, called c
        [0.05, 0.90, 0.05],  # c, called b
        [0.10, 0.40, 0.50],  # c, right
    ]
    return make(rows, [0, 0, 1, 1, 2, 2], indices=[40, 10, 30, 20, 60, 50])
