from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifarkit.data.image_set import ImageSet
from cifarkit.data.splits import hold_out
from cifarkit.errors import UsageError


def image_set(labels, classes=None):
    labels = np.asarray(labels, dtype=np.int64)
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    names = tuple(f"class {n}" for n in range(classes or int(labels.max()) + 1))
    return ImageSet("made", "train", images, labels, names, 1000 + np.arange(len(labels)))


@st.composite
def sets_and_sizes(draw):
    counts = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6).filter(lambda c: sum(c) >= 2 * len(c)))
    labels = draw(st.permutations(np.repeat(np.arange(len(counts)), counts).tolist()))
    size = draw(st.integers(len(counts), len(labels) - len(counts)))
    return image_set(labels), size


@settings(max_examples=150, deadline=None)
@given(case=sets_and_sizes(), seed=st.integers(0, 2**32))
def test_hold_out_is_a_stratified_partition(case, seed):
    published, size = case
    train, val = hold_out(published, size, seed)
    assert (train.split, val.split, len(val)) == ("train", "val", size)
    everything = np.concatenate([train.indices, val.indices])
    np.testing.assert_array_equal(np.sort(everything), published.indices)
    for part in (train, val):
        assert (np.diff(part.indices) > 0).all()
        np.testing.assert_array_equal(part.images[:, 0, 0, 0], (part.indices - 1000).astype(np.uint8))
        np.testing.assert_array_equal(part.labels, published.labels[part.indices - 1000])
    counts = published.class_counts()
    emptied_otherwise = any(count * size / len(published) > count - 1 for count in counts.values())
    for name, count in counts.items():
        assert train.class_counts()[name] >= 1
        if not emptied_otherwise:
            assert abs(val.class_counts()[name] - count * size / len(published)) < 1


def test_seed_decides():
    published = image_set(np.repeat(np.arange(4), 50))
    first, same, other = (hold_out(published, 40, seed)[1].indices.tolist() for seed in (0, 0, 1))
    assert first == same != other


def test_same_images_on_every_machine():
    published = image_set(np.tile(np.arange(2), 10))
    assert (hold_out(published, 6, 7)[1].indices - 1000).tolist() == [3, 4, 6, 11, 12, 13]


def test_class_without_images_is_left_alone():
    published = image_set([0, 0, 0, 2, 2, 2], classes=4)
    _, val = hold_out(published, 2, 0)
    assert list(val.class_counts().values()) == [1, 0, 1, 0]


@pytest.mark.parametrize("size", [-1, 0, 2, 28, 30, 31])
def test_impossible_sizes(size):
    with pytest.raises(UsageError, match="between 3 and 27"):
        hold_out(image_set(np.repeat(np.arange(3), 10)), size, 0)
