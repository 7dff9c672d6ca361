"""Policies on single images, through albumentations; the only home of that library."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
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
    Policy,
    Rotate,
    ToGray,
)
from cifarkit.augment.policies import check_policy, check_size
from cifarkit.augment.randomness import mix, parity_of

Shape = tuple[int, int, int]


class PerImage:
    """A policy as one call on an image, for worker processes: it can be pickled.

    Args:
        policy: ops in the order they run in; `Normalize` first.
        mean: per channel, on the scale 0..1.
        std: as ``mean``.
        seed: the run's seed.

    Raises:
        UsageError: the policy does not begin with `Normalize`.
    """

    def __init__(self, policy: Policy, mean: Sequence[float], std: Sequence[float], seed: int) -> None:
        check_policy(policy)
        self.policy = policy
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.seed = seed
        # What has been built for the images at hand; never part of the value.
        self._shape: Shape | None = None
        self._steps: list[list[Any]] = []
        self._compose: Any = None
        self._bits = np.random.PCG64(0)
        self._python_random = random.Random(0)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shape": None, "_steps": [], "_compose": None}

    def __call__(self, image: NDArray[np.uint8], index: int, epoch: int) -> NDArray[np.float32]:
        """Augment an image.

        Args:
            image: uint8 (H, W, C), 0..255, of 1 or 3 channels; it stays as it is.
            index: the image's position in its data set.
            epoch: the epoch, from 0.

        Returns:
            A new float32 (C, H, W), contiguous, normalised.

        Raises:
            UsageError: the image is too small for an op.
        """
        if image.shape != self._shape:
            self._build(image.shape)
        self._seed_for(index, epoch)
        flip = (parity_of(self.seed, index) + epoch) % 2
        for op, transforms in zip(self.policy, self._steps, strict=True):
            if isinstance(op, AlternateFlipLR):
                transforms[0].p = float(flip)
        # OpenCV drops the axis of a single channel.
        augmented = self._compose(image=image)["image"].reshape(image.shape)
        return np.ascontiguousarray(augmented.transpose(2, 0, 1))

    def draws(self) -> list[dict[str, Tensor]]:
        """What albumentations drew in the last call: for each op what `batched_ops.draw` returns, B = 1."""
        return [
            {name: torch.from_numpy(np.array([value])) for name, value in _drawn(op, transforms).items()}
            for op, transforms in zip(self.policy, self._steps, strict=True)
        ]

    def _seed_for(self, index: int, epoch: int) -> None:
        # Setting PCG64's state takes a fraction of the time that its seeding does, and hashed words are
        # already as well mixed as seeding would make them.
        words = [mix(self.seed, epoch, index, word) for word in range(3)]
        self._bits.state = {
            "bit_generator": "PCG64",
            "state": {"state": words[0] << 64 | words[1], "inc": 1},
            "has_uint32": 0,
            "uinteger": 0,
        }
        self._python_random.seed(words[2])

    def _build(self, shape: Shape) -> None:
        # Without it, importing albumentations asks the network for its newest version.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations

        check_size(self.policy, *shape[:2])
        self._steps = [_transforms(op, shape, self.mean, self.std) for op in self.policy]
        self._compose = albumentations.Compose([step for steps in self._steps for step in steps])
        # One pair of generators for all transforms: given a seed, Compose would start each transform on
        # the same stream, and a flip would foretell the crop.
        self._compose.set_random_state(np.random.Generator(self._bits), self._python_random)
        self._shape = shape


def _transforms(op: Op, shape: Shape, mean: Sequence[float], std: Sequence[float]) -> list[Any]:
    """The albumentations transforms that together are one op on images of this shape."""
    import albumentations as A
    import cv2

    height, width, channels = shape
    match op:
        case Normalize():
            return [A.Normalize(mean=mean, std=std, max_pixel_value=255.0)]
        case ToGray(p=p):
            return [A.ToGray(num_output_channels=3, method="weighted_average", p=p)] if channels == 3 else []
        case PadCrop(padding=padding):
            pad = A.Pad(padding=padding, border_mode=cv2.BORDER_REFLECT_101, p=1.0)
            return [pad, A.RandomCrop(height=height, width=width, p=1.0)]
        case FlipLR(p=p):
            return [A.HorizontalFlip(p=p)]
        case AlternateFlipLR():
            # 0 and 1 consume no random number; each call sets which it is.
            return [A.HorizontalFlip(p=0.0)]
        case Cutout(size=size, fill=fill):
            hole = (size, size)
            ranges = {"num_holes_range": (1, 1), "hole_height_range": hole, "hole_width_range": hole}
            return [A.CoarseDropout(**ranges, fill=fill, p=1.0)]
        case Rotate(degrees=degrees, p=p, fill=fill):
            border = {"border_mode": cv2.BORDER_CONSTANT, "fill": fill}
            return [A.Rotate((-degrees, degrees), interpolation=cv2.INTER_LINEAR, **border, p=p)]
        case Perspective(scale=scale, p=p, fill=fill):
            # A number would fill the first channel only.
            border = {"border_mode": cv2.BORDER_CONSTANT, "fill": (fill,) * channels}
            return [A.Perspective((0.0, scale), interpolation=cv2.INTER_LINEAR, **border, p=p)]


def _drawn(op: Op, transforms: list[Any]) -> dict[str, Any]:
    """Read an op's draws off its transforms; a transform that was not applied has no parameters."""
    params = transforms[-1].get_applied_params() if transforms else {}
    match op:
        case Normalize():
            return {}
        case ToGray():
            return {"gray": bool(params)}
        case PadCrop():
            left, top = params["crop_coords"][:2]
            return {"top": int(top), "left": int(left)}
        case FlipLR() | AlternateFlipLR():
            return {"flip": bool(params)}
        case Cutout():
            left, top = params["holes"][0][:2]
            return {"top": int(top), "left": int(left)}
        case Rotate():
            matrix = params["matrix"] if params else np.eye(3)
            return {"rotate": bool(params), "degrees": math.degrees(math.atan2(matrix[0, 1], matrix[0, 0]))}
        case Perspective():
            return {"warp": bool(params), "matrix": _applied_matrix(params).tolist()}


def _applied_matrix(params: dict[str, Any]) -> NDArray[np.float64]:
    """The map that `Perspective` ends up with: to keep the size it scales its matrix once more."""
    if not params:
        return np.eye(3)
    height, width = params["shape"][:2]
    matrix: NDArray[np.float64] = (
        np.diag([width / params["max_width"], height / params["max_height"], 1]) @ params["matrix"]
    )
    return matrix
