"""torchvision's ResNet-18 with the stem that small images need."""

from __future__ import annotations

from torch import nn


def resnet18(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """ResNet-18 whose first convolution is 3x3 with stride 1 and whose max-pool is gone, so that 32x32
    images reach the first stage at full size (He et al. 2016, section 4.2)."""
    from torchvision.models import resnet18 as build

    network: nn.Module = build(num_classes=classes)
    network.conv1 = nn.Conv2d(image_shape[0], 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
