"""Named policies: the order of the ops is the order they run in."""

from __future__ import annotations

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
from cifarkit.errors import UnknownName

POLICIES: dict[str, Policy] = {
    "none": (Normalize(),),
    # The course project's: normalised first, so that the cutout's 0 is the mean colour.
    "original-cifar10": (Normalize(), ToGray(0.2), PadCrop(4), FlipLR(0.5), Cutout(8)),
    "original-mnist": (Normalize(), Rotate(7.0, p=0.5), Perspective(0.2, p=0.5)),
    # The record scripts': shifts of at most 2 pixels and flips that alternate.
    "fast": (Normalize(), PadCrop(2), AlternateFlipLR()),
    # For digits of 8 x 8 pixels a shift of 1 is already an eighth of the image; mirroring changes the digit.
    "shift": (Normalize(), PadCrop(1)),
}


def find_policy(name: str) -> Policy:
    """The policy of this name.

    Raises:
        UnknownName: not in `POLICIES`.
    """
    if name not in POLICIES:
        raise UnknownName("policy", name, POLICIES)
    return POLICIES[name]
