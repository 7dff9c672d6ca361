"""Running sums over an epoch, kept on the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class Totals(Metric):
    """Mean loss and accuracy over everything seen since the last reset.

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

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Add a batch: logits (B, classes), labels (B,), mean loss of the batch ()."""
        self.loss_sum += loss.detach() * len(labels)
        self.correct += (logits.detach().argmax(1) == labels).sum()
        self.samples += len(labels)

    def compute(self) -> tuple[float, float]:
        """(mean loss, accuracy as a fraction); NaN before the first batch."""
        return (self.loss_sum / self.samples).item(), (self.correct / self.samples).item()
