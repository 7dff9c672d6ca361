"""Temporary folders that go away, whatever becomes of the process."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from cifarkit.errors import CifarkitError

PREFIX = "cifarkit-scratch-"
# In each of them; its process holds it.
LOCK = ".lock"
# In a younger folder the lock may not be held yet.
YOUNG_SECONDS = 60


@contextmanager
def scratch() -> Iterator[str]:
    """A folder that goes away; those go, too, that processes have left which were killed.

    Raises:
        CifarkitError: there is no room for one.
    """
    folder = ""
    try:
        folder = tempfile.mkdtemp(prefix=PREFIX)
        lock = FileLock(Path(folder, LOCK))
        lock.acquire()
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise CifarkitError(f"no temporary folder can be made ({error.strerror}); set TMPDIR") from error
    try:
        _remove_abandoned(Path(folder).parent)
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(place: Path) -> None:
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # whoever is at work in it holds the lock
            status, lock = folder.lstat(), folder / LOCK
            ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
            changed = lock.lstat().st_mtime if lock.exists() else status.st_mtime
            if ours and time.time() - changed > YOUNG_SECONDS:
                with FileLock(lock, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
