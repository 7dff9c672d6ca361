"""The whitening network of the CIFAR-10 speed records.

Structure and initialisation follow airbench94 and airbench96 (Jordan 2024, arXiv 2404.00498) and, before
them, hlb-CIFAR10 and cifar10-fast; the widths are a parameter, because time on a CPU follows FLOPs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarkit.models.conv import Conv2d
from cifarkit.models.layers import BatchNorm, Sequential
from cifarkit.models.lean import MaxPool2d

WHITEN_KERNEL = 2
SHIFT = 1
UNSURE = 0.4


class Conv(Conv2d):
    """3x3 convolution without bias whose first filters start as the identity."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.dirac_(self.weight.data[: self.in_channels])


class Residual(Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class ConvGroup(Sequential):
    """Two convolutions, or three with a shortcut past the last two."""

    def __init__(
        self, channels_in: int, channels_out: int, *, deep: bool, activation: type[nn.Module]
    ) -> None:
        def convolution() -> tuple[nn.Module, nn.Module]:
            return Conv(channels_out, channels_out), BatchNorm(channels_out)

        super().__init__(
            Conv(channels_in, channels_out),
            MaxPool2d(2),
            BatchNorm(channels_out),
            activation(),
            *((Residual(*convolution(), activation(), *convolution()),) if deep else convolution()),
            activation(),
        )


class SpeedNet(nn.Module):
    """A frozen 2x2 patch-whitening layer, three groups of convolutions, max-pool, linear head.

    Args:
        image_shape: (C, H, W); sides of 9 pixels or more.
        classes: number of classes.
        widths: channels of the three groups; airbench94 has (64, 256, 256), airbench96 (128, 384, 512).
        deep: groups of three convolutions with a shortcut past the last two, as in airbench96.
        activation: of the records' GELU and the cheaper SiLU, a GPU in training fuses the first only.
        whitening_bias: whether that of the whitening layer is trained; left as it is drawn, no step needs
            the gradient of the first group's input.

    Attributes:
        tta: whether a trained network looks again where it is unsure (`forward`), which is nearly what the
            records' evaluations do with every image. It is part of the network, so that validation, `eval`
            and the exported model agree; training without flips, or at images of less than their own size,
            turns it off.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        widths: tuple[int, int, int] = (64, 256, 256),
        deep: bool = False,
        activation: type[nn.Module] = nn.GELU,
        whitening_bias: bool = True,
    ) -> None:
        super().__init__()
        channels = image_shape[0]
        # Each eigenvector and its negative: the activation that follows keeps one sign only.
        whitened = 2 * channels * WHITEN_KERNEL**2
        self.whiten = nn.Conv2d(channels, whitened, WHITEN_KERNEL)
        self.whiten.requires_grad_(False)
        self.whiten.bias.requires_grad_(whitening_bias)  # type: ignore[union-attr]
        self.groups = nn.Sequential(
            activation(),
            *(
                ConvGroup(i, o, deep=deep, activation=activation)
                for i, o in zip((whitened, *widths[:2]), widths, strict=True)
            ),
        )
        self.head = nn.Linear(widths[2], classes, bias=False)
        with torch.no_grad():
            self.head.weight /= self.head.weight.std()
        # Unit-variance head weights and this scale make the logits start small whatever the width.
        self.logit_scale = 1 / widths[2]
        self.tta = True

    @torch.no_grad()
    def initialise(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the whitening filters to the scaled eigenvectors of the patch covariance.

        Args:
            images: normalised training images (N, C, H, W); a few thousand are enough.
            eps: added to the eigenvalues, in squared units of normalised intensity.
        """
        k, channels = WHITEN_KERNEL, images.shape[1]
        patches = images.float().unfold(2, k, 1).unfold(3, k, 1)
        flat = patches.permute(1, 4, 5, 0, 2, 3).reshape(channels * k * k, -1)
        # In float64 on the host, where small eigenvalues keep their digits.
        values, vectors = torch.linalg.eigh((flat @ flat.T / flat.shape[1]).double().cpu())
        filters = (vectors / (values + eps).sqrt()).T.reshape(-1, channels, k, k)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes).

        After training, where the probabilities of the two likeliest classes differ by less than `UNSURE`, the
        logits are the mean over four views: the image, its mirror, and each shifted by a pixel in opposite
        directions. A quarter of CIFAR-10's images need it, and nearly all that it mends are among them.
        """
        logits = self._one_view(x)
        if self.training or not self.tta:
            return logits
        best, second = logits.softmax(1).topk(2).values.unbind(1)
        unsure = best - second < UNSURE
        if torch.compiler.is_exporting():  # an exported program's shapes must not follow from its values
            return torch.where(unsure[:, None], (logits + self._other_views(x)) / 4, logits)
        if not unsure.any():
            return logits
        return logits.index_put((unsure,), (logits[unsure] + self._other_views(x[unsure])) / 4)

    def _other_views(self, x: Tensor) -> Tensor:
        mirror = x.flip(3)
        # One after the other: together they would take three times the memory.
        views = (mirror, shifted(x, SHIFT), shifted(mirror, -SHIFT))
        logits = [self._one_view(view.contiguous(memory_format=torch.channels_last)) for view in views]
        return torch.stack(logits).sum(0)

    def _one_view(self, x: Tensor) -> Tensor:
        # Not an AdaptiveMaxPool2d: on GPUs its gradient is not deterministic.
        x = self.groups(self.whiten(x)).amax((2, 3))
        logits: Tensor = self.head(x) * self.logit_scale
        return logits


def shifted(images: Tensor, by: int) -> Tensor:
    """Images (B, C, H, W) moved up and left by so many pixels (down and right where negative); what comes
    in at the border is reflected."""
    height, width = images.shape[2:]
    margin = abs(by)
    padded = F.pad(images, (margin,) * 4, mode="reflect")
    return padded[:, :, margin + by :, margin + by :][:, :, :height, :width]
