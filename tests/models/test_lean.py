from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from kept import kept_by
from torch import Tensor, nn

from cifarkit.models.layers import Sequential
from cifarkit.models.lean import Dropout, MaxPool2d


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


# -- dropout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_drops_its_share_everywhere_and_keeps_the_mean(p: float, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    images = torch.ones(64, 3, 31, 33).contiguous(memory_format=layout)
    dropped = Dropout(p)(images)
    assert dropped.is_contiguous(memory_format=layout)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
    for part in (
        dropped,
        dropped[:, 0],
        dropped[:, :, :8],
        dropped[..., ::2],
        dropped[..., 1::2],
        dropped[:32],
    ):
        deviation = (p * (1 - p) / part.numel()) ** 0.5
        assert (part == 0).float().mean().item() == pytest.approx(p, abs=4 * deviation)


def test_neighbours_drop_independently() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(2**18)) > 0).double()
    for apart in range(1, 9):
        correlation = torch.corrcoef(torch.stack([kept[:-apart], kept[apart:]]))[0, 1].item()
        assert abs(correlation) < 4 / len(kept) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 5])
def test_dropout_passes_gradients_where_it_passes_values(dtype: torch.dtype, size: int) -> None:
    values = torch.rand(size, dtype=dtype).add_(1).requires_grad_()
    dropped = Dropout(0.5)(values)
    dropped.sum().backward()
    assert values.grad is not None
    assert dropped.dtype is dtype
    torch.testing.assert_close(values.grad, 2.0 * (dropped != 0).to(dtype))


def test_dropout_draws_follow_the_seed_and_end_with_training() -> None:
    values, dropout = torch.ones(1000), Dropout(0.3)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(dropout(values))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(dropout.eval()(values), values)


@pytest.mark.parametrize(("p", "kept"), [(0.0, 1.0), (1.0, 0.0)])
def test_dropout_of_nothing_and_of_everything(p: float, kept: float) -> None:
    assert torch.equal(Dropout(p)(torch.ones(100)), torch.full((100,), kept))


def test_an_odd_layout_gets_draws_for_every_value() -> None:
    torch.manual_seed(0)
    spread = torch.ones(1, 1, 1000).expand(1, 50, 1000)
    dropped = Dropout(0.5)(spread)
    assert not torch.equal(dropped[0, 0], dropped[0, 1])
    assert isinstance(Dropout(0.5), nn.Dropout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_relu_and_dropout_are_the_same_together(layout: torch.memory_format, dtype: torch.dtype) -> None:
    images = torch.randn(3, 8, 5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    images = images.contiguous(memory_format=layout)
    results = []
    for layers in nn.Sequential(nn.ReLU(), Dropout(0.3)), Sequential(nn.ReLU(), Dropout(0.3)):
        torch.manual_seed(1)
        results.append(passes(layers, images))
    for mine, its in zip(*results, strict=True):
        assert torch.equal(mine, its)
        assert mine.is_contiguous(memory_format=layout)


def test_together_they_keep_their_result_alone() -> None:
    images = torch.randn(2, 8, 16, 16)
    assert kept_by(Sequential(nn.ReLU(), Dropout(0.3)), images) == images.nbytes
    apart = kept_by(nn.Sequential(nn.ReLU(), Dropout(0.3)), images)
    assert apart == images.nbytes + images.numel()  # the mask
    assert kept_by(nn.Sequential(nn.ReLU(), nn.Dropout(0.3)), images) > apart


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_together_they_drop_nothing_and_everything(p: float) -> None:
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(Sequential(nn.ReLU(), Dropout(p))(images), images.relu() * (1 - p))
    assert torch.equal(Sequential(nn.ReLU(), Dropout(p)).eval()(images), images.relu())
