"""Writing checkpoints: Lightning's files with a record of ours inside, whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from cifarkit.checkpoint import FORMAT, KEY, RATES, Story
from cifarkit.errors import CheckpointError
from cifarkit.results import EpochRow
from cifarkit.training.module import Classifier


class StoryKeeper(pl.Callback):
    """Writes the story into every checkpoint Lightning saves.

    Attributes:
        rows: of the epochs that are done.
        lrs: learning rate by epoch, step and parameter group.
    """

    def __init__(self, story: Story, lrs: Sequence[list[list[float]]] = ()) -> None:
        self.story = story
        self.rows: list[EpochRow] = list(story.rows)
        self.lrs = list(lrs)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        assert isinstance(pl_module, Classifier)
        story = asdict(replace(self.story, tta=pl_module.looks_again, rows=tuple(self.rows)))
        story["plan"] = self.story.plan.settings()
        story["preprocessing"]["side"] = pl_module.side
        checkpoint[KEY] = {"format": FORMAT, **story}
        checkpoint[RATES] = [torch.tensor(epoch, dtype=torch.float64) for epoch in self.lrs]


class CheckpointFiles(TorchCheckpointIO):
    """``last.ckpt``, ``best.ckpt`` and, of the time before the last, ``previous.ckpt``, in one folder.

    Each is replaced whole or not at all. (Lightning's ModelCheckpoint forgets what was best when a training
    is resumed in another folder.)

    Args:
        behind: write on a thread, while a GPU trains on; one checkpoint at a time.
    """

    def __init__(self, folder: Path, *, behind: bool) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints") if behind else None
        self._written: Future[None] | None = None

    def save(self, trainer: pl.Trainer, *, best: bool, then: Callable[[], None]) -> None:
        """Keep the training as it is now.

        Args:
            best: it has never been better.
            then: called when the files are there, perhaps on another thread.

        Raises:
            CheckpointError: these files, or those of the time before, cannot be written: the disk is full,
                or no longer writable.
        """
        trainer.save_checkpoint(self.folder / "last.ckpt", storage_options=(best, then))
        if not trainer.is_global_zero:
            then()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        best, then = storage_options
        if self._thread is None:
            self._write(checkpoint, best, then)
            return
        self.wait()
        kept = apply_to_collection(checkpoint, Tensor, torch.clone)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record()  # type: ignore[no-untyped-call]
        self._written = self._thread.submit(self._fetch_and_write, kept, ready, best, then)

    def wait(self) -> None:
        """Until everything is written.

        Raises:
            CheckpointError: it cannot be.
        """
        if self._written is not None:
            written, self._written = self._written, None
            written.result()

    def close(self) -> None:
        """`wait`, and let go of the thread; errors as there."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()

    def _fetch_and_write(
        self, checkpoint: dict[str, Any], ready: torch.cuda.Event, best: bool, then: Callable[[], None]
    ) -> None:
        # Past the steps that wait on the training's own stream.
        with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
            ready.wait()  # type: ignore[no-untyped-call]
            fetched = apply_to_collection(checkpoint, Tensor, Tensor.cpu)
        self._write(fetched, best, then)

    def _write(self, checkpoint: dict[str, Any], best: bool, then: Callable[[], None]) -> None:
        folder = self.folder
        fresh, fresh_best, before = folder / ".fresh.ckpt", folder / ".best.ckpt", folder / ".previous.ckpt"
        last = folder / "last.ckpt"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(checkpoint, fresh)
            _to_disk(fresh)
            if best:
                shutil.copyfile(fresh, fresh_best)
                _to_disk(fresh_best)
                os.replace(fresh_best, folder / "best.ckpt")
            if last.exists():
                shutil.copyfile(last, before)
                os.replace(before, folder / "previous.ckpt")
            os.replace(fresh, last)
        except (OSError, RuntimeError) as error:  # torch's writer knows no other
            for part in (fresh, fresh_best, before):
                with suppress(OSError):
                    part.unlink()
            why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            with suppress(OSError):
                if shutil.disk_usage(folder).free < 2**20:
                    why = os.strerror(errno.ENOSPC)  # which torch's writer does not tell
            raise CheckpointError(
                f"no checkpoint can be written in {folder} ({why}); what was saved before is kept"
            ) from error
        then()


def _to_disk(path: Path) -> None:
    """A file that gets its name only now is not to be empty after a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
