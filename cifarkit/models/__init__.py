"""The MODELS table: adding a model is one entry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cifarkit.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from torch import nn

Build = Callable[[tuple[int, int, int], int], "nn.Module"]


@dataclass(frozen=True)
class Model:
    """One entry of the table.

    Attributes:
        description: one line for listings.
        build: from image shape (C, H, W) and number of classes to a module that turns images
            (B, C, H, W) into logits (B, classes). A module with a method ``initialise(images)`` is
            shown normalised training images before the first step.
        min_side: the smallest image side in pixels that the network can take.
    """

    description: str
    build: Build
    min_side: int


# The builders import torch only when called, so that listing the names stays instant.


def _custom_resnet(**options: Any) -> Build:
    def build(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        from cifarkit.models.custom_resnet import CustomResNet

        return CustomResNet(image_shape, classes, **options)

    return build


def _speednet(**options: Any) -> Build:
    def build(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        from cifarkit.models.speednet import SpeedNet

        return SpeedNet(image_shape, classes, **options)

    return build


def _speednet_silu(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    from torch.nn import SiLU

    return _speednet(activation=SiLU, whitening_bias=False)(image_shape, classes)


def _resnet18(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    from cifarkit.models.resnet import resnet18

    return resnet18(image_shape, classes)


def _small_cnn(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    from cifarkit.models.small_cnn import SmallCnn

    return SmallCnn(image_shape, classes)


MODELS: dict[str, Model] = {
    "custom-resnet": Model("the course project's 6.57 M parameter residual network", _custom_resnet(), 8),
    "custom-resnet-replicate": Model(
        "the same with the original's replicate padding", _custom_resnet(padding_mode="replicate"), 8
    ),
    "resnet18": Model("ResNet-18 with a 3x3 stem and no first max-pool", _resnet18, 8),
    "speednet": Model("the whitening network of the speed records, 64-256-256", _speednet(), 9),
    "speednet-silu": Model(
        "the same with SiLU and a fixed bias of the whitening layer: cheaper on CPUs", _speednet_silu, 9
    ),
    "speednet-slim": Model(
        "speednet with 32-128-256: under half the FLOPs, for CPUs", _speednet(widths=(32, 128, 256)), 9
    ),
    "speednet-deep": Model(
        "speednet with 128-384-512, three convolutions a group, residual",
        _speednet(widths=(128, 384, 512), deep=True),
        9,
    ),
    "small-cnn": Model("six convolutions for one-channel images", _small_cnn, 4),
}


def build_model(name: str, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A freshly initialised network.

    Raises:
        UnknownName: not in `MODELS`.
        UsageError: the images are too small for the network.
    """
    check_size(name, image_shape)
    return MODELS[name].build(image_shape, classes)


def check_size(name: str, image_shape: tuple[int, int, int]) -> None:
    """Raises: UnknownName; UsageError where images (C, H, W) are too small for the network."""
    smallest = find_model(name).min_side
    if min(image_shape[1:]) < smallest:
        raise UsageError(
            f"{name} needs images of at least {smallest} x {smallest} pixels, "
            f"these are {image_shape[1]} x {image_shape[2]}; try --model small-cnn"
        )


def find_model(name: str) -> Model:
    """Raises: UnknownName."""
    if name not in MODELS:
        raise UnknownName("model", name, MODELS)
    return MODELS[name]


def allow_tta(network: nn.Module, allowed: bool) -> nn.Module:
    """The network, told whether it may average over mirrored and shifted views if it is one that does."""
    if hasattr(network, "tta"):
        network.tta = allowed  # type: ignore[assignment]
    return network


@contextmanager
def one_view(network: nn.Module) -> Iterator[None]:
    """While it lasts, a network that averages over several views looks at the image alone."""
    tta = getattr(network, "tta", None)
    if tta is None:
        yield
        return
    network.tta = False  # type: ignore[assignment]
    try:
        yield
    finally:
        network.tta = tta
