"""The one forward pass that every analysis starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cifarkit.data.image_set import ImageSet
from cifarkit.models import one_view
from cifarkit.models.speednet import shifted
from cifarkit.pipeline import Preprocessing, eval_loader, resize

TTA_SHIFT = 1


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says about every image of a split.

    Attributes:
        probabilities: float64 (N, classes), rows sum to 1.
        labels: int64 (N,).
        indices: int64 (N,), positions in the published split.
        classes: class names.
        files: str array (N,), or None; see `ImageSet`.
    """

    probabilities: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    files: npt.NDArray[np.str_] | None = None

    @classmethod
    def of(cls, logits: Tensor, images: ImageSet) -> Predictions:
        """From the logits (N, classes) of all images."""
        probabilities = logits.double().softmax(1).cpu().numpy()
        return cls(probabilities, images.labels, images.indices, images.classes, images.files)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The most probable class of each image (N,); of equal ones the first."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @property
    def confidence(self) -> npt.NDArray[np.float64]:
        """Probability of the predicted class (N,)."""
        return np.asarray(self.probabilities.max(axis=1), dtype=np.float64)

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """Cross entropy of each image (N,), in nats."""
        true = self.probabilities[np.arange(len(self.labels)), self.labels]
        return -np.log(np.maximum(true, np.finfo(np.float64).tiny))


def predict(
    network: nn.Module,
    images: ImageSet,
    preprocessing: Preprocessing,
    *,
    tta: bool = False,
    mirror: bool = True,
    device: torch.device | None = None,
    batch_size: int | None = None,
    on_batch: Callable[[int, int], None] = lambda done, of: None,
) -> Predictions:
    """Run a network once over every image.

    Args:
        tta: average the logits over mirrored and one-pixel-shifted views with the weights of the record
            scripts: half for the image and its mirror, a quarter for each diagonal shift and its mirror.
        mirror: whether mirrored views belong to ``tta``; not for a network that was trained without.
        device: where to compute; the CPU by default.
        batch_size: images at a time; None takes as many as `eval_loader` does.
        on_batch: called with (batches done, batches in all).
    """
    device = device or torch.device("cpu")
    network = network.to(device).eval()
    loader = eval_loader(images, preprocessing, device=device, batch_size=batch_size)
    parts = []
    with torch.inference_mode():
        for done, (batch, _) in enumerate(loader, start=1):
            batch = resize(batch.to(device), preprocessing.side)
            logits = _views(network, batch, mirror) if tta else network(batch)
            parts.append(logits)
            on_batch(done, len(loader))
    return Predictions.of(torch.cat(parts), images)


def _views(network: nn.Module, images: Tensor, mirror: bool) -> Tensor:
    def both(batch: Tensor) -> Tensor:
        with one_view(network):
            mean: Tensor = (network(batch) + network(batch.flip(3))) / 2 if mirror else network(batch)
        return mean

    return both(images) / 2 + (both(shifted(images, TTA_SHIFT)) + both(shifted(images, -TTA_SHIFT))) / 4
