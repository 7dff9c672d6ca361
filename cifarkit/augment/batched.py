"""Policies on whole batches of tensors, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cifarkit.augment.batched_ops import NUMBERS, Batch, Draws, Statistics, apply, draw
from cifarkit.augment.ops import Op, Policy
from cifarkit.augment.policies import check_policy, check_size
from cifarkit.augment.randomness import uniforms

# On a CPU a batch goes through the policy in pieces of this many numbers: a piece stays in the cache, and
# its buffers stay with the process, where large ones would be mapped afresh, page by page, at every op.
_PIECE = 1 << 19


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
        self._statistics = Statistics(torch.tensor(mean), torch.tensor(std))

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
        statistics = self._statistics_on(images.device)
        augmented = apply(self.policy[0], images, draws[0], statistics)
        size = max(1, _PIECE // max(1, images[:1].numel())) if images.device.type == "cpu" else len(images)
        for begin in range(0, len(images), size):
            piece = slice(begin, begin + size)
            for op, drawn in zip(self.policy[1:], draws[1:], strict=True):
                its_draws = {name: values[piece] for name, values in drawn.items()}
                apply(op, augmented[piece], its_draws, statistics)
        return augmented

    def stages(self, images: Tensor, indices: Tensor, epoch: int) -> list[tuple[Op, Tensor]]:
        """The batch after each op, to be looked at; arguments and errors as in `__call__`."""
        statistics = self._statistics_on(images.device)
        stages = []
        for op, drawn in zip(self.policy, self.draws(images, indices, epoch), strict=True):
            images = apply(op, images, drawn, statistics)
            stages.append((op, images.clone()))
        return stages

    def _statistics_on(self, device: torch.device) -> Statistics:
        if self._statistics.mean.device != device:
            self._statistics = Statistics(*(values.to(device) for values in self._statistics))
        return self._statistics
