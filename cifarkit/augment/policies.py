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
from cifarkit.errors import UnknownName, UsageError

POLICIES: dict[str, Policy] = {
    "none": (Normalize(),),
    # The course project's: normalised first, so that the cutout's 0 is the mean colour.
    "original-cifar10": (Normalize(), ToGray(0.2), PadCrop(4), FlipLR(0.5), Cutout(8)),
    "original-mnist": (Normalize(), Rotate(7.0, p=0.5), Perspective(0.2, p=0.5)),
    # The record scripts': shifts of at most 2 pixels and flips that alternate.
    "fast": (Normalize(), PadCrop(2), AlternateFlipLR()),
    "airbench96": (Normalize(), PadCrop(4), AlternateFlipLR(), Cutout(12)),
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


def mirrors(policy: Policy) -> bool:
    """Whether a network trained with this policy has seen images and their mirrors."""
    return any(isinstance(op, FlipLR | AlternateFlipLR) for op in policy)


def check_policy(policy: Policy) -> None:
    """Make sure that a policy can run.

    Raises:
        UsageError: it does not begin with its only `Normalize`, so that an op would see 0..255.
    """
    if [isinstance(op, Normalize) for op in policy] != [True] + [False] * (len(policy) - 1):
        raise UsageError(f"a policy begins with its only Normalize, unlike {list(policy)}")


def check_size(policy: Policy, height: int, width: int) -> None:
    """Make sure that images of ``height`` x ``width`` pixels are large enough for every op.

    Raises:
        UsageError: a cutout would leave nothing, padding reflects more than there is, or a quadrilateral
            could shrink to less than 2 pixels.
    """
    for op in policy:
        match op:
            case Cutout(size=size):
                least = size + 1
            case PadCrop(padding=padding):
                least = padding + 1
            case Perspective():
                # A corner moves by less than 0.32 of the side: of 6 pixels more than 2 remain.
                least = 6
            case Rotate():
                least = 2
            case _:
                least = 1
        if min(height, width) < least:
            raise UsageError(
                f"{op} needs images of at least {least} x {least} pixels, not {height} x {width}"
            )
