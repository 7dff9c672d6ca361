"""CIFAR and MNIST files in the layout of `torchvision.datasets`, so that a folder serves both.

torchvision says where the files are published. They are parsed here, for three reasons: CIFAR files
are pickles, of which torchvision runs whatever they say; it does not check the unpacked MNIST files at all;
and reading needs no import of torch.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifarkit.data.fetch import fetch
from cifarkit.data.formats import Arrays, read_cifar, read_idx
from cifarkit.data.image_set import ImageSet
from cifarkit.data.published import PublishedFile, md5_of, replacing
from cifarkit.data.source import Progress
from cifarkit.errors import DataError
from cifarkit.results import FileCheck


@dataclass(frozen=True)
class TorchvisionSource:
    """A data set of published files; the two formats below say how to parse and to unpack them.

    Attributes:
        published: name of the class in `torchvision.datasets`, which knows the addresses.
        folder: where the files lie, relative to the data folder.
        classes: class names in label order.
        train: files of the training split, in the order of its images.
        test: files of the test split.
        other: files that torchvision wants beside them.
    """

    published: str
    folder: str
    classes: tuple[str, ...]
    train: tuple[PublishedFile, ...]
    test: tuple[PublishedFile, ...]
    other: tuple[PublishedFile, ...]

    @property
    def files(self) -> tuple[PublishedFile, ...]:
        return self.train + self.test + self.other

    def load(self, name: str, data_dir: Path, split: str) -> ImageSet:
        """Read one split; every file is checked before it is parsed.

        Raises:
            DataError: a file is missing, truncated or altered.
        """
        files = self.train if split == "train" else self.test
        images, labels = self._parse(self._contents(name, data_dir, files))
        return ImageSet(name, split, images, labels, self.classes, np.arange(len(images)))

    def verify(self, data_dir: Path) -> tuple[FileCheck, ...]:
        return tuple(file.read(data_dir / self.folder)[1] for file in self.files)

    def download(self, name: str, data_dir: Path, progress: Progress) -> Path:
        """Fetch what is missing or damaged; with everything intact, only read and return.

        Raises:
            DataError: no network, a wrong checksum, or the folder cannot be written.
        """
        if not self._all_intact(data_dir):
            try:
                self._fetch(data_dir, progress)
            except (tarfile.TarError, zlib.error, EOFError, KeyError) as error:
                raise DataError(f"{name}: the archive cannot be unpacked: {error}") from error
            except OSError as error:
                raise DataError(f"{name}: cannot write to {data_dir}: {error.strerror or error}") from error
            for check in self.verify(data_dir):
                if check.status != "ok":
                    raise DataError(f"{check.path}: still {check.detail} after the download")
        return data_dir / self.folder

    def _all_intact(self, data_dir: Path) -> bool:
        return all(check.status == "ok" for check in self.verify(data_dir))

    def _contents(self, name: str, data_dir: Path, files: tuple[PublishedFile, ...]) -> Iterator[bytes]:
        folder = data_dir / self.folder
        with ThreadPoolExecutor() as pool:  # the next are read and checked while one is parsed
            for file, (content, check) in zip(files, pool.map(lambda f: f.read(folder), files), strict=True):
                if check.status == "missing":
                    raise DataError(
                        f"{name}: no {self.folder}/{file.name} in {data_dir.absolute()}; run `cifarkit data "
                        f"download {name}`, or point CIFARKIT_DATA_DIR at the folder that has it"
                    )
                if check.status != "ok":
                    raise DataError(f"{check.path}: {check.detail}; `cifarkit data download {name}` mends it")
                yield content

    def _publication(self) -> Any:
        import torchvision.datasets

        return getattr(torchvision.datasets, self.published)

    def _parse(self, contents: Iterator[bytes]) -> Arrays:
        raise NotImplementedError

    def _fetch(self, data_dir: Path, progress: Progress) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class CifarSource(TorchvisionSource):
    """Pickled batches in one tar archive.

    Attributes:
        label_key: entry of the batch that holds the labels.
    """

    label_key: str

    def _parse(self, contents: Iterator[bytes]) -> Arrays:
        batches = [read_cifar(content, self.label_key, len(self.classes)) for content in contents]
        images = np.empty((sum(len(labels) for _, labels in batches), 32, 32, 3), dtype=np.uint8)
        for channel in range(3):  # all at once would take three times as long
            np.concatenate([pixels[..., channel] for pixels, _ in batches], out=images[..., channel])
        return images, np.concatenate([labels for _, labels in batches])

    def _fetch(self, data_dir: Path, progress: Progress) -> None:
        publication = self._publication()
        archive = data_dir / publication.filename
        placed_by_hand = _is_intact(archive, publication.tgz_md5)
        if not placed_by_hand:
            fetch([publication.url], archive, publication.tgz_md5, progress)
        with tarfile.open(archive) as tar:
            # Only the files asked for are read, to paths of our own: no path in the archive is followed.
            for file in self.files:
                member = tar.extractfile(f"{self.folder}/{file.name}")
                if member is None:
                    raise KeyError(f"{file.name} is not a file")
                with member, replacing(data_dir / self.folder / file.name) as out:
                    shutil.copyfileobj(member, out)
        if not placed_by_hand:
            archive.unlink()


@dataclass(frozen=True)
class IdxSource(TorchvisionSource):
    """One gzip file each of images and labels per split, in IDX format."""

    def _parse(self, contents: Iterator[bytes]) -> Arrays:
        images, labels = (read_idx(content) for content in contents)
        if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max() >= len(self.classes):
            raise DataError(f"images of shape {images.shape} with labels of shape {labels.shape}")
        # Copies: arrays over `bytes` are read-only, which torch refuses to share quietly.
        return images[..., None].copy(), labels.astype(np.int64)

    def _fetch(self, data_dir: Path, progress: Progress) -> None:
        publication = self._publication()
        archives = dict(publication.resources)
        for file in self.files:
            if file.read(data_dir / self.folder)[1].status == "ok":
                continue
            target = data_dir / self.folder / file.name
            archive = target.with_name(f"{target.name}.gz")
            md5 = archives[archive.name]
            placed_by_hand = _is_intact(archive, md5)
            if not placed_by_hand:
                fetch([mirror + archive.name for mirror in publication.mirrors], archive, md5, progress)
            with gzip.open(archive) as packed, replacing(target) as out:
                shutil.copyfileobj(packed, out)
            if not placed_by_hand:
                archive.unlink()


def _is_intact(path: Path, md5: str) -> bool:
    return path.is_file() and md5_of(path.read_bytes()) == md5
