"""A convolution that trains faster on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

# What these layers gain is measured by benchmarks/convolutions.py.
MIN_CHANNELS_IN, MIN_CHANNELS_OUT = 32, 128
# Numbers that images are unfolded to at a time, which are 12 MB.
UNFOLDED = 3_000_000


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` whose weight gradient is a matrix product with the unfolded images, where that pays.

    On small maps of many channels oneDNN takes several times as long for the gradient of the weights as for
    the convolution. Unfolding (Chellapilla et al. 2006) gives the same sums in another order. It is used
    while 3x3 layers with zero padding train on a CPU in fp32; everything else is ``nn.Conv2d``.

    Args:
        pooled: the result goes into a 2x2 max-pool, which drops the last row and column of an odd side: where
            the above holds, they are not computed.
    """

    def __init__(self, *args: Any, pooled: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pooled = pooled

    def _conv_forward(self, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self._unfolding_pays(images, bias):
            padding = 1
            if self.pooled and min(images.shape[2:]) > 1 and any(side % 2 for side in images.shape[2:]):
                height, width = images.shape[2:]
                images, padding = F.pad(images, (1, 1 - width % 2, 1, 1 - height % 2)), 0
            return _Unfolding.apply(images, weight, padding)  # type: ignore[no-any-return, no-untyped-call]
        return super()._conv_forward(images, weight, bias)  # type: ignore[no-any-return]

    def _unfolding_pays(self, images: Tensor, bias: Tensor | None) -> bool:
        return (
            self.training
            and images.ndim == 4
            and torch.is_grad_enabled()
            and images.device.type == "cpu"
            and images.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and self.in_channels >= MIN_CHANNELS_IN
            and self.out_channels >= MIN_CHANNELS_OUT
            and self.kernel_size == (3, 3)
            and self.padding == (1, 1)
            and self.padding_mode == "zeros"
            and self.stride == self.dilation == (1, 1)
            and self.groups == 1
            and bias is None
        )


class _Unfolding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.padding = padding
        return F.conv2d(images, weight, padding=padding)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        images, weight = ctx.saved_tensors
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            of_images = conv2d_input(images.shape, weight, gradient, padding=ctx.padding)  # type: ignore[no-untyped-call]
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(F.pad(images, (1,) * 4) if ctx.padding else images, gradient)
        return of_images, of_weight, None


def weight_gradient(images: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of the weights of a 3x3 convolution with stride 1.

    Args:
        images: what was convolved, its padding included, (B, C, H + 2, W + 2).
        gradient: with respect to the convolution's result, (B, K, H, W).

    Returns:
        (K, C, 3, 3) in channels-last layout.
    """
    channels, (height, width) = images.shape[1], gradient.shape[2:]
    patches = images.permute(0, 2, 3, 1).unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 1, 2, 4, 5, 3)
    outputs = gradient.permute(0, 2, 3, 1).flatten(0, 2)
    total = images.new_zeros(gradient.shape[1], 9 * channels)
    several = max(1, UNFOLDED // (height * width * 9 * channels))
    for first in range(0, len(images), several):
        some = patches[first : first + several].reshape(-1, 9 * channels)
        total.addmm_(outputs[first * height * width :][: len(some)].t(), some)
    return total.view(-1, 3, 3, channels).permute(0, 3, 1, 2)
