"""Counted randomness: every random number is a pure function of what it is for.

Nothing is consumed, so nothing depends on what was drawn before, on the order of the images, on the
batch size or on the number of workers. The function is the output mixer of SplitMix64 (Steele, Lea and
Flood 2014, doi:10.1145/2660193.2660195), chained over the numbers it is given; it needs only 64-bit
products, shifts and exclusive ors, which wrap alike in Python and in torch on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB

# What a chain of numbers is for. Kept apart from each other and from small numbers such as epochs.
_PERMUTATION = 0x7065726D75746174
_PARITY = 0x7061726974790000


def mix(*numbers: int) -> int:
    """Hash integers to 64 bits; order and count matter.

    Args:
        numbers: any integers; they enter modulo 2**64.

    Returns:
        An integer in 0..2**64 - 1.
    """
    state = 0
    for number in numbers:
        state = ((state ^ (number & _MASK)) + _GAMMA) & _MASK
        state = ((state ^ (state >> 30)) * _FIRST) & _MASK
        state = ((state ^ (state >> 27)) * _SECOND) & _MASK
        state ^= state >> 31
    return state


def uniforms(seed: int, epoch: int, indices: Tensor, count: int) -> Tensor:
    """Uniform numbers for each image that depend on (seed, epoch, index, column) alone.

    Args:
        seed: the run's seed.
        epoch: the epoch, from 0.
        indices: int64 (B,), each image's position in its data set.
        count: how many numbers each image needs.

    Returns:
        float32 (B, count) in [0, 1), multiples of 2**-24, on the device of ``indices``. Equal to
        ``(mix(seed, epoch, index, column) >> 40) / 2**24``.
    """
    columns = torch.arange(count, dtype=torch.int64, device=indices.device)
    state = _mix_tensor(_mix_tensor(_signed(mix(seed, epoch)), indices)[:, None], columns)
    return _shift_right(state, 40).to(torch.float32).mul_(2.0**-24)


def parity(seed: int, indices: Tensor) -> Tensor:
    """A fair coin for each image, the same in all epochs: int64 (B,) of 0 and 1.

    Args:
        seed: the run's seed.
        indices: int64 (B,), each image's position in its data set.
    """
    return _mix_tensor(_signed(mix(seed, _PARITY)), indices) & 1


def parity_of(seed: int, index: int) -> int:
    """`parity` of one image, as a plain integer."""
    return mix(seed, _PARITY, index) & 1


def epoch_permutation(n: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits ``n`` images: int64 (n,), on the CPU.

    Args:
        n: the number of images.
        seed: the run's seed.
        epoch: the epoch, from 0.
    """
    generator = torch.Generator().manual_seed(mix(seed, _PERMUTATION, epoch))
    return torch.randperm(n, generator=generator)


def _mix_tensor(state: Tensor | int, numbers: Tensor) -> Tensor:
    """One link of the chain in `mix`, on int64 tensors that broadcast."""
    mixed = (numbers ^ state).add_(_signed(_GAMMA))
    mixed = (mixed ^ _shift_right(mixed, 30)).mul_(_signed(_FIRST))
    mixed = (mixed ^ _shift_right(mixed, 27)).mul_(_signed(_SECOND))
    return mixed ^ _shift_right(mixed, 31)


def _shift_right(numbers: Tensor, bits: int) -> Tensor:
    # torch's >> repeats the sign bit; the mixer needs zeros.
    return (numbers >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """The int64 with the same 64 bits."""
    return number - (1 << 64) if number >> 63 else number
