from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cifarkit.models.pool import MaxPool2d


def passes(pool: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The pooled images, and the gradient of what was pooled."""
    images = images.clone().requires_grad_()
    pooled = pool(images)
    weights = torch.linspace(-1, 1, pooled.numel(), dtype=pooled.dtype).view(pooled.shape)
    (gradient,) = torch.autograd.grad(pooled, images, weights)
    return pooled.detach(), gradient


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(3, 8, 6, 6), (2, 5, 7, 9), (1, 3, 6, 7)])
@pytest.mark.parametrize("kernel_size", [2, 3])
def test_it_is_the_library_s(
    shape: tuple[int, ...], layout: torch.memory_format, dtype: torch.dtype, kernel_size: int
) -> None:
    # Coarse values: some windows hold their maximum more than once.
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(2).round().to(dtype)
    images = images.contiguous(memory_format=layout)
    expected = passes(nn.MaxPool2d(kernel_size), images)
    for mine, its in zip(passes(MaxPool2d(kernel_size), images), expected, strict=True):
        assert torch.equal(mine, its)
        assert mine.is_contiguous(memory_format=layout)


def kept_by(pool: nn.Module, images: Tensor) -> int:
    """How many bytes it keeps for the backward pass."""
    kept = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        pool(images.clone().requires_grad_())
    return kept


def test_it_keeps_a_twelfth_of_what_the_library_keeps() -> None:
    images = torch.randn(2, 8, 16, 16)
    kept = kept_by(MaxPool2d(2), images)
    assert kept == images.nbytes // 8  # two bytes for four of every fourth value
    assert kept_by(nn.MaxPool2d(2), images) == 12 * kept


def test_it_finds_the_maxima_of_large_maps() -> None:
    """Whose places are numbers beyond 16 bits."""
    images = torch.randn(1, 1, 200, 400, generator=torch.Generator().manual_seed(0))
    assert all(map(torch.equal, passes(MaxPool2d(2), images), passes(nn.MaxPool2d(2), images)))


def test_it_is_the_library_s_own_where_that_is_asked_for(deterministic: Any) -> None:
    images = torch.randn(2, 8, 16, 16)
    assert kept_by(MaxPool2d(2), images) == kept_by(nn.MaxPool2d(2), images)
    assert all(map(torch.equal, passes(MaxPool2d(2), images), passes(nn.MaxPool2d(2), images)))


def test_small_maps_are_pooled_whole() -> None:
    images = torch.randn(2, 3, 3, 3)
    assert torch.equal(MaxPool2d(4)(images), images.amax((2, 3), keepdim=True))


def test_it_can_be_exported() -> None:
    pool = MaxPool2d(2).eval()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(torch.export.export(pool, (images,)).module()(images), pool(images))
