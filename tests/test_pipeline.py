from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from cifarkit import pipeline
from cifarkit.augment.policies import POLICIES
from cifarkit.data.image_set import ImageSet
from cifarkit.errors import UsageError
from cifarkit.pipeline import (
    DeviceLoader,
    EpochOrder,
    Preprocessing,
    as_tensors,
    eval_loader,
    train_loader,
    window,
)

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing((0.3,), (0.4,), (1, 8, 8), tuple("0123456789"), 8)

shapes = st.fixed_dictionaries(
    {
        "length": st.integers(1, 200),
        "batch_size": st.integers(1, 30),
        "world_size": st.integers(1, 4),
        "seed": st.integers(0, 2**63 - 1),
        "epoch": st.integers(0, 1000),
    }
)


def batches_of(shuffle: bool, length: int, batch_size: int, world_size: int, seed: int, epoch: int) -> Any:
    """Of each rank, its batches as lists."""
    ranks = []
    for rank in range(world_size):
        order = EpochOrder(length, batch_size, shuffle=shuffle, seed=seed, rank=rank, world_size=world_size)
        order.set_epoch(epoch)
        batches = [at.tolist() for at in order]
        assert len(batches) == len(order)
        ranks.append(batches)
    return ranks


def flat(ranks: Any) -> list[int]:
    return [index for batches in ranks for batch in batches for index in batch]


# -- the order of an epoch ------------------------------------------------------------------------


@settings(deadline=None)
@given(shape=shapes)
def test_evaluation_sees_every_image_exactly_once(shape: dict[str, int]) -> None:
    ranks = batches_of(False, **shape)
    assert sorted(flat(ranks)) == list(range(shape["length"]))
    for rank, batches in enumerate(ranks):
        assert flat([batches]) == list(range(rank, shape["length"], shape["world_size"]))
        sizes = [len(batch) for batch in batches]
        assert max(sizes) <= min(shape["batch_size"], min(sizes) + 1)
        assert len(batches) == len(ranks[0])  # ranks wait for each other


@settings(deadline=None)
@given(shape=shapes)
def test_training_sees_no_image_twice_and_drops_less_than_a_batch(shape: dict[str, int]) -> None:
    ranks = batches_of(True, **shape)
    seen = flat(ranks)
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(shape["length"]))
    assert shape["length"] - len(seen) < shape["batch_size"] * shape["world_size"]
    assert {len(batch) for batches in ranks for batch in batches} <= {shape["batch_size"]}
    assert len({len(batches) for batches in ranks}) == 1  # ranks wait for each other at every step


@settings(deadline=None)
@given(shape=shapes)
def test_ranks_share_one_permutation(shape: dict[str, int]) -> None:
    shared = batches_of(True, **shape)
    alone = batches_of(True, **{**shape, "world_size": 1, "batch_size": 1})
    whole = flat(alone)
    for rank, batches in enumerate(shared):
        mine = whole[rank :: shape["world_size"]]
        assert flat([batches]) == mine[: len(flat([batches]))]


def test_what_is_dropped_changes_from_epoch_to_epoch() -> None:
    order = EpochOrder(10, 4, shuffle=True, seed=0)
    dropped = []
    for epoch in range(5):
        order.set_epoch(epoch)
        dropped.append(frozenset(range(10)) - set(torch.cat(list(order)).tolist()))
    assert len(set(dropped)) > 1


def test_epochs_and_seeds_differ_and_repeat() -> None:
    orders = {
        (seed, epoch): tuple(flat(batches_of(True, 50, 10, 1, seed, epoch)))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(orders.values())) == 9
    assert orders[1, 2] == tuple(flat(batches_of(True, 50, 10, 1, 1, 2)))


def test_an_epoch_can_be_seen_again() -> None:
    order = EpochOrder(50, 10, shuffle=True, seed=0)
    assert torch.equal(torch.cat(list(order)), torch.cat(list(order)))


# -- the batch contract ---------------------------------------------------------------------------


@pytest.fixture(params=[None, 0, 2], ids=["on-device", "in-process", "two-workers"])
def workers(request: pytest.FixtureRequest) -> int | None:
    number: int | None = request.param
    return number


@pytest.fixture
def some(digits: ImageSet) -> ImageSet:
    return digits.take(range(70))


def loader(images: ImageSet, workers: int | None, policy: str = "shift", **changes: Any) -> Any:
    settings = {"batch_size": 16, "seed": 3, "device": CPU, "workers": workers} | changes
    return train_loader(images, POLICIES[policy], PREPROCESSING, **settings)


def test_every_backend_keeps_the_batch_contract(some: ImageSet, workers: int | None) -> None:
    batches = list(loader(some, workers))
    assert len(batches) == len(loader(some, workers)) == 4
    for images, labels in batches:
        assert (images.shape, images.dtype) == ((16, 1, 8, 8), torch.float32)
        assert (labels.shape, labels.dtype) == ((16,), torch.int64)


def test_every_backend_shows_the_same_images_in_the_same_order(some: ImageSet, workers: int | None) -> None:
    reference, other = loader(some, None, "none"), loader(some, workers, "none")
    for epoch in range(2):
        for each in (reference, other):
            (each.sampler if workers is None or each is reference else each.batch_sampler.sampler).set_epoch(
                epoch
            )
        for (images, labels), (other_images, other_labels) in zip(reference, other, strict=True):
            assert torch.equal(labels, other_labels)
            torch.testing.assert_close(images, other_images, atol=1e-5, rtol=1e-5)


def test_the_number_of_workers_changes_nothing(some: ImageSet) -> None:
    for (a, _), (b, _) in zip(loader(some, 0), loader(some, 2), strict=True):
        assert torch.equal(a, b)


def test_labels_stay_with_their_images(some: ImageSet, workers: int | None) -> None:
    normalised = PREPROCESSING(as_tensors(some)[0])
    for images, labels in loader(some, workers, "none"):
        for image, label in zip(images, labels, strict=True):
            at = (normalised - image).abs().amax((1, 2, 3)).argmin()
            assert some.labels[at] == label


def test_no_backend_draws_from_the_global_generator(some: ImageSet, workers: int | None) -> None:
    """Else what a network drops would depend on how its images are loaded."""
    torch.manual_seed(0)
    list(loader(some, workers))
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))


def test_augmentation_changes_with_the_epoch_but_not_with_the_batch_size(some: ImageSet) -> None:
    def by_label(batch_size: int, epoch: int) -> dict[bytes, torch.Tensor]:
        made = loader(some, None, batch_size=batch_size)
        made.sampler.set_epoch(epoch)
        at = torch.cat(list(made.sampler)).tolist()
        images = torch.cat([images for images, _ in made])
        return dict(zip(at, images, strict=True))

    small, large, later = by_label(10, 0), by_label(35, 0), by_label(10, 1)
    assert all(torch.equal(small[index], large[index]) for index in small)
    assert any(not torch.equal(small[index], later[index]) for index in small)


def test_ranks_see_different_images(some: ImageSet, workers: int | None) -> None:
    seen = [
        torch.cat([labels for _, labels in loader(some, workers, batch_size=7, rank=rank, world_size=2)])
        for rank in range(2)
    ]
    everything = loader(some, None, batch_size=1)
    order = torch.cat([labels for _, labels in everything])
    assert torch.equal(seen[0], order[0::2])
    assert torch.equal(seen[1], order[1::2])


@pytest.mark.parametrize(("batch_size", "world_size"), [(71, 1), (36, 2)])
def test_a_batch_larger_than_the_data_is_refused(
    some: ImageSet, workers: int | None, batch_size: int, world_size: int
) -> None:
    with pytest.raises(UsageError, match=r"larger than the 70 training images; --batch-size 17 would"):
        loader(some, workers, batch_size=batch_size, world_size=world_size)


def test_data_that_does_not_fit_is_loaded_by_workers(some: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(loader(some, None), DeviceLoader)
    monkeypatch.setattr(pipeline, "fits_on_device", lambda images, device: False)
    made = loader(some, None)
    assert isinstance(made, DataLoader)
    assert made.num_workers == 2


# -- evaluation -----------------------------------------------------------------------------------


def test_an_epoch_may_show_only_the_images_that_were_hardest() -> None:
    order = EpochOrder(100, 10, shuffle=True, seed=1, kept_in=lambda epoch: (1.0, 0.4)[epoch])
    assert [order.steps_in(0), order.steps_in(1)] == [10, 4]
    for step, at in enumerate(order):
        order.note(step, (at % 50).float())  # the hardest: 30..49 and 80..99
    order.set_epoch(1)
    shown = torch.cat(list(order))
    assert len(order) == 4
    assert sorted(shown.tolist()) == [*range(30, 50), *range(80, 100)]
    # In the order that the whole epoch would have had them in.
    whole = EpochOrder(100, 100, shuffle=True, seed=1)
    whole.set_epoch(1)
    everything = next(iter(whole)).tolist()
    assert [i for i in everything if i % 50 >= 30] == shown.tolist()


def test_what_was_never_seen_counts_as_hardest() -> None:
    order = EpochOrder(25, 10, shuffle=True, seed=1, kept_in=lambda epoch: (1.0, 0.4)[epoch])
    shown = set()
    for step, at in enumerate(order):
        order.note(step, torch.ones(10))
        shown |= set(at.tolist())
    order.set_epoch(1)
    assert set(range(25)) - shown <= set(next(iter(order)).tolist())


@pytest.mark.parametrize("batch_size", [1, 16, 70, 500])
def test_evaluation_is_complete_in_order_and_unaugmented(some: ImageSet, batch_size: int) -> None:
    made = eval_loader(some, PREPROCESSING, device=CPU, batch_size=batch_size)
    images, labels = (torch.cat(parts) for parts in zip(*made, strict=True))
    assert torch.equal(labels, torch.from_numpy(some.labels))
    torch.testing.assert_close(images, PREPROCESSING(as_tensors(some)[0]))


def test_larger_images_are_evaluated_fewer_at_a_time() -> None:
    pixels = np.zeros((300, 64, 64, 1), np.uint8)
    images = ImageSet("large", "test", pixels, np.zeros(300, np.int64), ("a", "b"), np.arange(300))
    preprocessing = Preprocessing((0.5,), (0.5,), (1, 64, 64), images.classes, 64)
    sizes = [len(labels) for _, labels in eval_loader(images, preprocessing, device=CPU)]
    assert sizes == [30] * 10


def test_evaluation_is_the_same_in_every_epoch(some: ImageSet) -> None:
    made = eval_loader(some, PREPROCESSING, device=CPU)
    first = next(iter(made))[0]
    made.sampler.set_epoch(5)
    assert torch.equal(next(iter(made))[0], first)


# -- preprocessing --------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessing_is_the_formula(channels: int) -> None:
    mean, std = (0.1, 0.5, 0.9)[:channels], (0.2, 0.3, 0.4)[:channels]
    preprocessing = Preprocessing(mean, std, (channels, 4, 6), ("a",), 6)
    raw = torch.randint(0, 256, (5, channels, 4, 6), dtype=torch.uint8)
    shape = (1, channels, 1, 1)
    expected = (raw.double() / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    torch.testing.assert_close(preprocessing(raw).double(), expected, atol=1e-5, rtol=1e-5)
    assert preprocessing(raw).dtype is torch.float32


def test_tensors_share_the_images_memory(some: ImageSet) -> None:
    pixels, labels = as_tensors(some)
    assert pixels.shape == (70, 1, 8, 8)
    assert pixels.data_ptr() == some.images.ctypes.data
    assert labels.data_ptr() == some.labels.ctypes.data
    assert np.array_equal(pixels[3, 0].numpy(), some.images[3, :, :, 0])


def test_windows_lie_at_every_place_alike() -> None:
    images = torch.arange(2 * 3 * 5 * 5).view(2, 3, 5, 5)
    cut = [window(images, 3, number) for number in range(18)]
    assert {(int(each[0, 0, 0, 0]) // 5, int(each[0, 0, 0, 0]) % 5) for each in cut} == {
        (top, left) for top in range(3) for left in range(3)
    }
    assert all(torch.equal(one, again) for one, again in zip(cut[:9], cut[9:], strict=True))
    assert torch.equal(window(images, 3, 5), images[:, :, 1:4, 2:5])
    assert torch.equal(window(images, 5, 2**64 - 1), images)
