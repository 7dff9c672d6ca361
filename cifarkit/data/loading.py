"""What is done with a data set: download, verify, describe, and load it for training or evaluation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cifarkit.data.datasets import PUBLISHED_SPLITS, Dataset
from cifarkit.data.image_set import ImageSet
from cifarkit.data.source import Progress
from cifarkit.data.splits import hold_out
from cifarkit.errors import UnknownName, UsageError
from cifarkit.results import DataStats, SplitStats, VerifyReport

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Splits:
    """What is trained on and what it is measured on; ``val.split`` is ``"val"`` or ``"test"``."""

    train: ImageSet
    val: ImageSet


def default_data_dir() -> Path:
    """``CIFARKIT_DATA_DIR``, else ``data`` in the current folder."""
    return Path(os.environ.get("CIFARKIT_DATA_DIR") or "data")


def load_splits(dataset: Dataset, data_dir: Path, val_size: int = 0, seed: int = 0) -> Splits:
    """Training and validation images.

    Args:
        dataset: from `find_dataset`.
        data_dir: folder with the published files; not used by digits and folders.
        val_size: how many training images to hold out for validation, stratified; with 0 validation
            runs on the test split, and says so in its ``split``.
        seed: chooses which images are held out.

    Raises:
        DataError: files are missing, damaged or altered.
        UsageError: ``val_size`` does not fit the training split.
    """
    train = dataset.load(data_dir, "train")
    if val_size == 0:
        return Splits(train, dataset.load(data_dir, "test"))
    return Splits(*hold_out(train, val_size, seed))


def check_split(name: str) -> None:
    """Raises: UnknownName."""
    if name not in SPLITS:
        raise UnknownName("split", name, SPLITS)


def load_split(dataset: Dataset, data_dir: Path, split: str, val_size: int = 0, seed: int = 0) -> ImageSet:
    """One split, as `load_splits` with the same ``val_size`` and ``seed`` would cut it.

    Args:
        dataset: from `find_dataset`.
        data_dir: folder with the published files; not used by digits and folders.
        split: ``"train"``, ``"val"`` or ``"test"``.
        val_size: how many training images are held out.
        seed: chooses which.

    Raises:
        DataError: files are missing, damaged or altered.
        UsageError: ``"val"`` is asked for and nothing is held out, or ``val_size`` does not fit.
    """
    check_split(split)
    if split == "val" and val_size == 0:
        raise UsageError(
            "no images are held out for validation, the test split serves as such: ask for test or train"
        )
    if split == "test" or val_size == 0:
        return dataset.load(data_dir, split)
    train, val = hold_out(dataset.load(data_dir, "train"), val_size, seed)
    return train if split == "train" else val


def download(dataset: Dataset, data_dir: Path, progress: Progress) -> Path:
    """Make sure the files of a data set are there, fetching what is missing or damaged.

    Args:
        dataset: from `find_dataset`.
        data_dir: where published files go, in the layout of torchvision.
        progress: called with file name, bytes so far and bytes in all (None when unknown).

    Returns:
        The folder or file that holds the data.

    Raises:
        DataError: no network, a wrong checksum, or the folder cannot be written. What was there before
            is left as it was, and no half-written file stays.
    """
    return dataset.source.download(dataset.name, data_dir, progress)


def verify(dataset: Dataset, data_dir: Path) -> VerifyReport:
    """Re-read every file: checksums of published files, decoding of every image in a folder.

    Raises:
        DataError: a folder is not laid out as class folders, or a link leads out of it.
    """
    files = dataset.source.verify(data_dir)
    return VerifyReport(dataset.name, not any(file.bad for file in files), files)


def stats(dataset: Dataset, data_dir: Path) -> DataStats:
    """Samples, class counts, exact mean and std, and fingerprint of the published splits.

    Raises:
        DataError: files are missing, damaged or altered.
    """
    rows = tuple(_split_stats(dataset.load(data_dir, split)) for split in PUBLISHED_SPLITS)
    return DataStats(dataset.name, dataset.image_shape, rows)


def _split_stats(images: ImageSet) -> SplitStats:
    mean, std = images.channel_stats()
    return SplitStats(images.split, len(images), images.class_counts(), mean, std, images.fingerprint)
