from __future__ import annotations

from typing import Any

import pytest
import torch
from kept import kept_by
from torch import Tensor, nn

from cifarkit.models import conv
from cifarkit.models.conv import Conv2d, conv_pool, weight_gradient
from cifarkit.models.layers import Sequential
from cifarkit.models.lean import MaxPool2d


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
    return type(function).__name__ == f"{conv._Convolution.__name__}Backward"


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


# -- before pools ---------------------------------------------------------------------------------


def pooled(ours: Conv2d, theirs: nn.Conv2d) -> tuple[nn.Module, nn.Module]:
    return Sequential(ours, MaxPool2d(2)), nn.Sequential(theirs, nn.MaxPool2d(2))


@pytest.mark.parametrize("channels", [8, 32])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("sides", [(2, 2), (3, 3), (4, 7), (15, 14)], ids=str)
@pytest.mark.parametrize("at_a_time", [1, 60_000, 10**9])
def test_convolutions_and_their_pools_are_torch_s(
    at_a_time: int,
    sides: tuple[int, int],
    layout: torch.memory_format,
    channels: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conv, "POOLED", at_a_time)
    ours, theirs = both(in_channels=channels)
    images = torch.randn(5, channels, *sides).contiguous(memory_format=layout)
    both_results = (gradients(layers, images) for layers in pooled(ours, theirs))
    for our, their in zip(*both_results, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("sides", "computed"), [((7, 9), (6, 8)), ((7, 8), (6, 8)), ((8, 8), (8, 8))], ids=str
)
def test_before_a_pool_no_more_is_computed_than_it_takes_and_only_for_some_images(
    sides: tuple[int, int], computed: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv, "POOLED", 2 * 128 * sides[0] * sides[1])
    shapes: list[tuple[int, ...]] = []
    pool = torch.nn.functional.max_pool2d
    monkeypatch.setattr(
        torch.nn.functional,
        "max_pool2d",
        lambda maps, *a, **k: shapes.append(maps.shape) or pool(maps, *a, **k),
    )
    ours, _ = both(in_channels=32)
    conv_pool(torch.randn(5, 32, *sides), ours)
    assert shapes == [(number, 128, *computed) for number in (2, 2, 1)]


def test_between_convolution_and_pool_nothing_is_kept() -> None:
    ours, theirs = both(in_channels=32)
    images = torch.randn(4, 32, 16, 16)
    maps = 4 * 128 * 16 * 16
    lean, library = (kept_by(layers, images) for layers in pooled(ours, theirs))
    assert library - lean == 4 * maps + 8 * maps // 4 - 2 * maps // 4


def test_a_pool_of_a_single_pixel_is_the_library_s() -> None:
    ours, theirs = both(in_channels=32)
    images = torch.randn(2, 32, 1, 3)
    ours_pooled = Sequential(ours, MaxPool2d(2))(images)
    assert torch.allclose(ours_pooled, theirs(images), atol=1e-5)  # windows shrink to what there is


@pytest.mark.parametrize("frozen", ["images", "weight"])
def test_pooled_convolutions_have_gradients_where_they_are_wanted(frozen: str) -> None:
    ours, _ = both(in_channels=32)
    images = torch.randn(2, 32, 4, 4, requires_grad=frozen != "images")
    ours.weight.requires_grad_(frozen != "weight")
    conv_pool(images, ours).sum().backward()
    assert (images.grad is None) == (frozen == "images")
    assert (ours.weight.grad is None) == (frozen == "weight")


# -- the weights' gradient ------------------------------------------------------------------------


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
