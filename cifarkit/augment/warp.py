"""Bilinear warps of whole batches, and the matrices of the geometric ops.

A matrix maps source pixels to output pixels, (x, y, 1) columns, with pixel centres at whole numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# How many pixels of a row OpenCV computes at once: two registers of AVX2.
_TOGETHER = 16


def warp(images: Tensor, matrices: Tensor, fill: float, *, affine: bool = False) -> Tensor:
    """Move every image by its own projective map, bilinear.

    Up to 64 x 64 pixels the result is OpenCV's to 1e-5 of the images' standard deviation. Between unlike
    neighbours the last bit of a float32 coordinate is worth more, so `_sources` rounds as OpenCV does.

    Args:
        images: float32 (B, C, H, W).
        matrices: float64 (B, 3, 3), source to output pixels, any scale.
        fill: the value of everything outside the image; its edge blends into it over one pixel.
        affine: whether the last row of every matrix is (0, 0, 1); then it costs less.

    Returns:
        A new float32 (B, C, H, W).
    """
    height, width = images.shape[-2:]
    # grid_sample counts in half sides from the image's centre. Sides that are powers of two, from the first
    # pixel's centre to the last one's, are the only ones that do not round a coordinate on the way.
    down, across = _power_of_two(height - 1), _power_of_two(width - 1)
    half_sides = matrices.new_tensor([[2 / across], [2 / down], [1]])
    to_source = (half_sides * _inverse(matrices)).float()
    minus_one = images.new_tensor(-1)
    if affine:
        grid = _sources(to_source[:, :2], height, width).add_(minus_one)
    else:
        sources = _sources(to_source, height, width)
        # A quotient and a sum, each rounded, in one pass.
        grid = torch.addcdiv(minus_one, sources[:, :2], sources[:, 2:])
    # grid_sample knows only zeros outside.
    shifted = images - fill if fill else images
    sampled = torch.nn.functional.grid_sample(
        torch.nn.functional.pad(shifted, (0, across + 1 - width, 0, down + 1 - height)),
        grid.permute(0, 2, 3, 1),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=True,
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
    """Inverses (B, 3, 3), from the adjugate, without a solver."""
    first, second, third = matrices.unbind(dim=-1)
    cross = torch.linalg.cross
    bottom: Tensor = cross(first, second)
    adjugate = torch.stack([cross(second, third), cross(third, first), bottom], dim=-2)
    return adjugate / (third * bottom).sum(dim=-1)[:, None, None]


def _sources(to_source: Tensor, height: int, width: int) -> Tensor:
    """Where each output pixel comes from, to the last bit as OpenCV 5.0 computes it with AVX2.

    On processors without AVX2 OpenCV's last bits differ, worth 3e-5 at 64 x 64 pixels.

    Args:
        to_source: float32 (B, R, 3), the inverse matrices or their first rows.
        height: of the output, pixels.
        width: of the output, pixels.

    Returns:
        float32 (B, R, H, W), the rows' products with (x, y, 1).
    """
    across, down, start = to_source[..., None].unbind(dim=2)
    x = torch.arange(width, device=to_source.device, dtype=torch.float64)
    y = torch.arange(height, device=to_source.device, dtype=torch.float32)
    # float64 holds products of float32: to round only their sums is OpenCV's fused multiply-add.
    columns = (across * x)[:, :, None]
    rows, start = (down * y)[..., None], start[..., None]
    sources = to_source.new_empty(*to_source.shape[:2], height, width)
    together = width - width % _TOGETHER
    sources[..., :together] = columns[..., :together] + (rows + start).double()
    # The columns that do not fill the registers are computed one by one, and their start is added last.
    if together < width:
        alone = sources[..., together:]
        alone.copy_(columns[..., together:] + rows.double()).add_(start)
    return sources


def _power_of_two(at_least: int) -> int:
    return 1 << (at_least - 1).bit_length()
