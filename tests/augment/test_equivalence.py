"""Given the draws that albumentations made, the batched ops make the same pixels."""

from __future__ import annotations

from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from cifarkit.augment import ops
from cifarkit.augment.batched import Batched
from cifarkit.augment.batched_ops import Draws
from cifarkit.augment.ops import Policy
from cifarkit.augment.per_image import PerImage

from .cases import MEAN, OPS, SEED, STD, noise

COUNT = 48
CPU_AVX2 = 11
# Warps follow OpenCV's rounding with AVX2; other processors round otherwise.
TOLERANCE = 1e-5 if cv2.checkHardwareSupport(CPU_AVX2) else 5e-5
SHAPES = [(32, 32, 3), (28, 28, 1), (13, 17, 3), (40, 64, 1)]


def run_per_image(policy: Policy, images: np.ndarray, epoch: int) -> tuple[Tensor, list[Draws]]:
    channels = images.shape[-1]
    augment = PerImage(policy, MEAN[:channels], STD[:channels], SEED)
    augmented, draws = [], []
    for index, image in enumerate(images):
        augmented.append(augment(image, index, epoch))
        draws.append(augment.draws())
    together = [
        {name: torch.cat([drawn[op][name] for drawn in draws]) for name in draws[0][op]}
        for op in range(len(policy))
    ]
    return torch.from_numpy(np.stack(augmented)), together


def test_every_op_is_compared() -> None:
    assert {type(op) for op in OPS} == set(get_args(ops.Op))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_equal_draws_make_equal_pixels(
    policy: Policy, shape: tuple[int, int, int], memory_format: torch.memory_format
) -> None:
    images = noise(COUNT, *shape)
    expected, draws = run_per_image(policy, images, epoch=3)
    augment = Batched(policy, MEAN[: shape[2]], STD[: shape[2]], SEED)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
    augmented = augment.run(tensor, draws)
    torch.testing.assert_close(augmented, expected, rtol=0, atol=TOLERANCE)
    assert augmented.is_contiguous(memory_format=memory_format)


def test_both_backends_draw_under_the_same_names_and_types(policy: Policy) -> None:
    images = noise(COUNT, 32, 32, 3)
    _, theirs = run_per_image(policy, images, epoch=0)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    ours = Batched(policy, MEAN, STD, SEED).draws(tensor, torch.arange(COUNT), 0)
    for our, their in zip(ours, theirs, strict=True):
        assert {name: values.shape for name, values in our.items()} == {
            name: values.shape for name, values in their.items()
        }
        assert all(our[name].dtype.is_floating_point == their[name].dtype.is_floating_point for name in our)


def test_alternating_flips_are_the_same_in_both_backends() -> None:
    policy = (ops.Normalize(), ops.AlternateFlipLR())
    images = noise(COUNT, 8, 8, 3)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    for epoch in range(3):
        expected, _ = run_per_image(policy, images, epoch)
        augmented = Batched(policy, MEAN, STD, SEED)(tensor, torch.arange(COUNT), epoch)
        torch.testing.assert_close(augmented, expected, rtol=0, atol=1e-5)


def test_both_backends_draw_from_the_same_distribution() -> None:
    # The alternating flip draws nothing that differs between the backends.
    policy = tuple(op for op in OPS if op != ops.AlternateFlipLR())
    _, theirs = run_per_image(policy, np.zeros((400, 32, 32, 3), dtype=np.uint8), epoch=0)
    indices = torch.arange(20_000)
    ours = Batched(policy, MEAN, STD, SEED).draws(torch.zeros(1, 3, 32, 32), indices, 0)
    for our, their in zip(ours, theirs, strict=True):
        for name in our:
            mine, other = our[name].double(), their[name].double()
            if name in ("degrees", "matrix"):
                # Where it was not applied, albumentations draws nothing.
                applied = "rotate" if name == "degrees" else "warp"
                mine, other = mine[our[applied]], other[their[applied]]
            # 2.22 is the Kolmogorov-Smirnov distance exceeded once in ten thousand.
            limit = 2.22 * (1 / len(mine) + 1 / len(other)) ** 0.5
            columns = zip(mine.view(len(mine), -1).T, other.view(len(other), -1).T, strict=True)
            assert all(largest_gap(*pair) < limit for pair in columns), name


def largest_gap(a: Tensor, b: Tensor) -> float:
    """The largest difference between the distribution functions of two samples."""
    # Rounded, so that a constant that one backend computes differently by 1e-16 stays a constant.
    a, b = (sample.mul(1e6).round().sort().values.contiguous() for sample in (a, b))
    everywhere = torch.cat([a, b])
    below = [torch.searchsorted(sample, everywhere, right=True) / len(sample) for sample in (a, b)]
    return float((below[0] - below[1]).abs().max())
