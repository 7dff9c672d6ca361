"""What the tests of this folder share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cifarkit.augment.ops import (
    AlternateFlipLR,
    Cutout,
    FlipLR,
    Normalize,
    PadCrop,
    Perspective,
    Policy,
    Rotate,
    ToGray,
)
from cifarkit.augment.policies import POLICIES

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SEED = 11

OPS: Policy = (
    Normalize(),
    ToGray(0.5),
    PadCrop(4),
    PadCrop(1),
    FlipLR(0.5),
    AlternateFlipLR(),
    Cutout(8),
    Cutout(3, fill=1.5),
    Rotate(7.0, p=0.5),
    Rotate(90.0, p=1.0, fill=2.0),
    Perspective(0.2, p=0.5),
    Perspective(0.6, p=1.0, fill=-1.0),
)

# Every op by itself and every policy there is.
CASES: dict[str, Policy] = {
    **{repr(op): (Normalize(), op) for op in OPS[1:]},
    **POLICIES,
}


def noise(count: int, *shape: int) -> NDArray[np.uint8]:
    """Random uint8 images (count, H, W, C): every mistake by a pixel shows."""
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
