from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cifarkit.models import conv
from cifarkit.models.conv import Conv2d, weight_gradient


def both(**options: Any) -> tuple[Conv2d, nn.Conv2d]:
    """Our layer and torch's, with equal weights."""
    torch.manual_seed(0)
    options = {
        "in_channels": 128,
        "out_channels": 128,
        "kernel_size": 3,
        "padding": 1,
        "bias": False,
    } | options
    ours, theirs = Conv2d(**options), nn.Conv2d(**options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def gradients(layer: nn.Module, images: Tensor) -> list[Tensor]:
    images = images.detach().requires_grad_()
    result = layer(images)
    result.backward(torch.linspace(-1, 1, result.numel()).view(result.shape))
    assert images.grad is not None
    return [result.detach(), images.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]


def unfolds(layer: nn.Conv2d, images: Tensor) -> bool:
    function = layer(images).grad_fn
    return type(function).__name__ == f"{conv._Unfolding.__name__}Backward"


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("sides", [(1, 1), (2, 2), (3, 5), (7, 7)], ids=str)
def test_gradients_are_those_of_torch(
    sides: tuple[int, int], layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv, "UNFOLDED", 50_000)
    ours, theirs = both(out_channels=160)
    images = torch.randn(10, 128, *sides).contiguous(memory_format=layout)
    assert unfolds(ours, images)
    for our, their in zip(gradients(ours, images), gradients(theirs, images), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sides", [(2, 2), (3, 3), (4, 7), (15, 15)], ids=str)
def test_what_a_pool_drops_is_not_computed_and_not_missed(sides: tuple[int, int]) -> None:
    ours, theirs = both(in_channels=32)
    ours.pooled = True
    images = torch.randn(4, 32, *sides)
    assert ours(images).shape[2:] == tuple(side // 2 * 2 for side in sides)
    assert ours.eval()(images).shape[2:] == sides
    pairs = zip(
        gradients(nn.Sequential(ours.train(), nn.MaxPool2d(2)), images),
        gradients(nn.Sequential(theirs, nn.MaxPool2d(2)), images),
        strict=True,
    )
    for our, their in pairs:
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-4)


def test_a_single_pixel_is_left_to_the_pool() -> None:
    ours, _ = both(in_channels=32)
    ours.pooled = True
    assert ours(torch.randn(2, 32, 1, 3)).shape[2:] == (1, 3)


def test_the_weights_gradient_in_exact_numbers() -> None:
    images = torch.zeros(1, 1, 5, 5)  # with their padding
    images[0, 0, 1, 2] = 2.0
    gradient = torch.zeros(1, 2, 3, 3)
    gradient[0, 1, 1, 1] = 3.0
    # The output's centre sees the input's upper middle through the filter's upper middle.
    expected = torch.zeros(2, 1, 3, 3)
    expected[1, 0, 0, 1] = 6.0
    assert weight_gradient(images, gradient).equal(expected)


def test_frozen_weights_and_images_get_no_gradient() -> None:
    ours, _ = both()
    images = torch.randn(2, 128, 4, 4)
    ours(images).sum().backward()
    assert images.grad is None
    ours.zero_grad()
    ours.weight.requires_grad_(False)
    images.requires_grad_()
    ours(images).sum().backward()
    assert ours.weight.grad is None
    assert images.grad is not None


@pytest.mark.parametrize(
    "options",
    [
        {"bias": True}, {"padding": 0}, {"stride": 2}, {"kernel_size": 5, "padding": 2}, {"groups": 2},
        {"dilation": 2, "padding": 2}, {"padding_mode": "replicate"}, {"out_channels": 64},
        {"in_channels": 24},
    ],
    ids=str,
)  # fmt: skip
def test_other_layers_are_torchs(options: dict[str, Any]) -> None:
    ours, theirs = both(**options)
    images = torch.randn(2, ours.in_channels, 8, 8)
    assert not unfolds(ours, images)
    for our, their in zip(gradients(ours, images), gradients(theirs, images), strict=True):
        assert our.equal(their)


def test_only_training_in_fp32_unfolds() -> None:
    ours, _ = both()
    images = torch.randn(2, 128, 4, 4)
    assert unfolds(ours, images)
    with torch.autocast("cpu", torch.bfloat16):
        assert not unfolds(ours, images)
    with torch.no_grad():
        assert not unfolds(ours, images)
    assert not unfolds(ours.double(), images.double())
    assert not unfolds(ours.float().eval(), images)
