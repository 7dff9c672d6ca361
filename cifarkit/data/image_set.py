"""The one shape every data set takes in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cifarkit.errors import DataError, UsageError
from cifarkit.results import short_name


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and labels of one split of one data set, in memory.

    Attributes:
        name: data set name, such as ``"cifar10"``.
        split: ``"train"``, ``"val"`` or ``"test"``: recorded beside every number measured on it.
        images: uint8 array (N, H, W, C), C being 1 or 3, values 0..255.
        labels: int64 array (N,), values in ``range(len(classes))``.
        classes: class names; a label is an index into them.
        indices: int64 array (N,): position of each image in the split as published, so that a mistake
            found in a held-out part can be looked up in the original files.
        files: str array (N,): path of each image below the data set's folder; None where an image is no file
            of its own.

    Raises:
        DataError: shapes, types or labels do not fit together.
    """

    name: str
    split: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    indices: npt.NDArray[np.int64]
    files: npt.NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] not in (1, 3):
            raise DataError(
                f"{self.name}/{self.split}: images must be uint8 (N, H, W, 1 or 3), "
                f"not {self.images.dtype} {self.images.shape}"
            )
        if not len(self.images) == len(self.labels) == len(self.indices):
            raise DataError(
                f"{self.name}/{self.split}: {len(self.images)} images but {len(self.labels)} labels"
            )
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise DataError(f"{self.name}/{self.split}: labels outside 0..{len(self.classes) - 1}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def short_name(self) -> str:
        """The name for a figure's title."""
        return short_name(self.name)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W), the order models take."""
        height, width, channels = self.images.shape[1:]
        return channels, height, width

    def check_batch(self, size: int, share: float = 1.0) -> None:
        """Raises: UsageError where a batch takes more than the training images there are, or than the share
        of them that an epoch shows."""
        shown = round(share * len(self))
        if size > shown:
            of = (
                f"{shown} of {len(self)} training images that an epoch shows"
                if share < 1
                else (f"{shown} training images")
            )
            hint = f"; --batch-size {shown // 4} would make four steps an epoch" if shown >= 8 else ""
            raise UsageError(f"a batch of {size} is larger than the {of}{hint}")

    def take(self, positions: Sequence[int] | npt.NDArray[np.int64], split: str | None = None) -> ImageSet:
        """The images at ``positions``, optionally under another split name."""
        at = np.asarray(positions, dtype=np.int64)
        return replace(
            self,
            images=self.images[at],
            labels=self.labels[at],
            indices=self.indices[at],
            files=None if self.files is None else self.files[at],
            split=split or self.split,
        )

    def class_counts(self) -> dict[str, int]:
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def channel_stats(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, of values scaled to 0..1.

        Exact: computed from the 256-bin histogram of each channel, in float64.
        """
        values = np.arange(256) / 255
        means, stds = [], []
        for channel in range(self.images.shape[3]):
            share = self._histogram(channel) / self.images[..., 0].size
            mean = float(share @ values)
            means.append(mean)
            stds.append(float(np.sqrt(share @ (values - mean) ** 2)))
        return tuple(means), tuple(stds)

    def _histogram(self, channel: int) -> npt.NDArray[np.int64]:
        """How many pixels have each of the 256 values."""
        histogram = np.zeros(256, dtype=np.int64)
        # In blocks, because bincount widens its input to int64, eight times the memory.
        for start in range(0, len(self), 256):
            pixels = self.images[start : start + 256, ..., channel]
            histogram += np.bincount(pixels.ravel(), minlength=256)
        return histogram

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over images, labels and class names: 16 hex digits that change with any pixel."""
        digest = hashlib.sha256()
        digest.update(repr((self.images.shape, self.classes)).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()[:16]
