"""What an augmentation means, said once.

An op is a frozen value. `per_image` runs it through albumentations, `batched` on whole batches of
tensors; given equal draws both give equal pixels. Sizes are pixels, angles degrees, ``p`` the
probability that an image is changed. A policy begins with `Normalize`, so all other ops act on normalised
float images.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Normalize:
    """uint8 0..255 to float: ``(x / 255 - mean) / std`` with the data set's channel statistics."""


@dataclass(frozen=True)
class ToGray:
    """Replace all three channels by ``0.299 R + 0.587 G + 0.114 B``; an image of one channel stays as
    it is. Draws: ``gray`` (bool)."""

    p: float = 0.2


@dataclass(frozen=True)
class PadCrop:
    """Pad every side by ``padding``, reflecting without repeating the edge, and cut a random window of
    the original size. Draws: ``top``, ``left``, each uniform on 0..2*padding."""

    padding: int = 4


@dataclass(frozen=True)
class FlipLR:
    """Mirror left to right. Draws: ``flip`` (bool)."""

    p: float = 0.5


@dataclass(frozen=True)
class AlternateFlipLR:
    """Mirror every image in every second epoch; which epochs, is drawn once per image.

    Each pair of epochs shows both sides of every image, which plain random flips do for only half of
    them (Jordan 2024, arXiv 2404.00498, section 3.6). Draws: ``flip`` (bool)."""


@dataclass(frozen=True)
class Cutout:
    """Set one ``size`` x ``size`` square, wholly inside the image, to ``fill`` (DeVries & Taylor 2017).
    After `Normalize`, 0 is the mean colour. Draws: ``top``, ``left``, each uniform."""

    size: int = 8
    fill: float = 0.0


@dataclass(frozen=True)
class Rotate:
    """Rotate about the centre by an angle uniform on ±``degrees``, bilinear; uncovered pixels become
    ``fill``. Draws: ``rotate`` (bool), ``degrees`` (counter-clockwise as seen on a screen)."""

    degrees: float = 7.0
    p: float = 0.5
    fill: float = 0.0


@dataclass(frozen=True)
class Perspective:
    """Move each corner inwards and stretch the quadrilateral over the image, bilinear.

    A corner moves along x and y by ``|N(0, s)|`` modulo 0.32, as fractions of width and height; s is
    uniform on ``0..scale``. As albumentations 2.0.8 does with ``keep_size``, the full image that results is
    then enlarged once more about its top left corner, by side / (the longer of the quadrilateral's two
    opposite edges, cut to whole pixels), so that the right and the lower border usually fall outside.
    Pixels that the image does not cover become ``fill``.

    Draws: ``warp`` (bool), ``matrix`` (3x3, source to output pixel coordinates, all steps in one)."""

    scale: float = 0.2
    p: float = 0.5
    fill: float = 0.0


Op = Normalize | ToGray | PadCrop | FlipLR | AlternateFlipLR | Cutout | Rotate | Perspective
Policy = tuple[Op, ...]
