"""What a range test may cover, and the learning rates that follow from its curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from cifarkit.errors import CifarkitError, UnknownName, UsageError
from cifarkit.recipes import Recipe

STEPS = 100
SCATTER = 2  # medians of what losses leap from step to step; of mere noise, one curve in twenty falls further
RULE = "valley"


def default_max_lr(recipe: Recipe) -> float:
    """Adam and AdamW train at lower rates than SGD and Muon."""
    return 0.1 if recipe.optimizer.startswith("adam") else 10.0


def check_range(lr_min: float, lr_max: float, steps: int) -> None:
    """Raises: UsageError."""
    if not (0 < lr_min < lr_max < math.inf):
        raise UsageError(f"the range needs 0 < min < max, not {lr_min} .. {lr_max}")
    if steps < 10:
        raise UsageError(f"a range test needs at least 10 steps, not {steps}")


def smooth(lrs: Sequence[float], losses: Sequence[float]) -> list[float]:
    """Exponential average of the losses so far; one measured a decade of learning rates ago counts 1/e.

    Over the rates and not over the steps, so that a test of more steps tells the same. The average lags
    behind the curve by about a decade, and the rules rely on it as they do in other range tests: the loss
    falls fastest long before the rate at which training does best (for custom-resnet on CIFAR-10 with
    Adam at 2e-5, when 2e-3 still trains well).
    """
    averages = list(losses[:1])
    for (before, lr), loss in zip(pairwise(lrs), losses[1:], strict=True):
        kept = math.exp(-math.log10(lr / before))
        averages.append(kept * averages[-1] + (1 - kept) * loss)
    return averages


def steepest(lrs: list[float], smoothed: list[float]) -> float | None:
    """The learning rate at which the smoothed loss falls fastest per decade; None if it never falls.

    The slope is taken over log lr: over lr itself, the small rates would always win (their steps are
    the shortest), which is where other finders go wrong.
    """
    slopes = np.gradient(np.asarray(smoothed), np.log10(lrs))
    slopes = np.where(np.isfinite(slopes), slopes, np.inf)
    at = int(slopes.argmin())
    return lrs[at] if slopes[at] < -1e-9 * abs(smoothed[0]) else None


def minimum_tenth(lrs: list[float], smoothed: list[float]) -> float | None:
    """A tenth of the learning rate with the lowest smoothed loss (the fastai rule)."""
    at = int(np.nanargmin(smoothed))
    return lrs[at] / 10 if at > 0 else None


def valley(lrs: list[float], smoothed: list[float]) -> float | None:
    """Two thirds along the longest stretch, in steps, over which the smoothed loss keeps falling."""
    start = best_start = best_length = 0
    for step in range(1, len(smoothed) + 1):
        if step == len(smoothed) or not smoothed[step] < smoothed[step - 1]:
            if step - start > best_length:
                best_start, best_length = start, step - start
            start = step
    return lrs[best_start + best_length * 2 // 3] if best_length > 3 else None


RULES: dict[str, Callable[[list[float], list[float]], float | None]] = {
    "steepest": steepest,
    "minimum/10": minimum_tenth,
    "valley": valley,
}


def suggest(lrs: list[float], losses: list[float]) -> dict[str, float | None]:
    """What every rule makes of the curve; losses that are no numbers are left out.

    No rule makes anything of a curve whose average falls by less than `SCATTER`.
    """
    finite = [i for i, loss in enumerate(losses) if math.isfinite(loss)]
    if len(finite) < 10:
        return dict.fromkeys(RULES)
    lrs, losses = [lrs[i] for i in finite], [losses[i] for i in finite]
    smoothed = smooth(lrs, losses)
    fall = (np.maximum.accumulate(smoothed) - smoothed).max()
    # Of the median, because the end of a curve may leap.
    scatter = np.median(np.abs(np.diff(losses)))
    if fall <= SCATTER * scatter:
        return dict.fromkeys(RULES)
    return {name: rule(lrs, smoothed) for name, rule in RULES.items()}


def choose(rules: dict[str, float | None], rule: str) -> float:
    """The suggestion of one rule.

    Raises:
        UnknownName: no such rule.
        CifarkitError: the curve does not support the rule.
    """
    check_rule(rule)
    lr = rules[rule]
    if lr is None:
        others = ", ".join(f"{name}: {other:.3g}" for name, other in rules.items() if other is not None)
        raise CifarkitError(
            f"the range test gives the rule {rule!r} nothing to go by: the loss never fell, or diverged at "
            "once; give `lr-find` another --min-lr and --max-lr"
            f"{f' or --rule ({others})' if others else ''}, or `fit` a number for --lr"
        )
    return lr


def check_rule(rule: str) -> None:
    """Raises: UnknownName."""
    if rule not in RULES:
        raise UnknownName("rule", rule, RULES)
