from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cifarkit.data import digits
from cifarkit.data.datasets import DATASETS
from cifarkit.data.loading import download, load_splits, stats, verify

DIGITS = DATASETS["digits"]


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return load_splits(DIGITS, tmp_path_factory.mktemp("empty"))


def test_sizes_and_split_names(splits):
    assert (len(splits.train), len(splits.val)) == (1437, 360)
    assert (splits.train.split, splits.val.split) == ("train", "test")
    assert splits.train.image_shape == splits.val.image_shape == DIGITS.image_shape


def test_every_published_image_is_in_one_split(splits):
    indices = np.concatenate([splits.train.indices, splits.val.indices])
    np.testing.assert_array_equal(np.sort(indices), np.arange(1797))


def test_pixels_are_those_of_scikit_learn_scaled_to_bytes(splits):
    from sklearn.datasets import load_digits

    published = load_digits()
    for part in (splits.train, splits.val):
        scaled = part.images[..., 0] / 255 * 16
        np.testing.assert_allclose(scaled, published.images[part.indices], atol=0.5 / 15)
        np.testing.assert_array_equal(part.labels, published.target[part.indices])
    assert (splits.train.images.min(), splits.train.images.max()) == (0, 255)


def test_split_is_stratified(splits):
    train, test = splits.train.class_counts(), splits.val.class_counts()
    for name in DIGITS.classes:
        assert abs(test[name] - (train[name] + test[name]) * 360 / 1797) < 1


def test_split_is_fixed(splits):
    assert splits.train.fingerprint == "75f57f74c2a48770"
    assert splits.val.fingerprint == "5b7abfd6bc2433ba"


def test_table_has_the_exact_mean_and_std(splits):
    mean, std = splits.train.channel_stats()
    np.testing.assert_allclose(mean, DIGITS.mean, atol=1e-12)
    np.testing.assert_allclose(std, DIGITS.std, atol=1e-12)
    assert DIGITS.mean_std(splits.train) == (DIGITS.mean, DIGITS.std)


def test_verify(tmp_path, monkeypatch):
    assert verify(DIGITS, tmp_path).ok
    monkeypatch.setattr(digits, "FINGERPRINT", "another")
    report = verify(DIGITS, tmp_path)
    assert not report.ok
    assert report.files[0].status == "damaged"


def test_download_is_the_file_in_the_package(tmp_path):
    assert download(DIGITS, tmp_path, lambda *_: pytest.fail("nothing to download")).is_file()


def test_stats(splits, tmp_path):
    described = stats(DIGITS, tmp_path)
    assert described.image_shape == (1, 8, 8)
    assert [(row.split, row.samples) for row in described.splits] == [("train", 1437), ("test", 360)]
    assert described.splits[0].class_counts == splits.train.class_counts()
    assert described.splits[0].fingerprint == splits.train.fingerprint


def test_mean_and_std_are_computed_where_the_table_has_none(splits):
    dataset = replace(DIGITS, mean=None, std=None)
    assert dataset.mean_std(splits.train) == splits.train.channel_stats()
