"""Files that were published with a checksum: read and check them, write them whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cifarkit.results import FileCheck


@dataclass(frozen=True)
class PublishedFile:
    """A file known byte for byte.

    Attributes:
        name: without folders.
        md5: 32 hex digits.
        size: bytes, where known; only used to tell a truncated file from an altered one.
    """

    name: str
    md5: str
    size: int | None = None

    def read(self, folder: Path) -> tuple[bytes, FileCheck]:
        """The content, and whether it is what was published (content is empty when there is none).

        Checking and using the same bytes leaves no moment in which the file could be exchanged.
        """
        path = folder / self.name
        try:
            if self.size is not None and path.is_file() and (found := path.stat().st_size) > self.size:
                return b"", FileCheck(str(path), "damaged", f"altered: {found} instead of {self.size} bytes")
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return b"", FileCheck(str(path), "missing", "not found")
        except OSError as error:
            return b"", FileCheck(str(path), "damaged", f"cannot be read: {error.strerror}")
        md5 = md5_of(content)
        if md5 == self.md5:
            return content, FileCheck(str(path), "ok", f"md5 {md5}")
        if self.size is not None and len(content) < self.size:
            return content, FileCheck(str(path), "damaged", f"truncated: {len(content)} of {self.size} bytes")
        what = "altered" if self.size is not None else "truncated or altered"
        return content, FileCheck(str(path), "damaged", f"{what}: md5 is {md5}, not {self.md5}")


def md5_of(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A file to write that appears at ``target`` only if the block ends well.

    Until then it lies beside the target under a hidden name; on any error, Ctrl-C included, it is
    removed and what was at ``target`` before is untouched.

    Raises:
        OSError: the folder cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as out:
            yield out
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
