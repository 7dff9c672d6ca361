from __future__ import annotations

import numpy as np
import pytest

from cifarkit.data.image_set import ImageSet
from cifarkit.errors import DataError


def make(images, labels=None):
    labels = np.zeros(len(images), dtype=np.int64) if labels is None else np.asarray(labels, dtype=np.int64)
    return ImageSet("made", "train", images, labels, ("a", "b"), np.arange(len(images)))


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (600, 5, 4, 3), dtype=np.uint8)


def test_channel_stats_are_those_of_numpy(noise):
    mean, std = make(noise).channel_stats()
    np.testing.assert_allclose(mean, (noise / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (noise / 255).std(axis=(0, 1, 2)), rtol=1e-12)


def test_image_shape_is_channels_first(noise):
    assert make(noise).image_shape == (3, 5, 4)


def test_fingerprint_changes_with_any_pixel_or_label(noise):
    first = make(noise).fingerprint
    assert make(np.asfortranarray(noise)).fingerprint == first
    assert make(noise, [1] + [0] * 599).fingerprint != first
    noise[-1, -1, -1, -1] ^= 1
    assert make(noise).fingerprint != first


def test_take_keeps_the_published_indices(noise):
    taken = make(noise).take([5, 3], split="val").take([1])
    assert (taken.indices.tolist(), taken.split) == ([3], "val")
    np.testing.assert_array_equal(taken.images[0], noise[3])


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 4, 4, 3)), [0, 0]),
        (np.zeros((2, 4, 4), dtype=np.uint8), [0, 0]),
        (np.zeros((2, 4, 4, 2), dtype=np.uint8), [0, 0]),
        (np.zeros((2, 4, 4, 1), dtype=np.uint8), [0]),
        (np.zeros((2, 4, 4, 1), dtype=np.uint8), [0, 2]),
        (np.zeros((2, 4, 4, 1), dtype=np.uint8), [0, -1]),
    ],
)
def test_what_does_not_fit_together_is_refused(images, labels):
    with pytest.raises(DataError, match="made/train"):
        make(images, labels)
