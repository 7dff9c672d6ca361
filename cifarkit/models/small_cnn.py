"""A small network for one-channel digits and clothes."""

from __future__ import annotations

from torch import Tensor, nn

from cifarkit.models.lean import MaxPool2d


class SmallCnn(nn.Module):
    """Three stages of two 3x3 convolutions (32, 64, 128 channels), pooled in between while the map is at
    least 4 pixels wide, then the mean over the map and a linear head.

    Args:
        image_shape: (C, H, W), any size from 4 pixels up.
        classes: number of classes.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, side = image_shape[0], min(image_shape[1:])
        layers: list[nn.Module] = []
        for width in (32, 64, 128):
            for _ in range(2):
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                channels = width
            if side >= 4 and width < 128:
                layers.append(MaxPool2d(2))
                side //= 2
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        out: Tensor = self.head(self.pool(self.features(x)).flatten(1))
        return out
