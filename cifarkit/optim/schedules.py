"""Learning-rate schedules as values: printable, comparable, recorded with the run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

RESTART = 0.5
MOMENTUM_AT_ENDS, MOMENTUM_AT_PEAK = 0.95, 0.85  # of a OneCycle


@dataclass(frozen=True)
class OneCycle:
    """Rise linearly from peak / ``div_factor`` to the peak, then fall linearly to
    peak / ``div_factor`` / ``final_div_factor`` (Smith 2018, arXiv 1708.07120).

    Momentum (Adam's first beta) runs the other way. Both are, step for step, those of PyTorch's `OneCycleLR`.

    Attributes:
        rise: share of the training spent rising.
    """

    rise: float = 5 / 24
    div_factor: float = 100.0
    final_div_factor: float = 100.0

    def factor(self, step: int, total_steps: int) -> float:
        """Share of the peak learning rate at ``step``, counted from 0."""
        rising = step <= self._top(total_steps)
        low = 1 / self.div_factor if rising else 1 / self.div_factor / self.final_div_factor
        return low + (1 - low) * self._height(step, total_steps)

    def momentum(self, step: int, total_steps: int) -> float | None:
        """The momentum at ``step``: low where the rate is high."""
        span = MOMENTUM_AT_PEAK - MOMENTUM_AT_ENDS
        return MOMENTUM_AT_ENDS + span * self._height(step, total_steps)

    def _top(self, total_steps: int) -> float:
        return self.rise * (total_steps + 1) - 1  # the rate after the last update belongs to the course

    def _height(self, step: int, total_steps: int) -> float:
        """How far up between either end (0) and the peak (1)."""
        top = self._top(total_steps)
        if step <= top:
            return step / top if top else 1.0
        return (total_steps - step) / (total_steps - top)


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

    def momentum(self, step: int, total_steps: int) -> float | None:
        """None: it stays what the optimiser has."""
        return None


Schedule = OneCycle | Linear


def build_scheduler(schedule: Schedule, optimizer: Optimizer, ends: Sequence[int]) -> LRScheduler:
    """The schedule's course over the steps up to the first of ``ends``; then, for a training that goes on
    from the weights it has, a linear fall from half the peak to nothing over every further leg.

    Being a function of the step alone, it is the same for a resumed training.

    Args:
        ends: step counts, ascending, as of `recipes.Plan.ends`.
    """
    from torch.optim.lr_scheduler import LambdaLR

    def factor(step: int) -> float:
        leg = min(bisect_right(ends, step), len(ends) - 1)
        if leg == 0:
            return schedule.factor(step, ends[0])
        begin, end = ends[leg - 1 : leg + 1]
        return RESTART * Linear().factor(step - begin, end - begin)

    class Course(LambdaLR):
        """Moves momentum along with the rate; Muon's groups keep their own."""

        def get_lr(self) -> list[Any]:
            momentum = schedule.momentum(min(self.last_epoch, ends[0]), ends[0])
            for group in self.optimizer.param_groups if momentum is not None else ():
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                elif "filters" not in group:
                    group["momentum"] = momentum
            return super().get_lr()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict(state_dict)
            # What was to be the last step of all may be the first of another leg now.
            self._last_lr = [base * factor(self.last_epoch) for base in self.base_lrs]
            for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
                group["lr"] = lr

    return Course(optimizer, factor)
