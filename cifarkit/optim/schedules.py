"""Learning-rate schedules as values: printable, comparable, recorded with the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True)
class OneCycle:
    """Rise linearly from peak / ``div_factor`` to the peak, then fall linearly to
    peak / ``div_factor`` / ``final_div_factor`` (Smith 2018, arXiv 1708.07120).

    Momentum (Adam's first beta) runs the other way, between 0.95 and 0.85, as PyTorch's `OneCycleLR` does.

    Attributes:
        rise: share of the training spent rising.
    """

    rise: float = 5 / 24
    div_factor: float = 100.0
    final_div_factor: float = 100.0

    def build(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:
        from torch.optim.lr_scheduler import OneCycleLR

        return OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=total_steps + 1,  # the scheduler steps once after the last update
            pct_start=self.rise,
            anneal_strategy="linear",
            div_factor=self.div_factor,
            final_div_factor=self.final_div_factor,
        )


@dataclass(frozen=True)
class Linear:
    """Start at the peak, or rise to it over the first ``warmup`` of the training, and fall linearly to
    ``end`` times the peak."""

    warmup: float = 0.0
    end: float = 0.0

    def factor(self, step: int, total_steps: int) -> float:
        """Share of the peak learning rate at ``step``, counted from 0."""
        rising = self.warmup * total_steps
        if step < rising:
            return (step + 1) / (rising + 1)
        done = (step - rising) / max(1.0, total_steps - rising)
        return max(self.end, 1 - (1 - self.end) * done)

    def build(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:
        from torch.optim.lr_scheduler import LambdaLR

        return LambdaLR(optimizer, lambda step: self.factor(step, total_steps))


Schedule = OneCycle | Linear
