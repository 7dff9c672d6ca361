"""The OPTIMIZERS table: from a network to an optimiser over its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from cifarkit.errors import UnknownName

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


def _adam(network: nn.Module, lr: float, weight_decay: float, batch_size: int, bf16: bool) -> Optimizer:
    from torch.optim import Adam

    return Adam(_trainable(network), lr=lr, weight_decay=weight_decay)


def _adamw(network: nn.Module, lr: float, weight_decay: float, batch_size: int, bf16: bool) -> Optimizer:
    from torch.optim import AdamW

    return AdamW(_trainable(network), lr=lr, weight_decay=weight_decay)


def _sgd(network: nn.Module, lr: float, weight_decay: float, batch_size: int, bf16: bool) -> Optimizer:
    from torch.optim import SGD

    return SGD(_trainable(network), lr=lr, weight_decay=weight_decay, momentum=0.9, nesterov=True)


def _muon(network: nn.Module, lr: float, weight_decay: float, batch_size: int, bf16: bool) -> Optimizer:
    """Muon on filters at ``lr``; Nesterov SGD on the head and on biases, among which is whatever is neither,
    whose rates follow from it.

    airbench94_muon found 0.24, 0.053 and 0.67 for batches of 2000 and a loss summed over the batch. SGD's
    rates per image hold for any batch size; Muon's step has the same length whatever the gradient, so its
    best rate grows with the square root of the batch. ``lr`` being given, their ratio follows. Ours is the
    mean loss, hence the batch size once more. A step at the full rates takes ``weight_decay`` of the weights.

    Those rates are for logits divided by the width (``logit_scale``). On other networks they would explode:
    there biases and head train at half of ``lr``, and a step takes ``weight_decay`` times that.
    """
    from cifarkit.optim.muon import Muon

    trainable = _trainable(network)
    filters = [p for p in trainable if p.ndim == 4]
    head = [p for p in trainable if p.ndim == 2]
    biases = [p for p in trainable if p.ndim not in (2, 4)]
    scale = lr / 0.24 * math.sqrt(2000 / batch_size) * batch_size
    bias_lr, head_lr = 0.053 * scale, 0.67 * scale
    bias_decay, head_decay = weight_decay / bias_lr, weight_decay / head_lr
    if not hasattr(network, "logit_scale"):
        bias_lr = head_lr = lr / 2
        bias_decay = head_decay = weight_decay
    sgd = {"momentum": 0.85, "nesterov": True}
    groups = [
        {"params": filters, "lr": lr, "momentum": 0.6, "filters": True},
        {"params": biases, "lr": bias_lr, "weight_decay": bias_decay, **sgd},
        {"params": head, "lr": head_lr, "weight_decay": head_decay, **sgd},
    ]
    return Muon([group for group in groups if group["params"]], bf16=bf16)


def _trainable(network: nn.Module) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.requires_grad]


# What the parameter groups of an optimiser hold, where there are several.
GROUPS: dict[str, tuple[str, ...]] = {"muon": ("filters", "biases", "head")}

OPTIMIZERS: dict[str, Callable[[nn.Module, float, float, int, bool], Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
    "muon": _muon,
}


def build_optimizer(
    name: str,
    network: nn.Module,
    lr: float,
    weight_decay: float,
    batch_size: int,
    *,
    bf16: bool = False,
) -> Optimizer:
    """An optimiser over the trainable parameters of a network.

    Args:
        lr: peak learning rate of the first parameter group; other groups keep their ratio to it.
        weight_decay: the optimiser's own kind; for ``muon`` the share by which biases and head shrink in
            a step at the peak rate.
        batch_size: images per step, over which the loss is averaged.
        bf16: whether the optimiser's own matrix products may be computed in bf16.

    Raises:
        UnknownName: not in `OPTIMIZERS`.
    """
    if name not in OPTIMIZERS:
        raise UnknownName("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name](network, lr, weight_decay, batch_size, bf16)
