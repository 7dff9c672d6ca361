"""The whitening network of the CIFAR-10 speed records.

Structure and initialisation follow airbench94 (Jordan 2024, arXiv 2404.00498) and, before it,
hlb-CIFAR10 and cifar10-fast; the widths are a parameter, because time on a CPU follows FLOPs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WHITEN_KERNEL = 2


class BatchNorm(nn.BatchNorm2d):
    """Batch norm without a learned scale, whose running statistics follow the last few batches only:
    runs are so short that slower statistics would lag behind the weights."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad = False


class Conv(nn.Conv2d):
    """3x3 convolution without bias whose first filters start as the identity."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.dirac_(self.weight.data[: self.in_channels])


class ConvGroup(nn.Sequential):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            Conv(channels_in, channels_out),
            nn.MaxPool2d(2),
            BatchNorm(channels_out),
            nn.GELU(),
            Conv(channels_out, channels_out),
            BatchNorm(channels_out),
            nn.GELU(),
        )


class SpeedNet(nn.Module):
    """A frozen 2x2 patch-whitening layer, three groups of two convolutions, max-pool, linear head.

    Args:
        image_shape: (C, H, W); sides of 9 pixels or more.
        classes: number of classes.
        widths: channels of the three groups; the records use (64, 256, 256).

    Attributes:
        mirror: whether a trained network looks at an image and its mirror, as the records' evaluations do.
            It is part of the network, so that validation, `eval` and the exported model agree; training
            without flips turns it off.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        widths: tuple[int, int, int] = (64, 256, 256),
    ) -> None:
        super().__init__()
        channels = image_shape[0]
        # Each eigenvector and its negative: the activation that follows keeps one sign only.
        whitened = 2 * channels * WHITEN_KERNEL**2
        self.whiten = nn.Conv2d(channels, whitened, WHITEN_KERNEL)
        self.whiten.weight.requires_grad = False
        self.groups = nn.Sequential(
            nn.GELU(),
            *(ConvGroup(i, o) for i, o in zip((whitened, *widths[:2]), widths, strict=True)),
        )
        self.head = nn.Linear(widths[2], classes, bias=False)
        with torch.no_grad():
            self.head.weight /= self.head.weight.std()
        # Unit-variance head weights and this scale make the logits start small whatever the width.
        self.logit_scale = 1 / widths[2]
        self.mirror = True

    @torch.no_grad()
    def initialise(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the whitening filters to the scaled eigenvectors of the patch covariance.

        Args:
            images: normalised training images (N, C, H, W); a few thousand are enough.
            eps: added to the eigenvalues, in squared units of normalised intensity.
        """
        k, channels = WHITEN_KERNEL, images.shape[1]
        patches = images.float().unfold(2, k, 1).unfold(3, k, 1)
        flat = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels * k * k)
        # In float64 on the host, where small eigenvalues keep their digits.
        values, vectors = torch.linalg.eigh((flat.T @ flat / len(flat)).double().cpu())
        filters = (vectors / (values + eps).sqrt()).T.reshape(-1, channels, k, k)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes); after training the mean over image and mirror."""
        if self.training or not self.mirror:
            return self._one_view(x)
        return (self._one_view(x) + self._one_view(x.flip(3))) / 2

    def _one_view(self, x: Tensor) -> Tensor:
        # Not an AdaptiveMaxPool2d: on GPUs its gradient is not deterministic.
        x = self.groups(self.whiten(x)).amax((2, 3))
        logits: Tensor = self.head(x) * self.logit_scale
        return logits
