"""A max-pool that trains in less memory on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class MaxPool2d(nn.MaxPool2d):
    """``nn.MaxPool2d`` of windows that do not overlap, which forgets what it has pooled.

    Windows are no larger than the map's shorter side, as where training shrinks the images.

    PyTorch keeps a pool's input for the backward pass, which asks for nothing but its shape. With the places
    of the maxima that is, in fp32, six times the memory of the output, for the largest maps of a network.
    Results are the same bit by bit. It is used in training on a CPU, without second derivatives; everything
    else is ``nn.MaxPool2d``.
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__(kernel_size)

    def forward(self, images: Tensor) -> Tensor:
        kernel_size = min(int(self.kernel_size), *images.shape[2:])  # type: ignore[arg-type]
        trains = self.training and torch.is_grad_enabled() and images.device.type == "cpu"
        # PyTorch does not count unpooling among its deterministic operations: where windows overlap, the
        # order of writing decides.
        if trains and not torch.are_deterministic_algorithms_enabled():
            return _Forgetful.apply(images, kernel_size)  # type: ignore[no-any-return, no-untyped-call]
        return F.max_pool2d(images, kernel_size)


class _Forgetful(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, kernel_size: int) -> Tensor:
        pooled, where = F.max_pool2d(images, kernel_size, return_indices=True)
        height, width = images.shape[2:]
        # PyTorch counts in int64, which takes twice the memory of the maxima themselves.
        ctx.save_for_backward(where.to(torch.int16 if height * width <= 2**15 else torch.int32))
        ctx.kernel_size, ctx.shape = kernel_size, images.shape
        return pooled

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (where,) = ctx.saved_tensors
        if where.is_contiguous(memory_format=torch.channels_last):  # and so is what was pooled
            gradient = gradient.contiguous(memory_format=torch.channels_last)
        return F.max_unpool2d(gradient, where.long(), ctx.kernel_size, output_size=list(ctx.shape)), None
