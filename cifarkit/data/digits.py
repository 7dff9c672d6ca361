"""scikit-learn's handwritten digits: real images that come with the package, no file to fetch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cifarkit.data.image_set import ImageSet
from cifarkit.data.source import Progress
from cifarkit.data.splits import choose, proportional_shares
from cifarkit.results import FileCheck

# Of the 1,797 images and labels as they were published.
FINGERPRINT = "f8380e433da2c905"
TEST_SIZE = 360


@dataclass(frozen=True)
class DigitsSource:
    """1,797 images of 8x8 pixels in 10 classes (UCI Optical Recognition of Handwritten Digits, test part).

    They were published without a split; here 360 are always the same test set, stratified.
    """

    classes: tuple[str, ...] = tuple("0123456789")

    def load(self, name: str, data_dir: Path, split: str) -> ImageSet:
        """1,437 images of ``"train"`` or 360 of ``"test"``; ``indices`` are positions in `load_digits()`."""
        everything = self._everything(name)
        keys = np.random.PCG64(0).random_raw(len(everything))
        shares = proportional_shares(np.bincount(everything.labels), TEST_SIZE)
        test = choose(everything.labels, shares, keys)
        train = np.delete(np.arange(len(everything)), test)
        return everything.take(train if split == "train" else test, split=split)

    def verify(self, data_dir: Path) -> tuple[FileCheck, ...]:
        fingerprint = self._everything("digits").fingerprint
        intact = fingerprint == FINGERPRINT
        detail = (
            f"fingerprint {fingerprint}" if intact else f"fingerprint is {fingerprint}, not {FINGERPRINT}"
        )
        return (FileCheck(str(_package_file()), "ok" if intact else "damaged", detail),)

    def download(self, name: str, data_dir: Path, progress: Progress) -> Path:
        """Nothing to fetch: where the package keeps them."""
        return _package_file()

    def _everything(self, name: str) -> ImageSet:
        from sklearn.datasets import load_digits

        digits = load_digits()
        # Published as counts 0..16 of inked pixels in each 4x4 block.
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        return ImageSet(
            name, "all", images, digits.target.astype(np.int64), self.classes, np.arange(len(images))
        )


def _package_file() -> Path:
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"
