"""Layers that keep less for the backward pass while they train on a CPU, and a dropout that draws faster."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def pays(x: Tensor) -> bool:
    """Whether a network in training that gets x should use these; compilers decide that themselves."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def unpools(x: Tensor) -> bool:
    """Whether it should use those that unpool.

    PyTorch does not count that among its deterministic operations: where windows overlap, the order of
    writing decides.
    """
    return pays(x) and not torch.are_deterministic_algorithms_enabled()


class MaxPool2d(nn.MaxPool2d):
    """``nn.MaxPool2d`` of windows that do not overlap, which forgets what it has pooled.

    Windows are no larger than the map's shorter side, as where training shrinks the images.

    PyTorch keeps a pool's input for the backward pass, which asks for nothing but its shape. With the places
    of the maxima that is, in fp32, six times the memory of the output, for the largest maps of a network.
    Results are the same bit by bit. It is used in training on a CPU where one `unpools`, without second
    derivatives; everything else is ``nn.MaxPool2d``.
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__(kernel_size)

    def forward(self, images: Tensor) -> Tensor:
        kernel_size = min(int(self.kernel_size), *images.shape[2:])  # type: ignore[arg-type]
        if self.training and unpools(images):
            return _Pool.apply(images, kernel_size)  # type: ignore[no-any-return, no-untyped-call]
        return F.max_pool2d(images, kernel_size)


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, kernel_size: int) -> Tensor:
        pooled, where = F.max_pool2d(images, kernel_size, return_indices=True)
        ctx.save_for_backward(where.to(places_dtype(images)))
        ctx.kernel_size, ctx.shape = kernel_size, images.shape
        return pooled

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (where,) = ctx.saved_tensors
        if where.is_contiguous(memory_format=torch.channels_last):  # and so is what was pooled
            gradient = gradient.contiguous(memory_format=torch.channels_last)
        return F.max_unpool2d(gradient, where.long(), ctx.kernel_size, output_size=list(ctx.shape)), None


def places_dtype(images: Tensor) -> torch.dtype:
    """Of integers that count the places of a map (B, C, H, W).

    PyTorch's are int64, which take twice the memory of the maxima themselves.
    """
    height, width = images.shape[2:]
    return torch.int16 if height * width <= 2**15 else torch.int32


class Dropout(nn.Dropout):
    """``nn.Dropout`` with cheaper random numbers on a CPU, where PyTorch's take a sixth of a training step in
    bf16: one of 64 bits serves four values, so that ``p`` holds to 1/65536."""

    @property
    def draws(self) -> bool:
        return self.training and 0 < self.p < 1

    @property
    def scale(self) -> float:
        """By which what is kept is multiplied."""
        return 1 / (1 - self.p)

    def forward(self, x: Tensor) -> Tensor:
        if self.draws and x.device.type == "cpu" and not torch.compiler.is_compiling():
            return (x * self.scale).masked_fill_(self.dropped(x), 0)
        return super().forward(x)

    def dropped(self, x: Tensor) -> Tensor:
        """Which values of x are dropped this time, bool."""
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        dropped = bits[: x.numel()] < round(self.p * 2**16) - 2**15
        # In the order in which the values lie in memory.
        return dropped.as_strided(x.shape, torch.empty_like(x, device="meta").stride())


def relu_dropout(x: Tensor, dropout: Dropout) -> Tensor:
    """``dropout(relu(x))``, which keeps its result alone: a gradient passes where that is not zero.

    Outputs and gradients are the same bit by bit; there are no second derivatives.

    Args:
        dropout: which `draws`.
    """
    return _ReluDropout.apply(x, dropout)  # type: ignore[no-any-return, no-untyped-call]


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropout: Dropout) -> Tensor:
        y = x.relu().masked_fill_(dropout.dropped(x), 0).mul_(dropout.scale)
        ctx.save_for_backward(y)
        ctx.scale = dropout.scale
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, y, 0).mul_(ctx.scale), None
