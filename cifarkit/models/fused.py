"""Max-pool, batch norm and GELU in one, for training on NVIDIA GPUs.

After the convolutions, these are what a step of `SpeedNet` spends its time on, and they are bound by memory
traffic. Here each pass reads and writes every tensor once: two passes forwards (statistics, then output) and
two backwards. Tensors are channels-last, seen as matrices of pixels by channels; a Triton program takes a
block of channels and strides over blocks of pixels.
"""

# Triton reads the annotations of its functions, and knows none of Python's types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    import triton.language as tl  # type: ignore[import-untyped, import-not-found]

# Four warps read 16 bytes a thread, whole cache lines of bf16.
LAUNCH = {"ROWS": 32, "CHANNELS": 64, "num_warps": 4, "enable_fp_fusion": True}
# Several for each of some 130 multiprocessors; a sum leaves a row of partial sums for each program.
SUM_PROGRAMS, MAP_PROGRAMS = 4096, 16384


def pays(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Whether `norm_gelu` can take these, and is faster than the modules one by one."""
    return x.is_cuda and not torch.compiler.is_compiling() and available() and supports(x, norm)


@cache
def available() -> bool:
    """Whether there is a CUDA device and Triton to compile for it."""
    return torch.cuda.is_available() and torch.version.cuda is not None and find_spec("triton") is not None


def supports(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Whether `norm_gelu` takes x (B, C, H, W) and the layer; that a fixed scale is 1 is not looked at."""
    return (
        x.dtype in (torch.bfloat16, torch.float32)
        and len(x) > 1
        and x.shape[1] % 8 == 0
        and norm.training
        and norm.running_mean is not None
        and norm.momentum is not None
        and norm.bias is not None
        and not (norm.weight is not None and norm.weight.requires_grad)
    )


def norm_gelu(x: Tensor, norm: nn.BatchNorm2d, *, pool: bool) -> Tensor:
    """``gelu(norm(max_pool2d(x, 2) if pool else x))`` in training, running statistics included.

    Each combination of dtype and `pool` is compiled at its first call, forwards and backwards, so that both
    have to be run once before a CUDA graph is captured.

    Args:
        x: (B, C, H, W), bf16 or fp32, channels-last (others are copied); see `supports`.
        norm: its learned bias is used and its scale taken to be 1.

    Returns:
        (B, C, H, W), or (B, C, H // 2, W // 2) with `pool`, channels-last, in x's dtype. Between the
        operations values are fp32, where PyTorch would round each result to x's dtype.
    """
    y: Tensor = _NormGelu.apply(x, norm.bias, norm, pool)
    return y


class _NormGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, norm: nn.BatchNorm2d, pool: bool) -> Tensor:
        kernels = _kernels()
        x = x.contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = x.shape
        v, position = x, None
        if pool:
            v = _empty((batch, channels, height // 2, width // 2), x)
            position = torch.empty_like(v, dtype=torch.int8)
        rows = v.numel() // channels
        size = (rows, channels // 8)
        grid = _grid(rows, channels, SUM_PROGRAMS)
        partial = x.new_empty((grid[1], 2, channels), dtype=torch.float32)
        kernels.pool_and_sum[grid](x, v, position, partial, *size, height, width, **LAUNCH)
        y = torch.empty_like(v)
        mean, rstd = x.new_empty((2, channels), dtype=torch.float32)
        kernels.normalise[_grid(rows, channels, MAP_PROGRAMS)](
            x, v, y, partial.sum(0), bias, mean, rstd, norm.running_mean, norm.running_var,
            norm.eps, norm.momentum, *size, **LAUNCH,
        )  # fmt: skip
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        ctx.save_for_backward(v, position, mean, rstd, bias)
        ctx.shape = x.shape
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None]:
        kernels = _kernels()
        v, position, mean, rstd, bias = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = ctx.shape
        rows = v.numel() // channels
        size = (rows, channels // 8)
        grid = _grid(rows, channels, SUM_PROGRAMS)
        partial = v.new_empty((grid[1], 2, channels), dtype=torch.float32)
        kernels.sum_gradients[grid](dy, v, mean, rstd, bias, partial, *size, **LAUNCH)
        sums = partial.sum(0)
        dx = torch.empty_like(v)
        windows = rows
        if position is not None:
            dx = _empty(ctx.shape, v)
            windows = batch * ((height + 1) // 2) * ((width + 1) // 2)
        kernels.spread_gradients[_grid(windows, channels, MAP_PROGRAMS)](
            dy, v, position, mean, rstd, bias, sums, dx, windows, *size, height, width, **LAUNCH
        )
        return dx, sums[0].to(bias.dtype), None, None


def _empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _grid(rows: int, channels: int, programs: int) -> tuple[int, int]:
    """Blocks of channels, which share cache lines in memory's order, and programs that share the rows."""
    blocks = -(-channels // LAUNCH["CHANNELS"])
    return blocks, min(-(-rows // LAUNCH["ROWS"]), max(programs // blocks, 1))


@cache
def _kernels() -> SimpleNamespace:
    """The functions below turned into Triton's, once they are wanted: importing this module works without."""
    import triton
    import triton.language

    scope = globals()
    scope["tl"] = triton.language
    # One compilation serves all sizes.
    sizes = ["rows", "eighths", "height", "width", "windows"]
    functions = (_pool_and_sum, _normalise, _sum_gradients, _spread_gradients)
    for helper in (_corner, _normal, _slope):
        scope[helper.__name__] = triton.jit(helper)
    return SimpleNamespace(**{f.__name__[1:]: triton.jit(f, do_not_specialize=sizes) for f in functions})


# In the kernels, `rows` are the pixels after pooling, `eighths` is channels / 8, from which the compiler sees
# that it may read 8 channels at once, and offsets are 64-bit: tensors may hold more than 2^31 numbers.


def _pool_and_sum(
    x, v, position, partial, rows, eighths, height, width, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Pooled values (rows, channels) and which of the four inputs each is, where `position` is given;
    partial sums (programs, 2, channels) of the values' distances from a pivot and of their squares."""
    channels = eighths * 8
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    # A pivot among the values, so that the squares' sum does not cancel where the mean is far from zero.
    pivot = tl.load(x + c, c < channels, other=0).to(tl.float32)
    first = tl.zeros((ROWS, CHANNELS), tl.float32)
    second = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(tl.program_id(1) * ROWS, rows, tl.num_programs(1) * ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & (c < channels)[None, :]
        at = row.to(tl.int64)[:, None] * channels + c[None, :]
        if position is None:
            best = tl.load(x + at, mask, other=0).to(tl.float32)
        else:
            image, i, j = _corner(row, height // 2, width // 2)
            corner = (image * height + 2 * i) * width + 2 * j
            source = x + corner.to(tl.int64)[:, None] * channels + c[None, :]
            best = tl.load(source, mask, other=0).to(tl.float32)
            which = tl.zeros((ROWS, CHANNELS), tl.int8)
            for k in tl.static_range(1, 4):
                value = tl.load(source + (k // 2 * width + k % 2) * channels, mask, other=0).to(tl.float32)
                better = (value > best) | (value != value)  # a NaN goes through, as in PyTorch
                best = tl.where(better, value, best)
                which = tl.where(better, k, which)
            tl.store(v + at, best, mask)
            tl.store(position + at, which, mask)
        distance = tl.where(mask, best - pivot[None, :], 0)
        first += distance
        second += distance * distance
    out = partial + tl.program_id(1) * 2 * channels + c
    tl.store(out, tl.sum(first, 0), c < channels)
    tl.store(out + channels, tl.sum(second, 0), c < channels)


def _normalise(
    x, v, y, sums, bias, mean, rstd, running_mean, running_var, eps, momentum,
    rows, eighths, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """y = gelu(norm(v)) from the sums (2, channels) about the pivot; the first program of each block of
    channels keeps the mean and the inverse standard deviation and updates the running statistics."""
    channels = eighths * 8
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    known = c < channels
    offset = tl.load(sums + c, known, other=0) / rows
    centre = tl.load(x + c, known, other=0).to(tl.float32) + offset
    var = tl.load(sums + channels + c, known, other=0) / rows - offset * offset
    var = tl.where(var < 0, 0.0, var)  # a NaN stays
    scale = tl.rsqrt(var + eps)
    shift = tl.load(bias + c, known, other=0).to(tl.float32)
    if tl.program_id(1) == 0:
        tl.store(mean + c, centre, known)
        tl.store(rstd + c, scale, known)
        old = tl.load(running_mean + c, known, other=0).to(tl.float32)
        tl.store(running_mean + c, old + momentum * (centre - old), known)
        old = tl.load(running_var + c, known, other=0).to(tl.float32)
        tl.store(running_var + c, old + momentum * (var * (rows / (rows - 1)) - old), known)
    for start in range(tl.program_id(1) * ROWS, rows, tl.num_programs(1) * ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & known[None, :]
        at = row.to(tl.int64)[:, None] * channels + c[None, :]
        value = tl.load(v + at, mask, other=0).to(tl.float32)
        z = (value - centre[None, :]) * scale[None, :] + shift[None, :]
        _, tail = _normal(z)
        tl.store(y + at, tl.maximum(z, 0.0) - tl.abs(z) * tail, mask)


def _sum_gradients(
    dy, v, mean, rstd, bias, partial, rows, eighths, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Partial sums (programs, 2, channels) of the norm's output gradient dz and of dz times the normalised
    values."""
    channels = eighths * 8
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    known = c < channels
    centre = tl.load(mean + c, known, other=0)
    scale = tl.load(rstd + c, known, other=0)
    shift = tl.load(bias + c, known, other=0).to(tl.float32)
    first = tl.zeros((ROWS, CHANNELS), tl.float32)
    second = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(tl.program_id(1) * ROWS, rows, tl.num_programs(1) * ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & known[None, :]
        at = row.to(tl.int64)[:, None] * channels + c[None, :]
        gradient = tl.load(dy + at, mask, other=0).to(tl.float32)  # zero outside, and so is dz
        xhat = (tl.load(v + at, mask, other=0).to(tl.float32) - centre[None, :]) * scale[None, :]
        dz = gradient * _slope(xhat + shift[None, :])
        first += dz
        second += dz * xhat
    out = partial + tl.program_id(1) * 2 * channels + c
    tl.store(out, tl.sum(first, 0), known)
    tl.store(out + channels, tl.sum(second, 0), known)


def _spread_gradients(
    dy, v, position, mean, rstd, bias, sums, dx, windows, rows, eighths, height, width,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dx from dy and the sums (2, channels) of `_sum_gradients`. With `position`, windows cover all of dx,
    those of an odd last row or column included, which have nothing but zeros to write."""
    channels = eighths * 8
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    known = c < channels
    centre = tl.load(mean + c, known, other=0)
    scale = tl.load(rstd + c, known, other=0)
    shift = tl.load(bias + c, known, other=0).to(tl.float32)
    first = tl.load(sums + c, known, other=0) / rows
    second = tl.load(sums + channels + c, known, other=0) / rows
    for start in range(tl.program_id(1) * ROWS, windows, tl.num_programs(1) * ROWS):
        row = start + tl.arange(0, ROWS)
        there = row < windows
        image, i, j = _corner(row, (height + 1) // 2, (width + 1) // 2)
        source, pooled = row, there
        if position is not None:
            source = (image * (height // 2) + i) * (width // 2) + j
            pooled = there & (i < height // 2) & (j < width // 2)
        mask = pooled[:, None] & known[None, :]
        at = source.to(tl.int64)[:, None] * channels + c[None, :]
        gradient = tl.load(dy + at, mask, other=0).to(tl.float32)
        xhat = (tl.load(v + at, mask, other=0).to(tl.float32) - centre[None, :]) * scale[None, :]
        dz = gradient * _slope(xhat + shift[None, :])
        dv = scale[None, :] * (dz - first[None, :] - xhat * second[None, :])
        if position is None:
            tl.store(dx + at, dv, mask)
        else:
            which = tl.load(position + at, mask, other=-1)
            corner = (image * height + 2 * i) * width + 2 * j
            target = dx + corner.to(tl.int64)[:, None] * channels + c[None, :]
            for k in tl.static_range(4):
                inside = there & (2 * i + k // 2 < height) & (2 * j + k % 2 < width)
                place = target + (k // 2 * width + k % 2) * channels
                tl.store(place, tl.where(which == k, dv, 0.0), inside[:, None] & known[None, :])


def _corner(row, height, width):
    """Image, line and column of a row."""
    line = row // width
    return line // height, line % height, row % width


def _normal(z):
    """The normal distribution's density, and its tail beyond abs(z) to 1e-7: Abramowitz and Stegun, Handbook
    of Mathematical Functions, 7.1.26 with the factors of erfc(abs(z) / sqrt(2)) / 2 multiplied out. The two
    share an exponential: compiled for an H100, `_normalise` takes 27 instructions a value where erf makes
    them 37, about as many as fit into the time of its memory traffic."""
    density = tl.exp2(z * z * -0.721347520 - 1.325748065)
    t = 1 / (1 + 0.231641888 * tl.abs(z))
    series = 1.781477937 + t * (-1.821255979 + t * 1.330274430)
    return density, density * t * (0.319381530 + t * (-0.356563781 + t * series))


def _slope(z):
    """Derivative of the GELU."""
    density, tail = _normal(z)
    return tl.where(z > 0, 1 - tail, tail) + z * density
