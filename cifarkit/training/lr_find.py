"""The exponential learning-rate range test (Smith 2017, arXiv 1506.01186)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cifarkit.augment.policies import find_policy
from cifarkit.errors import CifarkitError, UnknownName, UsageError
from cifarkit.optim import build_optimizer
from cifarkit.pipeline import Batch, train_loader
from cifarkit.recipes import Recipe
from cifarkit.results import LrCurve
from cifarkit.training.data import Data, build_network
from cifarkit.training.hardware import Hardware

RECENT = 0.8
DIVERGENCE = 4.0
STEPS = 100
RULE = "valley"


def find_lr(
    recipe: Recipe,
    data: Data,
    hardware: Hardware,
    *,
    seed: int,
    lr_min: float = 1e-7,
    lr_max: float | None = None,
    steps: int = STEPS,
    rule: str = RULE,
    on_step: Callable[[int, float, float], None] = lambda step, lr, loss: None,
) -> LrCurve:
    """Run a learning-rate range test with a recipe's own model, data, batch and optimiser.

    Args:
        lr_max: None takes 0.1 for Adam and AdamW, and 10 for SGD and Muon, which train at higher rates.

    Raises:
        CifarkitError: the curve does not support the rule.
    """
    lr_max = lr_max or default_max_lr(recipe)
    device = torch.device(hardware.device)
    torch.manual_seed(seed)
    network = build_network(recipe, data).to(device)
    batches = train_loader(
        data.train,
        find_policy(recipe.policy),
        data.preprocessing,
        batch_size=recipe.batch_size,
        seed=seed,
        device=device,
    )
    lrs, losses, diverged = range_test(
        network,
        batches,
        recipe,
        lr_min=lr_min,
        lr_max=lr_max,
        steps=steps,
        bf16=hardware.precision == "bf16",
        on_step=on_step,
    )
    rules = suggest(lrs, losses)
    return LrCurve(
        dataset=data.name,
        model=recipe.model,
        optimizer=recipe.optimizer,
        lrs=tuple(lrs),
        losses=tuple(losses),
        smoothed=tuple(smooth(lrs, losses)),
        rules=rules,
        rule=rule,
        suggestion=choose(rules, rule),
        diverged=diverged,
    )


def default_max_lr(recipe: Recipe) -> float:
    """Adam and AdamW train at lower rates than SGD and Muon."""
    return 0.1 if recipe.optimizer.startswith("adam") else 10.0


def range_test(
    network: nn.Module,
    batches: Iterable[Batch],
    recipe: Recipe,
    *,
    lr_min: float,
    lr_max: float,
    steps: int,
    bf16: bool = False,
    on_step: Callable[[int, float, float], None] = lambda step, lr, loss: None,
) -> tuple[list[float], list[float], bool]:
    """Train a copy of a network for ``steps`` steps while the learning rate grows exponentially.

    The network itself stays as it is. The test stops where the average of recent losses exceeds four times
    its minimum, or is no longer a number.

    Args:
        batches: as many training batches as there are steps; repeated when there are fewer.
        bf16: train in mixed precision.
        on_step: called with (step from 1, learning rate, loss).

    Returns:
        The learning rates, ascending; the loss at each, before its update; whether the test diverged.

    Raises:
        UsageError: the range or the number of steps makes no test.
    """
    check_range(lr_min, lr_max, steps)
    trial = copy.deepcopy(network).train()
    optimizer = build_optimizer(
        recipe.optimizer, trial, 1.0, recipe.weight_decay, recipe.batch_size, bf16=bf16
    )
    ratios = [group["lr"] for group in optimizer.param_groups]
    lrs: list[float] = []
    losses: list[float] = []
    recent = lowest = math.inf
    supply = _endless(batches)
    device = next(trial.parameters()).device
    for step in range(steps):
        lr = lr_min * (lr_max / lr_min) ** (step / (steps - 1))
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["lr"] = lr * ratio
        images, labels = (part.to(device) for part in next(supply))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = trial(images.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        lrs.append(lr)
        losses.append(loss.item())
        on_step(step + 1, lr, losses[-1])
        recent = RECENT * recent + (1 - RECENT) * losses[-1] if step else losses[0]
        lowest = min(lowest, recent)
        if not math.isfinite(recent) or recent > DIVERGENCE * lowest:
            return lrs, losses, True
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return lrs, losses, False


def check_range(lr_min: float, lr_max: float, steps: int) -> None:
    """Raises: UsageError."""
    if not (0 < lr_min < lr_max < math.inf):
        raise UsageError(f"the range needs 0 < min < max, not {lr_min} .. {lr_max}")
    if steps < 10:
        raise UsageError(f"a range test needs at least 10 steps, not {steps}")


def _endless(batches: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        yield from batches


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
    """What every rule makes of the curve; the last point of a diverged test is left out."""
    finite = [i for i, loss in enumerate(losses) if math.isfinite(loss)]
    if len(finite) < 10:
        return dict.fromkeys(RULES)
    lrs = [lrs[i] for i in finite]
    smoothed = smooth(lrs, [losses[i] for i in finite])
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
        raise CifarkitError(
            f"the range test gives the rule {rule!r} nothing to go by: the loss never fell, or diverged at "
            "once; try `cifarkit lr-find` with another --min-lr and --max-lr, or give --lr a number"
        )
    return lr


def check_rule(rule: str) -> None:
    """Raises: UnknownName."""
    if rule not in RULES:
        raise UnknownName("rule", rule, RULES)
