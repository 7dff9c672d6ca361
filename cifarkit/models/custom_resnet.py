"""The course project's residual network: 6,573,130 parameters for ten classes of colour images."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from cifarkit.models.conv import Conv2d
from cifarkit.models.layers import Sequential
from cifarkit.models.lean import Dropout, MaxPool2d

PaddingMode = Literal["zeros", "replicate"]


class ConvLayer(nn.Module):
    """3x3 convolution, optional 2x2 max-pool, batch norm, ReLU, dropout: the pool comes before the norm,
    which then works on a quarter of the values."""

    def __init__(
        self, channels_in: int, channels_out: int, *, pool: bool, dropout: float, padding_mode: PaddingMode
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            Conv2d(channels_in, channels_out, 3, padding=1, bias=False, padding_mode=padding_mode)
        ]
        if pool:
            layers.append(MaxPool2d(2))
        layers += [nn.BatchNorm2d(channels_out), nn.ReLU(), Dropout(dropout)]
        self.all_layers = Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.all_layers(x)
        return out


class CustomLayer(nn.Module):
    """A `ConvLayer`, and where ``residual`` is set two more around which a shortcut leads."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        pool: bool,
        residual: bool,
        dropout: float,
        padding_mode: PaddingMode,
    ) -> None:
        super().__init__()
        self.pool_block = ConvLayer(
            channels_in, channels_out, pool=pool, dropout=dropout, padding_mode=padding_mode
        )
        self.res_block = (
            nn.Sequential(
                *(
                    ConvLayer(
                        channels_out, channels_out, pool=False, dropout=dropout, padding_mode=padding_mode
                    )
                    for _ in range(2)
                )
            )
            if residual
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool_block(x)
        return x if self.res_block is None else x + self.res_block(x)


class CustomResNet(nn.Module):
    """Prep 64, residual layer 128, layer 256, residual layer 512, max-pool to 1x1, linear head.

    Args:
        image_shape: (C, H, W); the side must be at least 8.
        classes: number of classes.
        dropout: share of activations dropped after every block.
        padding_mode: ``"replicate"`` is the original's; ``"zeros"`` has the same parameters and trains
            faster, on CPUs above all, where replicate padding has no fast kernel.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        dropout: float = 0.05,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()

        def layer(channels_in: int, channels_out: int, *, pool: bool, residual: bool) -> CustomLayer:
            return CustomLayer(
                channels_in,
                channels_out,
                pool=pool,
                residual=residual,
                dropout=dropout,
                padding_mode=padding_mode,
            )

        self.network = nn.Sequential(
            layer(image_shape[0], 64, pool=False, residual=False),
            layer(64, 128, pool=True, residual=True),
            layer(128, 256, pool=True, residual=False),
            layer(256, 512, pool=True, residual=True),
            MaxPool2d(image_shape[1] // 8),
            nn.Flatten(),
            nn.Linear(512, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        out: Tensor = self.network(x)
        return out
