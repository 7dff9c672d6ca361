"""Bilinear warps of whole batches, and the matrices of the geometric ops.

A matrix maps source pixels to output pixels, (x, y, 1) columns, with pixel centres at whole numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def warp(images: Tensor, matrices: Tensor, fill: float) -> Tensor:
    """Move every image by its own projective map, bilinear.

    Args:
        images: float (B, C, H, W).
        matrices: float64 (B, 3, 3), source to output pixels, any scale.
        fill: the value of everything outside the image; its edge blends into it over one pixel.

    Returns:
        A new float (B, C, H, W).
    """
    height, width = images.shape[-2:]
    grid = _sampling_grid(_inverse(matrices), height, width)
    # grid_sample knows only zeros outside.
    shifted = images - fill if fill else images
    sampled = torch.nn.functional.grid_sample(
        shifted, grid, mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return sampled.add_(fill) if fill else sampled


def rotations(degrees: Tensor, height: int, width: int) -> Tensor:
    """Turns about the image's centre.

    Args:
        degrees: (B,), counter-clockwise as seen on a screen.
        height: pixels.
        width: pixels.

    Returns:
        float64 (B, 3, 3), source to output pixels.
    """
    radians = degrees.to(torch.float64) * (math.pi / 180)
    cosine, sine = radians.cos(), radians.sin()
    x, y = (width - 1) / 2, (height - 1) / 2
    zero, one = torch.zeros_like(cosine), torch.ones_like(cosine)
    rows = [
        cosine, sine, x - cosine * x - sine * y,
        -sine, cosine, y + sine * x - cosine * y,
        zero, zero, one,
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).view(-1, 3, 3)


def perspectives(jitter: Tensor, height: int, width: int) -> Tensor:
    """Maps that stretch a jittered quadrilateral over the image, as albumentations 2.0.8 does.

    albumentations first maps the quadrilateral to the full image, then, to keep the size, enlarges the
    result once more by side / edge, where edge is the longer of the two opposite edges, cut to whole
    pixels (``fgeometric.perspective`` with ``keep_size=True``).

    Args:
        jitter: (B, 4, 2), how far the corners top left, top right, bottom right, bottom left move
            inwards along x and y, as fractions of the side in 0..0.32.
        height: pixels, at least 6, so that no edge gets shorter than 2.
        width: pixels, as ``height``.

    Returns:
        float64 (B, 3, 3), source to output pixels.
    """
    jitter = jitter.to(torch.float64)
    inwards = jitter.unbind(dim=1)
    top_left = torch.stack([inwards[0][:, 0] * width, inwards[0][:, 1] * height], -1)
    top_right = torch.stack([(1 - inwards[1][:, 0]) * width, inwards[1][:, 1] * height], -1)
    bottom_right = torch.stack([(1 - inwards[2][:, 0]) * width, (1 - inwards[2][:, 1]) * height], -1)
    bottom_left = torch.stack([inwards[3][:, 0] * width, (1 - inwards[3][:, 1]) * height], -1)

    horizontal = torch.maximum((top_right - top_left).norm(dim=1), (bottom_right - bottom_left).norm(dim=1))
    vertical = torch.maximum((bottom_right - top_right).norm(dim=1), (bottom_left - top_left).norm(dim=1))
    # Unit square to output, albumentations' second enlargement included.
    stretch = torch.stack(
        [
            width * (width / horizontal.floor()),
            height * (height / vertical.floor()),
            torch.ones_like(vertical),
        ],
        dim=-1,
    )
    from_quadrilateral = _inverse(_square_to(top_left, top_right, bottom_right, bottom_left))
    matrix = stretch[:, :, None] * from_quadrilateral
    return matrix / matrix[:, 2:, 2:]


def _square_to(p0: Tensor, p1: Tensor, p2: Tensor, p3: Tensor) -> Tensor:
    """Projective maps of the unit square's corners (0,0), (1,0), (1,1), (0,1) to four points (B, 2).

    Closed form of Heckbert 1989, "Fundamentals of Texture Mapping and Image Warping", section 2.2.3.
    """
    along, across, skew = p1 - p2, p3 - p2, p0 - p1 + p2 - p3
    area = _cross2(along, across)
    g, h = _cross2(skew, across) / area, _cross2(along, skew) / area
    columns = [p1 - p0 + g[:, None] * p1, p3 - p0 + h[:, None] * p3, p0]
    top = torch.stack(columns, dim=-1)
    bottom = torch.stack([g, h, torch.ones_like(g)], dim=-1)[:, None]
    return torch.cat([top, bottom], dim=1)


def _cross2(a: Tensor, b: Tensor) -> Tensor:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _inverse(matrices: Tensor) -> Tensor:
    """Inverses up to a factor, which projective maps do not feel: the adjugate, without a solver."""
    first, second, third = matrices.unbind(dim=-1)
    cross = torch.linalg.cross
    return torch.stack([cross(second, third), cross(third, first), cross(first, second)], dim=-2)


def _sampling_grid(to_source: Tensor, height: int, width: int) -> Tensor:
    """Where each output pixel comes from, in grid_sample's -1..1: float32 (B, H, W, 2), x and y in planes
    of their own."""
    x = torch.arange(width, device=to_source.device, dtype=to_source.dtype)
    y = torch.arange(height, device=to_source.device, dtype=to_source.dtype)
    # align_corners=True: -1 and 1 are the centres of the first and the last pixel.
    to_unit = to_source.new_tensor([[2 / (width - 1), 0, -1], [0, 2 / (height - 1), -1], [0, 0, 1]])
    across, down, start = (to_unit @ to_source)[..., None].unbind(dim=2)
    columns = (across * x).float()[:, :, None, :]
    rows = (down * y + start).float()[:, :, :, None]
    # From here on every pixel counts: float32 is as fine as grid_sample, and twice as fast as float64.
    sources = columns + rows
    return (sources[:, :2] / sources[:, 2:]).permute(0, 2, 3, 1)
