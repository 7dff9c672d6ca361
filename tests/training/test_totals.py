from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cifarkit.training.totals import Totals, outcomes


def batch(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=generator), torch.randint(4, (count,), generator=generator)


def directly(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    loss = torch.nn.functional.cross_entropy(logits.double(), labels).item()
    return loss, (logits.argmax(1) == labels).double().mean().item()


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=8), seed=st.integers(0, 2**16))
def test_any_split_in_batches_gives_the_direct_result(sizes: list[int], seed: int) -> None:
    logits, labels = batch(sum(sizes), seed)
    totals = Totals()
    for some, their_labels in zip(logits.split(sizes), labels.split(sizes), strict=True):
        totals.update(*outcomes(some.double(), their_labels))
    loss, accuracy = totals.compute()
    expected_loss, expected_accuracy = directly(logits, labels)
    assert loss == pytest.approx(expected_loss, rel=1e-9)
    assert accuracy == expected_accuracy


def test_reset_forgets_everything() -> None:
    totals = Totals()
    totals.update(*outcomes(*batch(10, 0)))
    totals.reset()
    logits, labels = batch(7, 1)
    totals.update(*outcomes(logits, labels))
    assert totals.compute() == pytest.approx(directly(logits, labels), rel=1e-6)


def test_many_small_losses_are_not_lost_in_rounding() -> None:
    totals = Totals()
    labels = torch.zeros(1, dtype=torch.int64)
    totals.update(*outcomes(torch.tensor([[0.0, 2.0**25]]), labels))
    for _ in range(1000):
        totals.update(*outcomes(torch.zeros(1, 2), labels))
    assert totals.compute()[0] == pytest.approx((2.0**25 + 1000 * math.log(2)) / 1001, rel=1e-9)


def test_the_graph_is_not_kept() -> None:
    weights = torch.randn(4, requires_grad=True)
    totals = Totals()
    totals.update(*outcomes(torch.ones(2, 4) * weights, torch.zeros(2, dtype=torch.int64)))
    assert not totals.loss_sum.requires_grad


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric Totals was called before")
def test_before_the_first_batch_there_is_no_number() -> None:
    assert all(math.isnan(value) for value in Totals().compute())


def test_sums_are_no_part_of_a_checkpoint() -> None:
    assert Totals().state_dict() == {}
