"""Policies on whole batches of tensors, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor

from cifarkit.augment.batched_ops import MOVES, NUMBERS, Batch, Draws, Scaling, apply, draw, normalize
from cifarkit.augment.ops import Op, Policy, ToGray
from cifarkit.augment.policies import check_policy, check_size
from cifarkit.augment.randomness import uniforms

# On a CPU a batch goes through the policy in pieces of this many numbers: a piece stays in the cache, and
# its buffers stay with the process, where large ones would be mapped afresh, page by page, at every op.
_PIECE = 1 << 20


class Batched:
    """A policy as one call on a batch; the tensor it is given stays as it is.

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
        self.seed = seed
        # Moving pixels and recolouring each by itself commute. Moves that follow nothing else go first,
        # while a pixel is still three bytes: the same images for a quarter of the memory traffic.
        commuting = list(takewhile(lambda op: isinstance(op, (*MOVES, ToGray)), policy[1:]))
        self._on_bytes = [at for at, op in enumerate(commuting, 1) if isinstance(op, MOVES)]
        self._on_floats = [at for at in range(1, len(policy)) if at not in self._on_bytes]
        self._scaling = Scaling.of(mean, std)

    def __call__(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Augment a batch.

        Args:
            images: uint8 (B, C, H, W), 0..255, contiguous or channels_last.
            indices: int64 (B,), each image's position in its data set.
            epoch: the epoch, from 0.

        Returns:
            A new float32 (B, C, H, W), normalised, in the memory format of ``images``.

        Raises:
            UsageError: the images are too small for an op.
        """
        return self.run(images, self.draws(images, indices, epoch))

    def draws(self, images: Tensor, indices: Tensor, epoch: int) -> list[Draws]:
        """What each op of the policy will do to each image; arguments and errors as in `__call__`."""
        height, width = images.shape[-2:]
        check_size(self.policy, height, width)
        indices = indices.to(images.device)
        counts = [NUMBERS.get(type(op), 0) for op in self.policy]
        # One hash for all ops costs less than one each; every op gets columns of its own.
        numbers = torch.split(uniforms(self.seed, epoch, indices, sum(counts)), counts, dim=1)
        batch = Batch(self.seed, epoch, indices, height, width)
        return [draw(op, own, batch) for op, own in zip(self.policy, numbers, strict=True)]

    def run(self, images: Tensor, draws: Sequence[Draws]) -> Tensor:
        """Apply the policy with given draws, one dict for each op; images as in `__call__`."""
        scaling = self._scaling_on(images.device)
        # preserve_format keeps both memory formats and makes any other layout dense.
        augmented = torch.empty_like(images, dtype=torch.float32, memory_format=torch.preserve_format)
        size = max(1, _PIECE // max(1, images[:1].numel())) if images.device.type == "cpu" else len(images)
        for begin in range(0, len(images), max(1, size)):
            piece = slice(begin, begin + size)
            pixels = images[piece]
            if self._on_bytes:
                pixels = torch.empty_like(augmented[piece], dtype=torch.uint8).copy_(pixels)
                self._apply(self._on_bytes, pixels, draws, piece)
            normalize(pixels, scaling, out=augmented[piece])
            self._apply(self._on_floats, augmented[piece], draws, piece)
        return augmented

    def _apply(self, positions: Sequence[int], images: Tensor, draws: Sequence[Draws], piece: slice) -> None:
        for at in positions:
            apply(self.policy[at], images, {name: values[piece] for name, values in draws[at].items()})

    def stages(self, images: Tensor, indices: Tensor, epoch: int) -> list[tuple[Op, Tensor]]:
        """The batch after each op, to be looked at; arguments and errors as in `__call__`."""
        draws = self.draws(images, indices, epoch)
        images = normalize(images, self._scaling_on(images.device))
        stages: list[tuple[Op, Tensor]] = [(self.policy[0], images)]
        for op, drawn in zip(self.policy[1:], draws[1:], strict=True):
            images = images.clone()
            apply(op, images, drawn)
            stages.append((op, images))
        return stages

    def _scaling_on(self, device: torch.device) -> Scaling:
        if self._scaling.scale.device != device:
            self._scaling = Scaling(*(factor.to(device) for factor in self._scaling))
        return self._scaling
