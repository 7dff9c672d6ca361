"""What measurements say with 95% confidence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from cifarkit.results import Spread


def accuracy_interval(accuracy: float, samples: int) -> tuple[float, float]:
    """The 95% interval of an accuracy, a fraction, over independent samples (Wilson 1927)."""
    from scipy.stats import binomtest  # slow to import

    low, high = binomtest(round(accuracy * samples), samples).proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def spread(values: Sequence[float], most: float = math.inf) -> Spread:
    """Of at least one value between 0 and ``most``, where the interval ends, too."""
    mean = statistics.mean(values)
    if len(values) == 1:
        return Spread(mean, 0.0, None, None)
    from scipy.stats import t  # slow to import

    std = statistics.stdev(values)
    reach = float(t.ppf(0.975, len(values) - 1)) * std / math.sqrt(len(values))
    return Spread(mean, std, max(0.0, mean - reach), min(most, mean + reach))
