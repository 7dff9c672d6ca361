from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cifarkit.augment.randomness import epoch_permutation, mix, parity, parity_of, uniforms

ANY_INT = st.integers(-(2**63), 2**64 - 1)
INDEX = st.integers(0, 2**62)


@given(ANY_INT, st.integers(0, 10**6), INDEX, st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_tensors_and_plain_integers_agree(seed: int, epoch: int, index: int, count: int) -> None:
    drawn = uniforms(seed, epoch, torch.tensor([index]), count)
    expected = [(mix(seed, epoch, index, column) >> 40) / 2**24 for column in range(count)]
    assert drawn.tolist() == [expected]
    assert parity(seed, torch.tensor([index])).tolist() == [parity_of(seed, index)]


@given(st.permutations(range(20)), st.integers(1, 20))
@settings(max_examples=20, deadline=None)
def test_neither_order_nor_batch_size_matters(order: list[int], size: int) -> None:
    whole = uniforms(3, 1, torch.arange(20), 4)
    pieces = [uniforms(3, 1, piece, 4) for piece in torch.tensor(order).split(size)]
    assert torch.equal(torch.cat(pieces), whole[order])


def test_mix_fills_64_bits_and_heeds_order_and_count() -> None:
    hashes = [mix(), mix(0), mix(0, 0), mix(1), mix(1, 2), mix(2, 1), mix(-1), mix(2**63)]
    assert len(set(hashes)) == len(hashes)
    assert all(0 <= value < 2**64 for value in hashes)
    ones = sum(mix(number).bit_count() for number in range(1000))
    assert ones == pytest.approx(32_000, abs=5 * (64_000 / 4) ** 0.5)


def test_one_bit_of_input_flips_half_the_output() -> None:
    flipped = [
        (mix(7, number) ^ mix(7, number ^ (1 << bit))).bit_count()
        for number in range(20)
        for bit in range(64)
    ]
    assert sum(flipped) / len(flipped) == pytest.approx(32, abs=5 * 4 / len(flipped) ** 0.5)


def test_uniforms_are_uniform() -> None:
    drawn = uniforms(0, 0, torch.arange(50_000), 4).double()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for column in drawn.unbind(1):
        counts = torch.histc(column, bins=20, min=0, max=1)
        chi_squared = ((counts - 2500) ** 2 / 2500).sum()
        # 19 degrees of freedom: 43.8 is exceeded once in a thousand.
        assert chi_squared < 43.8


def test_nothing_is_correlated() -> None:
    n = 50_000
    epochs = [uniforms(0, epoch, torch.arange(n), 3).double() for epoch in range(2)]
    other_seed = uniforms(1, 0, torch.arange(n), 3).double()
    neighbours = epochs[0].roll(1, dims=0)
    table = torch.cat([*epochs, other_seed, neighbours], dim=1)
    correlation = torch.corrcoef(table.T) - torch.eye(table.shape[1], dtype=torch.float64)
    assert correlation.abs().max() < 5 / n**0.5


def test_parity_is_fair_and_belongs_to_the_seed() -> None:
    first, second = parity(0, torch.arange(10_000)), parity(1, torch.arange(10_000))
    assert first.double().mean() == pytest.approx(0.5, abs=0.025)
    assert (first == second).double().mean() == pytest.approx(0.5, abs=0.025)


def test_permutations() -> None:
    first = epoch_permutation(1000, seed=0, epoch=0)
    assert sorted(first.tolist()) == list(range(1000))
    assert torch.equal(first, epoch_permutation(1000, seed=0, epoch=0))
    assert not torch.equal(first, epoch_permutation(1000, seed=0, epoch=1))
    assert not torch.equal(first, epoch_permutation(1000, seed=1, epoch=0))
