"""Convolutions that train faster, and before pools in less memory, on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cifarkit.models.lean import places_dtype

# What these layers gain is measured by benchmarks/convolutions.py.
MIN_CHANNELS_IN, MIN_CHANNELS_OUT = 32, 128
# Numbers that images are unfolded to at a time, which are 12 MB.
UNFOLDED = 3_000_000
# Numbers that are computed at a time before they are pooled, which are 64 MB.
POOLED = 16_000_000


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` whose weight gradient is a matrix product with the unfolded images, where that pays.

    On small maps of many channels oneDNN takes several times as long for the gradient of the weights as for
    the convolution. Unfolding (Chellapilla et al. 2006) gives the same sums in another order. It is used
    while 3x3 layers with zero padding train on a CPU in fp32; everything else is ``nn.Conv2d``.
    """

    def _conv_forward(self, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.can_be_taken_over(images) and _unfolding_pays(weight):
            return _Convolution.apply(images, weight)  # type: ignore[no-any-return, no-untyped-call]
        return super()._conv_forward(images, weight, bias)  # type: ignore[no-any-return]

    def can_be_taken_over(self, images: Tensor) -> bool:
        """Whether it is a 3x3 convolution with zero padding that trains on a CPU in fp32."""
        return (
            self.training
            and images.ndim == 4
            and torch.is_grad_enabled()
            and images.device.type == "cpu"
            and images.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and self.kernel_size == (3, 3)
            and self.padding == (1, 1)
            and self.padding_mode == "zeros"
            and self.stride == self.dilation == (1, 1)
            and self.groups == 1
            and self.bias is None
        )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(images, weight)
        return F.conv2d(images, weight, padding=1)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        images, weight = ctx.saved_tensors
        return _gradients(images, weight, gradient, 1, ctx.needs_input_grad)


def conv_pool(images: Tensor, conv: Conv2d) -> Tensor:
    """``max_pool2d(conv(images), 2)`` in training, some images at a time.

    What lies between the two, the largest maps of a network, never exists as a whole, and the last row and
    column that the pool drops of an odd side are not computed where that pays. Results are those of the two
    layers but for rounding, by which another of two nearly equal values may be a window's largest; there are
    no second derivatives.

    Args:
        images: (B, C, H, W), sides of 2 or more.
        conv: of which `can_be_taken_over` holds.

    Returns:
        (B, K, H // 2, W // 2), channels-last.
    """
    return _ConvPool.apply(images, conv.weight)  # type: ignore[no-any-return, no-untyped-call]


class _ConvPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor) -> Tensor:
        height, width = images.shape[2:]
        shape = (len(images), len(weight), height // 2, width // 2)
        pooled = torch.empty(shape, dtype=images.dtype, memory_format=torch.channels_last)
        where = torch.empty_like(pooled, dtype=places_dtype(images))
        ctx.at_a_time = max(1, POOLED // (len(weight) * height * width))
        for some, its_pooled, its_where in _split(ctx.at_a_time, images, pooled, where):
            padded, padding = _for_pool(some, weight)
            maxima, places = F.max_pool2d(F.conv2d(padded, weight, padding=padding), 2, return_indices=True)
            its_pooled.copy_(maxima)
            its_where.copy_(places)
        ctx.save_for_backward(images, weight, where)
        return pooled

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        images, weight, where = ctx.saved_tensors
        height, width = images.shape[2:]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_images = torch.empty_like(images) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        done = 0
        for some, its_gradient, its_where in _split(ctx.at_a_time, images, gradient, where):
            padded, padding = _for_pool(some, weight)
            sides = [side - 2 + 2 * padding for side in padded.shape[2:]]
            of_maps = F.max_unpool2d(its_gradient, its_where.long(), (2, 2), output_size=sides)
            of_padded, of_its_weight = _gradients(padded, weight, of_maps, padding, ctx.needs_input_grad)
            if of_images is not None and of_padded is not None:
                first = 1 - padding
                of_padded = of_padded[:, :, first : first + height, first : first + width]
                of_images[done : done + len(some)] = of_padded
            if of_weight is not None and of_its_weight is not None:
                of_weight += of_its_weight
            done += len(some)
        return of_images, of_weight


def _split(at_a_time: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(tensor, at_a_time) for tensor in tensors), strict=True)


def _for_pool(images: Tensor, weight: Tensor) -> tuple[Tensor, int]:
    """The images as a convolution before a 2x2 pool takes them, and its padding."""
    height, width = images.shape[2:]
    if _unfolding_pays(weight) and (height % 2 or width % 2):
        return F.pad(images, (1, 1 - width % 2, 1, 1 - height % 2)), 0
    return images, 1


def _unfolding_pays(weight: Tensor) -> bool:
    return weight.shape[0] >= MIN_CHANNELS_OUT and weight.shape[1] >= MIN_CHANNELS_IN


def _gradients(
    images: Tensor, weight: Tensor, gradient: Tensor, padding: int, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Of a 3x3 convolution's images and weights, where they are needed."""
    of_images = of_weight = None
    unfolds = needed[1] and _unfolding_pays(weight)
    if unfolds:
        of_weight = weight_gradient(F.pad(images, (padding,) * 4), gradient)
    by_torch = (needed[0], needed[1] and not unfolds, False)
    if any(by_torch):
        of_images, its_of_weight, _ = torch.ops.aten.convolution_backward(
            gradient,
            images,
            weight,
            bias_sizes=None,
            stride=(1, 1),
            padding=(padding,) * 2,
            dilation=(1, 1),
            transposed=False,
            output_padding=(0, 0),
            groups=1,
            output_mask=by_torch,
        )
        of_weight = of_weight if unfolds else its_of_weight
    return of_images, of_weight


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
