from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cifarkit.augment.batched import Batched
from cifarkit.augment.batched_ops import apply
from cifarkit.augment.ops import (
    AlternateFlipLR,
    Cutout,
    FlipLR,
    Normalize,
    Op,
    PadCrop,
    Perspective,
    Policy,
    Rotate,
    ToGray,
)
from cifarkit.augment.policies import POLICIES, find_policy
from cifarkit.errors import UnknownName, UsageError

from .cases import MEAN, SEED, STD, noise


def uint8_images(count: int, height: int = 32, width: int = 32, channels: int = 3) -> Tensor:
    return torch.from_numpy(noise(count, height, width, channels)).permute(0, 3, 1, 2).contiguous()


def float_images(count: int, height: int = 32, width: int = 32, channels: int = 3) -> Tensor:
    return uint8_images(count, height, width, channels) / 255 - 0.5


def change(op: Op, images: Tensor, **draws: Tensor) -> Tensor:
    changed = images.clone()
    apply(op, changed, draws)
    return changed


def test_pixels_do_not_depend_on_the_batch(policy: Policy) -> None:
    # Large enough that the CPU takes it in several pieces.
    count = 400
    images, indices = uint8_images(count), torch.arange(count) + 7
    augment = Batched(policy, MEAN, STD, SEED)
    whole = augment(images, indices, 2)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:50]
    pieces = [augment(images[part], indices[part], 2) for part in order.split(13)]
    torch.testing.assert_close(torch.cat(pieces), whole[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "none"])
def test_epochs_and_seeds_differ(name: str) -> None:
    images, indices = uint8_images(40), torch.arange(40)
    augment, other = Batched(POLICIES[name], MEAN, STD, 0), Batched(POLICIES[name], MEAN, STD, 1)
    first = augment(images, indices, 0)
    assert torch.equal(first, augment(images, indices, 0))
    for second in (augment(images, indices, 1), other(images, indices, 0)):
        assert (first != second).flatten(1).any(1).sum() >= 20


def test_the_input_stays_as_it_is_and_the_memory_format_too(policy: Policy) -> None:
    for memory_format in (torch.contiguous_format, torch.channels_last):
        images = uint8_images(20).contiguous(memory_format=memory_format)
        before = images.clone()
        augmented = Batched(policy, MEAN, STD, SEED)(images, torch.arange(20), 0)
        assert torch.equal(images, before)
        assert augmented.dtype == torch.float32
        assert augmented.is_contiguous(memory_format=memory_format)


def test_the_policy_without_randomness_normalises() -> None:
    images = uint8_images(4)
    augmented = Batched(POLICIES["none"], MEAN, STD, SEED)(images, torch.arange(4), 9)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(augmented, (images / 255 - mean) / std)


def test_images_of_any_layout_and_empty_batches_are_taken(policy: Policy) -> None:
    strided = uint8_images(20, width=64)[::2, :, :, ::2]
    augment = Batched(policy, MEAN, STD, SEED)
    augmented = augment(strided, torch.arange(10), 0)
    torch.testing.assert_close(augmented, augment(strided.contiguous(), torch.arange(10), 0))
    assert augment(strided[:0], torch.arange(0), 0).shape == (0, 3, 32, 32)


def test_other_devices_need_no_tensor_of_the_cpu(policy: Policy) -> None:
    # The meta device computes shapes only, but refuses what a GPU would refuse.
    augmented = Batched(policy, MEAN, STD, SEED)(uint8_images(20).to("meta"), torch.arange(20), 0)
    assert augmented.device.type == "meta"
    assert augmented.shape == (20, 3, 32, 32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_pixels(policy: Policy) -> None:
    images, indices = uint8_images(200), torch.arange(200)
    augment = Batched(policy, MEAN, STD, SEED)
    expected = augment(images, indices, 4)
    torch.testing.assert_close(augment(images.cuda(), indices, 4).cpu(), expected, rtol=0, atol=1e-4)


def test_stages_show_every_op(policy: Policy) -> None:
    images, indices = uint8_images(10), torch.arange(10)
    augment = Batched(policy, MEAN, STD, SEED)
    stages = augment.stages(images, indices, 1)
    assert [op for op, _ in stages] == list(policy)
    torch.testing.assert_close(stages[0][1], Batched(POLICIES["none"], MEAN, STD, SEED)(images, indices, 1))
    torch.testing.assert_close(stages[-1][1], augment(images, indices, 1))


@given(st.integers(0, 50))
@settings(max_examples=10, deadline=None)
def test_alternating_flips_show_both_sides_in_any_two_epochs(epoch: int) -> None:
    images = uint8_images(30)
    augment = Batched((Normalize(), AlternateFlipLR()), MEAN, STD, SEED)
    first, second, third = (augment(images, torch.arange(30), epoch + later) for later in range(3))
    assert torch.equal(first.flip(-1), second)
    assert torch.equal(first, third)


def test_flipping_twice_changes_nothing() -> None:
    images, flip = float_images(10), torch.arange(10) % 2 == 0
    once = change(FlipLR(), images, flip=flip)
    assert torch.equal(once[flip], images[flip].flip(-1))
    assert torch.equal(change(FlipLR(), once, flip=flip), images)


@given(st.integers(1, 16), st.integers(0, 16), st.integers(0, 16))
@settings(max_examples=20, deadline=None)
def test_cutout_fills_one_square_and_nothing_else(size: int, top: int, left: int) -> None:
    images = torch.ones(2, 3, 32, 32)
    cut = change(Cutout(size), images, top=torch.tensor([top, 0]), left=torch.tensor([left, 16]))
    assert (cut[0, :, top : top + size, left : left + size] == 0).all()
    assert ((cut == 0).sum(dim=(2, 3)) == size * size).all()


def test_a_crop_from_the_centre_changes_nothing() -> None:
    images, centre = float_images(5), torch.full((5,), 4)
    assert torch.equal(change(PadCrop(4), images, top=centre, left=centre), images)


@given(st.integers(0, 10), st.integers(0, 10))
@settings(max_examples=20, deadline=None)
def test_crops_reflect_like_torch(top: int, left: int) -> None:
    images = float_images(1, 9, 7)
    expected = torch.nn.functional.pad(images, (5, 5, 5, 5), mode="reflect")[
        ..., top : top + 9, left : left + 7
    ]
    assert torch.equal(
        change(PadCrop(5), images, top=torch.tensor([top]), left=torch.tensor([left])), expected
    )


def test_gray_channels_are_equal_and_one_channel_stays() -> None:
    images, gray = float_images(6), torch.arange(6) < 3
    changed = change(ToGray(), images, gray=gray)
    assert (changed[:3] == changed[:3, :1]).all()
    assert torch.equal(changed[3:], images[3:])
    one_channel = float_images(6, channels=1)
    assert torch.equal(change(ToGray(), one_channel, gray=gray), one_channel)


def test_turns_by_right_angles_and_identity_warps() -> None:
    images, every = float_images(3), torch.ones(3, dtype=torch.bool)
    turned = change(Rotate(), images, rotate=every, degrees=torch.tensor([0.0, 90.0, -90.0]))
    expected = torch.stack([images[0], images[1].rot90(1, (1, 2)), images[2].rot90(-1, (1, 2))])
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-5)
    identity = torch.eye(3, dtype=torch.float64).expand(3, 3, 3)
    warped = change(Perspective(), images, warp=every, matrix=identity)
    torch.testing.assert_close(warped, images, rtol=0, atol=1e-5)


def test_draws_keep_their_bounds() -> None:
    policy = (Normalize(), PadCrop(4), Cutout(8), Rotate(7.0, p=0.25))
    draws = Batched(policy, MEAN, STD, SEED).draws(torch.zeros(1, 3, 32, 30), torch.arange(20_000), 0)
    _, crop, hole, turn = draws
    for values, bound in [(crop["top"], 9), (crop["left"], 9), (hole["top"], 25), (hole["left"], 23)]:
        counts = torch.bincount(values, minlength=bound).double()
        assert len(counts) == bound
        assert (counts / 20_000 * bound).sub(1).abs().max() < 0.2
    assert turn["degrees"].abs().max() <= 7.0
    assert turn["rotate"].double().mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("op", "side"), [(Cutout(8), 8), (PadCrop(4), 4), (Perspective(), 5), (Rotate(), 1)], ids=str
)
def test_images_that_are_too_small_are_refused(op: Op, side: int) -> None:
    augment = Batched((Normalize(), op), MEAN, STD, SEED)
    with pytest.raises(UsageError, match=f"at least {side + 1} x {side + 1} pixels, not 32 x {side}"):
        augment(uint8_images(2, width=side), torch.arange(2), 0)
    smallest = augment(uint8_images(2, side + 1, side + 1), torch.arange(2), 0)
    assert smallest.isfinite().all()


@pytest.mark.parametrize(
    "policy", [(), (FlipLR(),), (FlipLR(), Normalize()), (Normalize(), Normalize())], ids=str
)
def test_policies_begin_with_their_only_normalize(policy: Policy) -> None:
    with pytest.raises(UsageError, match="begins with its only Normalize"):
        Batched(policy, MEAN, STD, SEED)


def test_policies_are_found_by_name() -> None:
    assert find_policy("fast") is POLICIES["fast"]
    with pytest.raises(UnknownName, match="original-cifar10"):
        find_policy("original-cifar")
