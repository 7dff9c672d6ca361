from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from cifarkit.models import build_model
from cifarkit.optim import build_optimizer
from cifarkit.optim.schedules import RESTART, Linear, OneCycle, Schedule, build_scheduler

PEAK = 0.5
SCHEDULES: list[Schedule] = [OneCycle(), OneCycle(rise=0.3, div_factor=10.0), Linear(), Linear(warmup=0.1)]


def course(schedule: Schedule, steps: int, *, peaks: tuple[float, ...] = (PEAK,)) -> list[list[float]]:
    """The rate of every group at every step, and after the last one."""
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": peak} for peak in peaks]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    scheduler = build_scheduler(schedule, optimizer, [steps])
    rates = [[group["lr"] for group in optimizer.param_groups]]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
    return rates


def lrs(schedule: Schedule, steps: int) -> list[float]:
    return [step[0] for step in course(schedule, steps)]


def test_one_cycle_runs_from_a_hundredth_to_the_peak_to_a_ten_thousandth() -> None:
    steps = 239  # with the step after the last one 240, of which 5/24 are whole
    rates = lrs(OneCycle(rise=5 / 24), steps)
    assert rates[0] == pytest.approx(PEAK / 100)
    assert max(range(len(rates)), key=rates.__getitem__) == 49
    assert rates[49] == pytest.approx(PEAK)
    assert rates[-1] == pytest.approx(PEAK / 1e4)


@pytest.mark.parametrize("steps", [24, 100, 240])
def test_one_cycle_is_linear_on_both_sides_of_the_peak(steps: int) -> None:
    rates = lrs(OneCycle(), steps)
    top = max(range(len(rates)), key=rates.__getitem__)
    assert abs(top - 5 / 24 * steps) <= 1
    for side in (rates[:top], rates[top + 1 :]):
        changes = [b - a for a, b in pairwise(side)]
        assert changes == pytest.approx([changes[0]] * len(changes), rel=1e-6)


def test_one_cycle_turns_momentum_the_other_way() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=0.9)
    scheduler = build_scheduler(OneCycle(rise=5 / 24), optimizer, [239])
    momenta = []
    for _ in range(239):
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()
    assert momenta[0] == pytest.approx(0.95)
    assert momenta[49] == pytest.approx(0.85)
    assert momenta[-1] == pytest.approx(0.95, abs=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 3, 24, 239])
@pytest.mark.parametrize("schedule", [OneCycle(), OneCycle(rise=0.3, div_factor=10.0, final_div_factor=5.0)])
def test_one_cycle_is_that_of_pytorch(schedule: OneCycle, steps: int) -> None:
    peaks = (0.1, 0.7)
    optimizer = torch.optim.AdamW([{"params": [nn.Parameter(torch.zeros(1))], "lr": peak} for peak in peaks])
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=list(peaks),
        total_steps=steps + 1,
        pct_start=schedule.rise,
        anneal_strategy="linear",
        div_factor=schedule.div_factor,
        final_div_factor=schedule.final_div_factor,
    )
    for step in range(steps + 1):
        expected = [peak * schedule.factor(step, steps) for peak in peaks]
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected)
        momentum = schedule.momentum(step, steps)
        assert [group["betas"][0] for group in optimizer.param_groups] == pytest.approx([momentum] * 2)
        optimizer.step()
        if step < steps:
            theirs.step()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_training_that_goes_on_falls_again_from_half_the_peak(schedule: Schedule) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=0.9)
    scheduler = build_scheduler(schedule, optimizer, [10, 15, 19])
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:10] == pytest.approx([PEAK * schedule.factor(step, 10) for step in range(10)])
    assert rates[10:15] == pytest.approx([PEAK * RESTART * (1 - step / 5) for step in range(5)])
    assert rates[15:] == pytest.approx([PEAK * RESTART * (1 - step / 4) for step in range(5)])


@pytest.mark.parametrize("stopped", [7, 10, 15])
def test_a_training_that_may_go_on_further_takes_its_next_step_at_the_next_rate(stopped: int) -> None:
    def at_work(ends: list[int]) -> tuple[Any, Any]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
        return optimizer, build_scheduler(Linear(), optimizer, ends)

    before, undisturbed = at_work([10, 15]), at_work([10, 15, 19])
    for optimizer, scheduler in (before, undisturbed):
        for _ in range(stopped):
            optimizer.step()
            scheduler.step()
    resumed = at_work([10, 15, 19])
    for kept, part in zip(before, resumed, strict=True):
        part.load_state_dict(kept.state_dict())
    for optimizer, scheduler in (resumed, undisturbed):
        assert scheduler.get_last_lr() == [optimizer.param_groups[0]["lr"]]
    assert resumed[1].get_last_lr() == undisturbed[1].get_last_lr()


def test_muon_keeps_its_momenta() -> None:
    optimizer = build_optimizer("muon", build_model("small-cnn", (1, 8, 8), 10), PEAK, 0.0, 64)
    momenta = [group["momentum"] for group in optimizer.param_groups]
    scheduler = build_scheduler(OneCycle(), optimizer, [10])
    optimizer.step()
    scheduler.step()
    assert [group["momentum"] for group in optimizer.param_groups] == momenta


def test_linear_falls_from_the_peak_to_nothing() -> None:
    assert lrs(Linear(), 10) == pytest.approx([PEAK * (1 - step / 10) for step in range(11)])


def test_linear_falls_to_its_end() -> None:
    assert lrs(Linear(end=0.2), 4) == pytest.approx([PEAK * f for f in (1.0, 0.8, 0.6, 0.4, 0.2)])


def test_linear_rises_before_it_falls() -> None:
    rates = lrs(Linear(warmup=0.2), 20)
    assert rates[:5] == pytest.approx([PEAK * f for f in (0.2, 0.4, 0.6, 0.8, 1.0)])
    assert rates[4:] == pytest.approx([PEAK * (1 - step / 16) for step in range(17)])


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_rates_stay_between_nothing_and_the_peak(schedule: Schedule, steps: int) -> None:
    rates = lrs(schedule, steps)
    assert len(rates) == steps + 1
    assert min(rates[:-1]) > 0
    assert max(rates) <= PEAK * (1 + 1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_groups_keep_their_ratio(schedule: Schedule) -> None:
    for first, second in course(schedule, 30, peaks=(0.1, 0.7)):
        assert second == pytest.approx(7 * first)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_saved_schedule_goes_on_where_it_was(schedule: Schedule) -> None:
    def build() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=0.9)
        return optimizer, build_scheduler(schedule, optimizer, [12, 20])

    optimizer, scheduler = build()
    for _ in range(8):
        optimizer.step()
        scheduler.step()
    other, other_scheduler = build()
    other.load_state_dict(optimizer.state_dict())
    other_scheduler.load_state_dict(scheduler.state_dict())
    for _ in range(12):
        for each, its_scheduler in ((optimizer, scheduler), (other, other_scheduler)):
            each.step()
            its_scheduler.step()
        assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        assert other.param_groups[0]["momentum"] == optimizer.param_groups[0]["momentum"]
