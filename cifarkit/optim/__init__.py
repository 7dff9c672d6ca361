"""The OPTIMIZERS table: from a network to an optimiser over its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cifarkit.errors import UnknownName

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


def _adam(network: nn.Module, lr: float, weight_decay: float) -> Optimizer:
    from torch.optim import Adam

    return Adam(_trainable(network), lr=lr, weight_decay=weight_decay)


def _adamw(network: nn.Module, lr: float, weight_decay: float) -> Optimizer:
    from torch.optim import AdamW

    return AdamW(_trainable(network), lr=lr, weight_decay=weight_decay)


def _sgd(network: nn.Module, lr: float, weight_decay: float) -> Optimizer:
    from torch.optim import SGD

    return SGD(_trainable(network), lr=lr, weight_decay=weight_decay, momentum=0.9, nesterov=True)


def _muon(network: nn.Module, lr: float, weight_decay: float) -> Optimizer:
    """Muon on filters at ``lr``; Nesterov SGD on biases and head at the ratios to it, and with the
    weight decay per step, that airbench94_muon found."""
    from cifarkit.optim.muon import Muon

    trainable = _trainable(network)
    head = [p for p in trainable if p.ndim == 2]
    biases = [p for p in trainable if p.ndim < 2]
    bias_lr, head_lr = lr * 0.053 / 0.24, lr * 0.67 / 0.24
    sgd = {"momentum": 0.85, "nesterov": True}
    groups = [
        {"params": [p for p in trainable if p.ndim == 4], "lr": lr, "momentum": 0.6, "filters": True},
        {"params": biases, "lr": bias_lr, "weight_decay": weight_decay / bias_lr, **sgd},
        {"params": head, "lr": head_lr, "weight_decay": weight_decay / head_lr, **sgd},
    ]
    return Muon([group for group in groups if group["params"]])


def _trainable(network: nn.Module) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.requires_grad]


OPTIMIZERS: dict[str, Callable[[nn.Module, float, float], Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
    "muon": _muon,
}


def build_optimizer(name: str, network: nn.Module, lr: float, weight_decay: float) -> Optimizer:
    """An optimiser over the trainable parameters of a network.

    Args:
        lr: peak learning rate of the first parameter group; other groups keep their ratio to it.
        weight_decay: the optimiser's own kind; for ``muon`` it is the shrinkage per step at peak.

    Raises:
        UnknownName: not in `OPTIMIZERS`.
    """
    if name not in OPTIMIZERS:
        raise UnknownName("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name](network, lr, weight_decay)
