"""A folder of class folders of image files.

Two layouts::

    PATH/train/CLASS/*.png    PATH/test/CLASS/*.png     or val/ where there is no test/
    PATH/CLASS/*.png                                    a fifth becomes the test split

A val folder beside a test folder is not used. Without a test folder, a fifth of each class (rounded
down, but one at least) is the test split. The SHA-256 of ``CLASS/FILE`` chooses, so it is the same part
on every machine and in every run.
Hidden files and files with other suffixes are ignored. Files are only ever decoded as images.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from cifarkit.data.image_set import ImageSet
from cifarkit.data.source import Progress
from cifarkit.data.splits import choose
from cifarkit.errors import DataError
from cifarkit.results import FileCheck

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Pillow knows more; naming these keeps out formats that run programs (EPS starts Ghostscript).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_BYTES = 2 * 1024**3
# What others call their test or validation folders; anything else beside train is left alone.
OTHER_SPLITS = {"valid", "validation", "dev", "eval", "testing"}
# Somewhat below the size at which Pillow warns of decompression bombs: small files, huge in memory.
MAX_PIXELS = 80_000_000
# Larger ones are decoded one at a time: of 80 megapixels, each takes up to 1 GB while it is.
LARGE_PIXELS = 8_000_000
_one_large_image = threading.Lock()


@dataclass(frozen=True)
class _Listing:
    """Files of one split, sorted by class and name; ``indices`` count them as they lie in the folder."""

    classes: tuple[str, ...]
    paths: list[Path]
    labels: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]

    def take(self, positions: npt.NDArray[np.int64]) -> _Listing:
        paths = [self.paths[position] for position in positions]
        return _Listing(self.classes, paths, self.labels[positions], self.indices[positions])


@dataclass(frozen=True)
class FolderSource:
    """See the module for the layouts.

    Attributes:
        root: the folder, resolved.
        image_size: side in pixels that every image is brought to.
    """

    root: Path
    image_size: int
    classes: ClassVar[None] = None

    def load(self, name: str, data_dir: Path, split: str) -> ImageSet:
        """Decode one split to RGB; see `read_image`. Class names are the sorted names of the class folders.

        Raises:
            DataError: the folder is not laid out as above, a link leads out of it, an image cannot be
                read, or the images would take more than 2 GiB.
        """
        listing = self._list(split)
        shape = (len(listing.paths), self.image_size, self.image_size, 3)
        needed = int(np.prod(shape, dtype=np.int64))
        if needed > MAX_BYTES:
            raise DataError(
                f"{self.root}: {shape[0]} {split} images of {self.image_size}x{self.image_size} take "
                f"{needed / 1024**3:.2f} GiB, more than the limit of {MAX_BYTES / 1024**3:.2f} GiB"
            )
        images = np.empty(shape, dtype=np.uint8)
        with _decoders() as pool:
            decoded = pool.map(partial(read_image, size=self.image_size), listing.paths)
            try:
                for row, image in enumerate(decoded):
                    images[row] = image
            except DataError as error:
                raise DataError(f"{error}; `cifarkit data verify {name}` looks for more like it") from error
        files = np.array([_shown(path.relative_to(self.root)) for path in listing.paths])
        return ImageSet(name, split, images, listing.labels, listing.classes, listing.indices, files)

    def verify(self, data_dir: Path) -> tuple[FileCheck, ...]:
        """Decode every image of both splits; other files, and images outside of class folders, are ignored.

        Raises:
            DataError: the folder is not laid out as above, or a link leads out of it.
        """
        paths = [path for split in ("train", "test") for path in self._list(split).paths]
        folders = dict.fromkeys([self.root, *self._split_folders(), *(path.parent for path in paths)])
        beside = [entry for folder in folders if folder for entry in _visible(folder) if not entry.is_dir()]
        used = set(paths)
        others = [entry for entry in beside if entry not in used]
        with _decoders() as pool:
            decoded = tuple(pool.map(partial(_check_image, size=self.image_size), paths))
        why = "no image by its name, or in no class folder"
        return decoded + tuple(FileCheck(str(path), "ignored", why) for path in others)

    def download(self, name: str, data_dir: Path, progress: Progress) -> Path:
        """Nothing to fetch.

        Raises:
            DataError: the folder is not laid out as above.
        """
        self._list("train")
        return self.root

    def _list(self, split: str) -> _Listing:
        train, test = self._split_folders()
        classes = tuple(folder.name for folder in _subfolders(train, self.root))
        if len(classes) < 2:
            found = f"only one class folder, {classes[0]}" if classes else "no class folders"
            raise DataError(f"{train}: {found}; images belong in one folder per class, two classes or more")
        for name in classes:
            if name != (shown := _shown(Path(name))):  # no report could name it
                raise DataError(f"{train}: the name of the class folder {shown} is not UTF-8")
        if test is None:
            return self._share(self._list_classes(train, classes), split)
        unknown = [folder.name for folder in _subfolders(test, self.root) if folder.name not in classes]
        if unknown:
            raise DataError(f"{test}: class {', '.join(unknown)} is not in {train}")
        return self._list_classes(train if split == "train" else test, classes)

    def _split_folders(self) -> tuple[Path, Path | None]:
        """Folders that hold the class folders of train and test; no test folder where there is none."""
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder")
        folders = {folder.name: folder for folder in _subfolders(self.root, self.root)}
        train = folders.get("train")
        # A folder named train that holds images is a class (of vehicles, say), not a split.
        if train is None or not _subfolders(train, self.root):
            return self.root, None
        overlooked = sorted(folders.keys() & OTHER_SPLITS)
        if overlooked:
            raise DataError(f"{self.root}: {', '.join(overlooked)} would not be used; call it test or val")
        return train, folders.get("test", folders.get("val"))

    def _list_classes(self, folder: Path, classes: tuple[str, ...]) -> _Listing:
        """Every image below ``folder``; classes without a folder of their own have none there."""
        paths, labels = [], []
        for label, name in enumerate(classes):
            if (folder / name).is_dir():
                found = _images(folder / name, self.root)
                paths += found
                labels += [label] * len(found)
        if not paths:
            raise DataError(f"{folder}: no class folders")
        return _Listing(classes, paths, np.array(labels, dtype=np.int64), np.arange(len(paths)))

    def _share(self, listing: _Listing, split: str) -> _Listing:
        counts = np.bincount(listing.labels)
        if counts.min() < 2:
            lonely = listing.classes[int(counts.argmin())]
            raise DataError(f"{self.root}: class {lonely} has a single image; train and test need one each")
        keys = np.array([_key(path) for path in listing.paths], dtype=np.uint64)
        test = choose(listing.labels, np.maximum(counts // 5, 1), keys)
        train = np.delete(np.arange(len(listing.paths)), test)
        return listing.take(train if split == "train" else test)


def read_image(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """An image file, its shorter side scaled to ``size`` (bicubic, antialiased), cropped to the centre.

    An image of that size already is returned pixel for pixel. EXIF rotation is applied, grey becomes
    RGB, transparency is dropped.

    Returns:
        uint8 (size, size, 3).

    Raises:
        DataError: not a readable image, truncated, 16 bits per channel, or too large to be decoded safely.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if _is_deep(image):
                raise DataError(f"{path}: more than 8 bits per channel; convert it to 8 bits first")
            with _one_large_image if image.width * image.height > LARGE_PIXELS else nullcontext():
                upright = ImageOps.exif_transpose(image).convert("RGB")
                return np.asarray(ImageOps.fit(upright, (size, size)))
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(f"{path}: more than {MAX_PIXELS} pixels: refused") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "not an image" if unknown else getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}") from error


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether an image that is not decoded yet has more than 8 bits per channel: of colours Pillow keeps the
    upper 8, and only what it is going to decode tells (of BMP, that a whole pixel has 16)."""
    if image.mode.startswith(("I", "F")):
        return True
    return image.format in ("PNG", "TIFF") and any(";16" in str(tile[3]) for tile in image.tile)


def _check_image(path: Path, size: int) -> FileCheck:
    try:
        read_image(path, size)
    except DataError as error:
        return FileCheck(str(path), "damaged", str(error).removeprefix(f"{path}: "))
    return FileCheck(str(path), "ok", "decoded")


@contextmanager
def _decoders() -> Iterator[ThreadPoolExecutor]:
    """Threads that decode (Pillow releases the GIL), without its remarks on odd metadata.

    Warning filters belong to the process, so they are set once here and not in each thread.
    """
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")
        yield pool


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error


def _subfolders(folder: Path, root: Path) -> list[Path]:
    return [_inside(entry, root) for entry in _visible(folder) if entry.is_dir()]


def _images(folder: Path, root: Path) -> list[Path]:
    images = []
    for entry in _visible(folder):
        if entry.is_dir():
            raise DataError(f"{folder}: holds the folder {entry.name}; a class folder holds images only")
        if entry.suffix.lower() in SUFFIXES:
            if not _inside(entry, root).is_file():
                raise DataError(f"{entry}: cannot be read: not a regular file")
            images.append(entry)
    if not images:
        endings = " ".join(SUFFIXES)
        raise DataError(f"{folder}: an empty class folder: put images in ({endings}), or remove it")
    return images


def _inside(entry: Path, root: Path) -> Path:
    """The entry itself, unless it is a link that leads out of the data set."""
    if entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(root):
        raise DataError(f"{entry}: a symbolic link that leads out of {root}: refused")
    return entry


def _shown(path: Path) -> str:
    """A path as text that any file or terminal takes: what is not valid UTF-8 in it becomes ``?``."""
    return path.as_posix().encode("utf-8", "replace").decode()


def _key(path: Path) -> int:
    name = os.fsencode(f"{path.parent.name}/{path.name}")
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big")
