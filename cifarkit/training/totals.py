"""Running sums over an epoch, kept on the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric


class Totals(Metric):
    """Mean cross entropy and accuracy over everything seen since the last reset.

    The loss is the plain one, without label smoothing, so that training and validation compare.

    Sums stay on the device and are divided once, in `compute`: no step waits for the host, and every
    sample counts exactly once whatever the batch size or number of processes.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("loss_sum", "correct", "samples"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.loss_sum: Tensor
        self.correct: Tensor
        self.samples: Tensor

    def update(self, losses: Tensor, correct: Tensor) -> None:
        """Add the `outcomes` of a batch."""
        self.loss_sum += losses.sum(dtype=torch.float64)
        self.correct += correct.sum()
        self.samples += len(losses)

    def compute(self) -> tuple[float, float]:
        """(mean loss, accuracy as a fraction); NaN before the first batch."""
        return (self.loss_sum / self.samples).item(), (self.correct / self.samples).item()


def outcomes(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What came of each image: cross entropy, float (B,), and whether its class was found, bool (B,).

    Args:
        logits: (B, classes).
        labels: (B,).
    """
    logits = logits.detach()
    kind = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(kind), labels, reduction="none"), logits.argmax(1) == labels
