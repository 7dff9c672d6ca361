"""The ops on whole batches of tensors, on any device.

`draw` decides what happens to each image, `apply` does it; both dispatch on the op's type, so that the
pixels can be tested apart from the randomness.

Speed comes from touching little memory: `Normalize` makes the only copy, all later ops write into it, and
an op that changes some of the images moves only those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, NamedTuple

import cv2
import torch
from numpy.typing import NDArray
from torch import Tensor

from cifarkit.augment.ops import (
    AlternateFlipLR,
    Cutout,
    FlipLR,
    Normalize,
    Op,
    PadCrop,
    Perspective,
    Rotate,
    ToGray,
)
from cifarkit.augment.randomness import parity
from cifarkit.augment.warp import perspectives, rotations, warp

Draws = dict[str, Tensor]


class Scaling(NamedTuple):
    """`Normalize` as ``x * scale + shift`` of bytes, float32 (C,) each, on the images' device."""

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> Scaling:
        """From a data set's channel statistics on the scale 0..1."""
        deviation = torch.tensor(std)
        return cls(1 / (255 * deviation), -torch.tensor(mean) / deviation)


@dataclass(frozen=True)
class Batch:
    """What a draw may depend on besides its random numbers.

    Attributes:
        seed: the run's seed.
        epoch: the epoch, from 0.
        indices: int64 (B,), each image's position in its data set.
        height: of the images, pixels.
        width: of the images, pixels.
    """

    seed: int
    epoch: int
    indices: Tensor
    height: int
    width: int


# How many uniform numbers `draw` takes for each image; an op that is not listed takes none.
NUMBERS: dict[type, int] = {ToGray: 1, PadCrop: 2, FlipLR: 1, Cutout: 2, Rotate: 2, Perspective: 10}

# Ops that move pixels from place to place and compute nothing.
MOVES = (PadCrop, FlipLR, AlternateFlipLR)


@singledispatch
def draw(op: Op, numbers: Tensor, batch: Batch) -> Draws:
    """Decide what the op does to each image of the batch.

    Args:
        op: the op.
        numbers: float32 (B, k), uniform in [0, 1) and the op's own; `NUMBERS` says how many it takes.
        batch: what else may matter.

    Returns:
        The op's draws under the names that `cifarkit.augment.ops` documents, each of length B.
    """
    raise TypeError(f"no draws for {op!r}")


@singledispatch
def apply(op: Op, images: Tensor, draws: Draws) -> None:
    """Do to each image what was drawn; `Normalize` is not among these ops, see `normalize`.

    Args:
        op: the op.
        images: float32 (B, C, H, W), normalised, contiguous or channels_last, and **overwritten**. The
            ops in `MOVES` take uint8, too.
        draws: what `draw` returned for this op.
    """
    raise TypeError(f"no way to apply {op!r}")


def normalize(images: Tensor, scaling: Scaling, out: Tensor | None = None) -> Tensor:
    """`Normalize`: uint8 (B, C, H, W) in any layout to float32, new or in ``out``, which is contiguous or
    channels_last and decides the layout."""
    if out is None:
        out = torch.empty_like(images, dtype=torch.float32, memory_format=torch.preserve_format)
    rows = _as_rows(out.copy_(images))
    width, unit = rows.shape[-2:]
    if unit == 1:
        scale, shift = (factor[:, None, None, None] for factor in scaling)
    else:
        # A whole row of factors: a loop over three channels innermost would be ten times slower.
        scale, shift = (factor.expand(width, unit).contiguous() for factor in scaling)
    torch.addcmul(shift, rows, scale, out=rows)
    return out


@draw.register
def _(op: Normalize, numbers: Tensor, batch: Batch) -> Draws:
    return {}


@draw.register
def _(op: ToGray, numbers: Tensor, batch: Batch) -> Draws:
    return {"gray": numbers[:, 0] < op.p}


@apply.register
def _(op: ToGray, images: Tensor, draws: Draws) -> None:
    if images.shape[1] == 1:
        return
    channels = 1 if images.is_contiguous() else 4

    def to_gray(rows: Tensor) -> Tensor:
        red, green, blue = rows.unbind(channels)
        gray = (red * 0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114)
        return gray.unsqueeze(channels).expand_as(rows)

    _change(_as_rows(images), draws["gray"], to_gray)


@draw.register
def _(op: PadCrop, numbers: Tensor, batch: Batch) -> Draws:
    corners = _below(numbers, 2 * op.padding + 1)
    return {"top": corners[:, 0], "left": corners[:, 1]}


@apply.register
def _(op: PadCrop, images: Tensor, draws: Draws) -> None:
    rows = _as_rows(images)
    batch, groups, height, width, unit = rows.shape
    padding = op.padding
    # Only the sides are padded: rows above and below are found by reflecting their number.
    padded = _pad_sides(rows, padding)
    stride = (width + 2 * padding) * unit
    # Every place a row of the output may begin at, as a view; one gather of whole rows, no copy between.
    windows = padded.as_strided((padded.numel() - width * unit + 1, width * unit), (1, 1))
    device = images.device
    last = height - 1
    # For every ``top``: which row of the image each row of the output shows.
    shown = torch.arange(-padding, padding + 1, device=device)[:, None] + torch.arange(height, device=device)
    shown = last - (last - shown.abs()).abs()
    plane = torch.arange(batch * groups, device=device).view(batch, groups, 1) * height
    begin = (plane + shown[draws["top"]][:, None]) * stride + (draws["left"] * unit)[:, None, None]
    torch.index_select(windows, 0, begin.view(-1), out=rows.view(-1, width * unit))


@draw.register
def _(op: FlipLR, numbers: Tensor, batch: Batch) -> Draws:
    return {"flip": numbers[:, 0] < op.p}


@draw.register
def _(op: AlternateFlipLR, numbers: Tensor, batch: Batch) -> Draws:
    return {"flip": (parity(batch.seed, batch.indices) + batch.epoch) % 2 == 1}


@apply.register(FlipLR)
@apply.register(AlternateFlipLR)
def _(op: FlipLR | AlternateFlipLR, images: Tensor, draws: Draws) -> None:
    _change(_as_rows(images), draws["flip"], _mirror)


@draw.register
def _(op: Cutout, numbers: Tensor, batch: Batch) -> Draws:
    return {
        "top": _below(numbers[:, 0], batch.height - op.size + 1),
        "left": _below(numbers[:, 1], batch.width - op.size + 1),
    }


@apply.register
def _(op: Cutout, images: Tensor, draws: Draws) -> None:
    rows = _as_rows(images)
    batch, groups, height, width, unit = rows.shape
    device = images.device
    plane = torch.arange(batch * groups, device=device).view(batch, groups, 1, 1) * (height * width * unit)
    row = (draws["top"][:, None] + torch.arange(op.size, device=device)) * (width * unit)
    column = draws["left"][:, None] * unit + torch.arange(op.size * unit, device=device)
    hole = plane + (row[:, :, None] + column[:, None, :])[:, None]
    rows.view(-1).index_fill_(0, hole.view(-1), op.fill)


@draw.register
def _(op: Rotate, numbers: Tensor, batch: Batch) -> Draws:
    return {"rotate": numbers[:, 0] < op.p, "degrees": (2 * numbers[:, 1].double() - 1) * op.degrees}


@apply.register
def _(op: Rotate, images: Tensor, draws: Draws) -> None:
    height, width = images.shape[-2:]

    def turn(chosen: Tensor, degrees: Tensor) -> Tensor:
        return warp(chosen, rotations(degrees, height, width), op.fill, affine=True)

    _change(images, draws["rotate"], turn, draws["degrees"])


@draw.register
def _(op: Perspective, numbers: Tensor, batch: Batch) -> Draws:
    drawn = numbers.double()
    # Box and Muller 1958: two uniform numbers make a normal; of |N(0, s)| no sign is needed.
    radius = (-2 * torch.log1p(-drawn[:, 2:6])).sqrt()
    angle = 2 * math.pi * drawn[:, 6:]
    normals = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
    spread = drawn[:, 1, None, None] * op.scale
    jitter = (normals * spread).abs() % 0.32
    return {"warp": drawn[:, 0] < op.p, "matrix": perspectives(jitter, batch.height, batch.width)}


@apply.register
def _(op: Perspective, images: Tensor, draws: Draws) -> None:
    _change(images, draws["warp"], lambda chosen, matrix: warp(chosen, matrix, op.fill), draws["matrix"])


def _below(numbers: Tensor, bound: int) -> Tensor:
    """Uniform numbers in [0, 1) to integers in 0..bound - 1."""
    # (1 - 2**-24) * bound rounds to less than bound for every bound that float32 holds exactly.
    return (numbers * bound).long()


def _change(images: Tensor, chosen: Tensor, change: Callable[..., Tensor], *parameters: Tensor) -> None:
    """Overwrite the chosen images with ``change(images, *parameters)``."""
    if images.device.type == "cpu":
        which = chosen.nonzero()[:, 0]
        if not len(which):
            return
        changed = change(*(values.index_select(0, which) for values in (images, *parameters)))
        if images.is_contiguous() and images[:1].nbytes % 16 == 0:
            # index_copy_ moves number by number; taken for complex128, four floats are one number.
            images, changed = (values.flatten(1).view(torch.complex128) for values in (images, changed))
        images.index_copy_(0, which, changed)
    else:
        # To move only the chosen ones, the host would have to wait for the device to count them.
        chosen = chosen.view(-1, *[1] * (images.dim() - 1))
        torch.where(chosen, change(images, *parameters), images, out=images)


def _mirror(rows: Tensor) -> Tensor:
    """Rows (B, G, H, W, U) from right to left."""
    if rows.device.type == "cpu":
        mirrored = torch.empty_like(rows)
        cv2.flip(_as_picture(rows), 1, _as_picture(mirrored))
        return mirrored
    # torch is fast at this along a last dimension that is not of length 1.
    return rows.squeeze(-1).flip(-1).unsqueeze(-1) if rows.shape[-1] == 1 else rows.flip(3)


def _pad_sides(rows: Tensor, padding: int) -> Tensor:
    """Rows (B, G, H, W, U) to (B, G, H, W + 2 * padding, U), reflected without repeating the edge."""
    *planes, width, unit = rows.shape
    padded = rows.new_empty(*planes, width + 2 * padding, unit)
    if rows.device.type == "cpu":
        sides = (0, 0, padding, padding)
        cv2.copyMakeBorder(_as_picture(rows), *sides, cv2.BORDER_REFLECT_101, _as_picture(padded))
        return padded
    # Column by column: mirrored copies of something so narrow cost several times as much.
    padded[..., padding : padding + width, :] = rows
    for out in range(1, padding + 1):
        padded[..., padding - out, :] = rows[..., out, :]
        padded[..., padding + width - 1 + out, :] = rows[..., width - 1 - out, :]
    return padded


def _as_picture(rows: Tensor) -> NDArray[Any]:
    """All rows of a batch on a CPU as one tall picture: OpenCV, which knows pixels, moves those of three
    bytes several times as fast as torch."""
    return rows.view(-1, *rows.shape[-2:]).numpy()


def _as_rows(images: Tensor) -> Tensor:
    """A view (B, G, H, W, U) whose memory is in order: a row is W units of U numbers.

    Contiguous images have G = C planes and U = 1, channels_last images G = 1 and U = C.
    """
    if images.is_contiguous():
        return images[..., None]
    return images.permute(0, 2, 3, 1)[:, None]
