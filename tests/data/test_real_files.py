"""The official files, where CIFARKIT_DATA_DIR has them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cifarkit.data.datasets import DATASETS
from cifarkit.data.loading import download, verify
from cifarkit.data.torchvision_source import TorchvisionSource

COUNTS = {"cifar10": (50000, 10000), "cifar100": (50000, 10000), "mnist": (60000, 10000)}
COUNTS["fashion-mnist"] = COUNTS["mnist"]


@pytest.fixture(params=COUNTS)
def real(request):
    """A data set and the folder that has its official files."""
    dataset = DATASETS[request.param]
    assert isinstance(dataset.source, TorchvisionSource)
    given = os.environ.get("CIFARKIT_DATA_DIR")
    if not given or not (Path(given) / dataset.source.folder).is_dir():
        pytest.skip(f"CIFARKIT_DATA_DIR points at no folder with {dataset.source.folder}")
    return dataset, Path(given)


def test_official_files(real):
    dataset, data_dir = real
    assert verify(dataset, data_dir).ok
    path = download(dataset, data_dir, lambda *_: pytest.fail("the files are intact"))
    assert path == data_dir / dataset.source.folder
    train, test = (dataset.load(data_dir, split) for split in ("train", "test"))
    assert (len(train), len(test)) == COUNTS[dataset.name]
    assert train.image_shape == test.image_shape == dataset.image_shape
    for measured, table in zip(train.channel_stats(), (dataset.mean, dataset.std), strict=True):
        np.testing.assert_allclose(measured, table, rtol=0, atol=1e-6)
    if dataset.name != "mnist":  # the others are balanced
        for images in (train, test):
            assert set(images.class_counts().values()) == {len(images) // len(dataset.classes)}


def test_cifar10_looks_as_published():
    given = Path(os.environ.get("CIFARKIT_DATA_DIR") or "absent")
    if not (given / "cifar-10-batches-py").is_dir():
        pytest.skip("CIFARKIT_DATA_DIR points at no folder with cifar-10-batches-py")
    test = DATASETS["cifar10"].load(given, "test")
    assert [test.classes[label] for label in test.labels[:4]] == ["cat", "ship", "ship", "airplane"]
