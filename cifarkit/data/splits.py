"""Stratified choices: each class gives its share, the same images every time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cifarkit.data.image_set import ImageSet
from cifarkit.errors import UsageError


def choose(
    labels: npt.NDArray[np.int64], shares: npt.NDArray[np.int64], keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Positions of as many images of each class as its share, those with the smallest keys.

    Args:
        labels: int64 (N,).
        shares: int64 (classes,), from 0 to the number of images of the class.
        keys: uint64 (N,).

    Returns:
        int64 (sum of shares,), ascending.
    """
    counts = np.bincount(labels, minlength=len(shares))
    by_class = np.lexsort((keys, labels))
    starts = np.cumsum(counts) - counts
    chosen = [by_class[start : start + share] for start, share in zip(starts, shares, strict=True)]
    return np.sort(np.concatenate(chosen))


def proportional_shares(counts: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """``size`` shared among classes by largest remainder, so that none is emptied.

    Args:
        counts: int64 (classes,).
        size: at most the sum of counts, less one for every class that has images.

    Returns:
        int64 (classes,) that adds up to ``size``.
    """
    total = counts.sum()
    shares: npt.NDArray[np.int64] = counts * size // total
    for _ in range(size - shares.sum()):
        lacking = np.where(shares < counts - 1, counts * size - shares * total, np.iinfo(np.int64).min)
        shares[np.argmax(lacking)] += 1
    return shares


def hold_out(train: ImageSet, size: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split off ``size`` images for validation, so that the test split stays unseen.

    The result depends on the labels, ``size`` and ``seed`` alone, on every platform and NumPy version:
    the raw stream of a NumPy bit generator is guaranteed, those of its distributions are not (NEP 19).

    Args:
        train: the published training split.
        size: images to hold out; shared among the classes in proportion, at least one stays in each.
        seed: 0 or more.

    Returns:
        The rest as ``"train"`` and the held-out part as ``"val"``, both in the published order.

    Raises:
        UsageError: ``size`` is smaller than the number of classes, or leaves a class without images.
    """
    classes = sum(count > 0 for count in train.class_counts().values())
    if not max(classes, 1) <= size <= len(train) - classes:
        raise UsageError(
            f"cannot hold out {size} of the {len(train)} training images of {train.name}: with {classes} "
            f"classes the size must be between {classes} and {len(train) - classes}"
        )
    keys = np.random.PCG64(seed).random_raw(len(train))
    shares = proportional_shares(np.bincount(train.labels), size)
    val = choose(train.labels, shares, keys)
    rest = np.delete(np.arange(len(train)), val)
    return train.take(rest), train.take(val, split="val")
