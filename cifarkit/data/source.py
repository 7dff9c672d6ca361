"""What a kind of source must be able to do; each kind is one file beside this one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cifarkit.data.image_set import ImageSet
from cifarkit.results import FileCheck

# Called as (file name, bytes so far, bytes in all or None when the server does not say).
Progress = Callable[[str, int, int | None], None]


class Source(Protocol):
    """Reads, checks and fetches the files of a data set. ``name`` is the data set's name."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in label order; None where only the files can say."""

    def load(self, name: str, data_dir: Path, split: str) -> ImageSet:
        """The ``"train"`` or ``"test"`` split. Never downloads."""

    def verify(self, data_dir: Path) -> tuple[FileCheck, ...]:
        """Re-read every file."""

    def download(self, name: str, data_dir: Path, progress: Progress) -> Path:
        """Make sure the files are there and intact; return where they are."""
