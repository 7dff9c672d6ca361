"""What watches a training from inside Lightning's loop: progress, the target, divergence, signals."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

import pytorch_lightning as pl
import torch

from cifarkit.errors import DivergedError, Interrupted, Stopped, Terminated
from cifarkit.results import EpochRow, merit, reaches
from cifarkit.training.checkpoint_files import CheckpointFiles, StoryKeeper
from cifarkit.training.module import WITHIN_EPOCH, Classifier

STEP_REPORT_SECONDS = 0.5
DIVERGENCE_CHECK_STEPS = 20
DIVERGED_LOSS = 1000.0


class Observer(Protocol):
    """What a training tells; the console and MLflow listen.

    `on_epoch` and `on_stop` are called on the thread that writes the checkpoints, the others on the
    training's: return fast.
    """

    def on_step(self, epoch: int, step: int, steps: int, images_per_second: float) -> None:
        """About twice a second: ``step`` of ``steps`` in ``epoch`` (from 1) is done."""

    def on_validation(self, epoch: int) -> None:
        """Validation of ``epoch`` begins."""

    def on_epoch(self, row: EpochRow, best: bool) -> None:
        """An epoch is done and its checkpoints are written."""

    def on_stop(self, epoch: int, step: int, steps: int) -> None:
        """The training ends within ``epoch``, after so many of its steps; ``last.ckpt`` holds them."""


class Reporter(pl.Callback):
    """Turns the loop's hooks into `EpochRow`s and step reports.

    Args:
        story: gets each row, so that every checkpoint holds its own and those before it.
        files: the checkpoints.
        target_acc: stop as soon as validation accuracy reaches it.
    """

    def __init__(
        self,
        story: StoryKeeper,
        observers: Sequence[Observer],
        files: CheckpointFiles,
        *,
        val_split: str,
        target_acc: float | None,
    ) -> None:
        self.story, self.observers, self.files = story, observers, files
        self.val_split, self.target_acc = val_split, target_acc
        self.earlier_seconds = story.rows[-1].train_seconds if story.rows else 0.0
        self.spent = self.waited = 0.0

    @property
    def rows(self) -> list[EpochRow]:
        return self.story.rows

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        now = time.perf_counter()
        # In an epoch that goes on, some time has been spent before.
        self.started = self.epoch_started = now - self.spent
        self.reported = self.idle_since = now

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.epoch_started = self.reported = self.idle_since = time.perf_counter()
        self.waited = 0.0
        self.story.lrs.append([])

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.waited += time.perf_counter() - self.idle_since
        self.story.lrs[-1].append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        if now - self.reported >= STEP_REPORT_SECONDS:
            self.reported = now
            rate = self._images(module, batch_idx + 1) / (now - self.epoch_started)
            for observer in self.observers:
                observer.on_step(
                    trainer.current_epoch + 1, batch_idx + 1, int(trainer.num_training_batches), rate
                )
        self.idle_since = time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if torch.cuda.is_available() and module.device.type == "cuda":
            torch.cuda.synchronize()
        self.train_seconds = time.perf_counter() - self.epoch_started
        for observer in self.observers:
            observer.on_validation(trainer.current_epoch + 1)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Classifier)
        train_loss, train_acc = module.train_totals.compute()
        val_loss, val_acc = module.val_totals.compute()
        now = time.perf_counter()
        row = EpochRow(
            epoch=trainer.current_epoch + 1,
            train_loss=train_loss,
            train_acc=train_acc,
            val_loss=val_loss,
            val_acc=val_acc,
            val_split=self.val_split,
            image_side=module.side,
            lr=self.story.lrs[-1][-1][0],
            images_per_second=self._images(module, int(trainer.num_training_batches)) / self.train_seconds,
            waiting_share=self.waited / self.train_seconds,
            epoch_seconds=now - self.epoch_started,
            train_seconds=self.earlier_seconds + now - self.started,
            val_sampled=module.val_sampled,
        )
        self.improved = all(merit(row) > merit(earlier) for earlier in self.rows)
        self.rows.append(row)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        row = self.rows[-1]
        if not (math.isfinite(row.train_loss) and math.isfinite(row.val_loss)):
            raise _diverged(row.epoch, None)
        # Not earlier: a checkpoint from within the epoch would make a resume run its end twice.
        best = self.improved

        def tell() -> None:
            for observer in self.observers:
                observer.on_epoch(row, best)

        self.files.save(trainer, best=best, then=tell)
        if reaches(row, self.target_acc):
            trainer.should_stop = True

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        assert isinstance(module, Classifier)
        if module.within_epoch:
            seconds = time.perf_counter() - self.epoch_started
            checkpoint.setdefault(WITHIN_EPOCH, {}).update(seconds=seconds, waited=self.waited)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if WITHIN_EPOCH in checkpoint:
            self.spent = checkpoint[WITHIN_EPOCH]["seconds"]
            self.waited = checkpoint[WITHIN_EPOCH]["waited"]

    @staticmethod
    def _images(module: pl.LightningModule, batches: int) -> int:
        assert isinstance(module, Classifier)
        return batches * module.recipe.batch_size


class DivergenceGuard(pl.Callback):
    """Stops on a loss that is no number, or of a size that no training comes back from, looking every few
    steps. A GPU is not made to wait: its loss is looked at when it has arrived."""

    def __init__(self) -> None:
        self._coming: _Coming | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._coming and self._coming.is_here():
            self._look(trainer)
        # A CPU has the loss of every step at hand.
        every = DIVERGENCE_CHECK_STEPS if outputs["loss"].is_cuda else 1
        if batch_idx % every == 0 or batch_idx + 1 == trainer.num_training_batches:
            self._coming = _Coming(outputs["loss"], batch_idx + 1)
            if self._coming.is_here():
                self._look(trainer)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._coming:
            self._coming.wait()
            self._look(trainer)

    def _look(self, trainer: pl.Trainer) -> None:
        assert self._coming
        loss, step = self._coming.value.item(), self._coming.step
        self._coming = None
        if not loss < DIVERGED_LOSS:
            raise _diverged(trainer.current_epoch + 1, step)


class _Coming:
    """The loss of a step on its way to the host, for which nobody waits."""

    def __init__(self, loss: torch.Tensor, step: int) -> None:
        self.step, self.value = step, loss.detach()
        self._arrival: torch.cuda.Event | None = None
        if loss.is_cuda:
            self.value = torch.empty((), dtype=loss.dtype, pin_memory=True).copy_(loss, non_blocking=True)
            self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrival.record()  # type: ignore[no-untyped-call]

    def is_here(self) -> bool:
        return self._arrival is None or bool(self._arrival.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        if self._arrival is not None:
            self._arrival.synchronize()  # type: ignore[no-untyped-call]


def _diverged(epoch: int, step: int | None) -> DivergedError:
    where = f"epoch {epoch}" + (f", step {step}" if step else "")
    kept = f"the run keeps the weights after epoch {epoch - 1}; " if epoch > 1 else ""
    return DivergedError(f"{DivergedError.sign} ({where}); {kept}try a lower --lr or run lr-find")


class StopOnSignal(pl.Callback):
    """Ends the training after the step in which SIGINT or SIGTERM came, and keeps where it is.

    After the last step of an epoch its validation comes first. On several devices the epoch that runs is
    not kept: each of them knows a part of it only.

    Args:
        files: the checkpoints.
    """

    def __init__(self, observers: Sequence[Observer], files: CheckpointFiles) -> None:
        self.observers, self.files = observers, files
        self.received: Stopped | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, Classifier)
        if not self.received or not module.within_epoch:
            return
        if trainer.world_size == 1:
            if not all(parameter.isfinite().all() for parameter in module.parameters()):
                raise _diverged(trainer.current_epoch + 1, batch_idx + 1) from self.received
            place = trainer.current_epoch + 1, module.steps_done, int(trainer.num_training_batches)

            def tell() -> None:
                for observer in self.observers:
                    observer.on_stop(*place)

            self.files.save(trainer, best=False, then=tell)
        raise self.received

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.received:
            raise self.received

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals; a second one of either kind ends the process's patience at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            stop: Stopped = (
                Interrupted("interrupted") if number == signal.SIGINT else Terminated("terminated")
            )
            if self.received:
                raise stop from self.received
            self.received = stop

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
