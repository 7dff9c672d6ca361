"""The exponential learning-rate range test (Smith 2017, arXiv 1506.01186)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from cifarkit.augment.policies import find_policy
from cifarkit.optim import build_optimizer
from cifarkit.pipeline import Batch, train_loader
from cifarkit.recipes import Recipe
from cifarkit.results import LrCurve
from cifarkit.training.data import Data, build_network
from cifarkit.training.hardware import Hardware
from cifarkit.training.lr_rules import RULE, STEPS, check_range, check_rule, default_max_lr, smooth, suggest

RECENT = 0.8
DIVERGENCE = 4.0


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
        UnknownName: no such rule.
    """
    check_rule(rule)
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
        suggestion=rules[rule],
        diverged=diverged,
    )


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


def _endless(batches: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        yield from batches
