"""The Lightning module: a network, a recipe, running totals."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarkit.augment.randomness import mix
from cifarkit.models import one_view
from cifarkit.optim import build_optimizer
from cifarkit.optim.schedules import build_scheduler
from cifarkit.pipeline import Batch, EpochOrder, resize, window
from cifarkit.recipes import Recipe, scaled_side
from cifarkit.training.totals import Totals

# In a checkpoint from within an epoch: what goes on with that epoch needs.
WITHIN_EPOCH = "within_epoch"


class Classifier(pl.LightningModule):
    """Trains a network as a recipe says.

    Args:
        network: images (B, C, H, W) to logits (B, classes).
        recipe: resolved; its ``lr`` is a number.
        order: of the training images; it is told their losses.
        ends: steps after which the training may end; the recipe's schedule spans those up to the first
            (see `build_scheduler`).
        side: of the images in pixels, at full size.
        compile: see `fit`.

    Attributes:
        side: of the images that the network sees now, in training and in the validation that follows.
        steps_done: in the epoch that runs.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        *,
        order: EpochOrder,
        ends: Sequence[int],
        side: int,
        seed: int,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe, self.order, self.ends, self.seed = recipe, order, ends, seed
        self.full_side = self.side = side
        self.train_totals, self.val_totals = Totals(), Totals()
        self.steps_done = 0
        self._resumed: dict[str, Any] | None = None
        # The method, because a compiled module would be a second child with the same weights.
        self._compiled = torch.compile(network.forward, dynamic=False) if compile else None

    def forward(self, images: Tensor) -> Tensor:
        network = self._compiled if self._compiled and self.training else self.network
        logits: Tensor = network(images)
        return logits

    def on_train_start(self) -> None:
        if self._resumed is None:
            return
        # Lightning starts no epoch when it goes on within one.
        if self.order.rank == 0:  # the epoch's end sums over all processes
            for name, value in self._resumed["totals"].items():
                setattr(self.train_totals, name, value.to(self.device))
        torch.set_rng_state(self._resumed["generator"])
        if self.device.type == "cuda" and self._resumed["cuda_generator"] is not None:
            torch.cuda.set_rng_state(self._resumed["cuda_generator"])
        self._resumed = None

    def on_train_epoch_start(self) -> None:
        # Dropout draws from the global generator; seeding it per epoch makes an epoch's draws depend on
        # (seed, epoch) alone, so that a resumed training sees the ones it would have seen.
        torch.manual_seed(mix(self.seed, self.current_epoch) % 2**63)
        self.train_totals.reset()
        self.steps_done = 0
        # Lightning counts an epoch's steps before it tells the order which epoch it is.
        self.trainer.fit_loop.max_batches = self.trainer.val_check_batch = len(self.order)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        images, labels = batch
        scale = self.recipe.scale_at(self.current_epoch + batch_index / len(self.order))
        self.side = scaled_side(self.full_side, scale)
        if scale >= self.recipe.crop_from:
            images = window(images, self.side, mix(self.seed, self.current_epoch, batch_index))
        logits = self(resize(images, self.side))
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.train_totals.update(logits, labels)
        if min(self.recipe.keep_hardest) < 1:
            self.order.note(batch_index, F.cross_entropy(logits.detach().float(), labels, reduction="none"))
        self.steps_done = batch_index + 1
        return loss

    @property
    def within_epoch(self) -> bool:
        """Whether some steps of an epoch are done and some are not."""
        return 0 < self.steps_done < len(self.order)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["losses"] = self.order.losses
        if self.within_epoch:
            checkpoint.setdefault(WITHIN_EPOCH, {}).update(
                steps_done=self.steps_done,
                shown=self.order.shown,
                totals=self.train_totals.metric_state,
                generator=torch.get_rng_state(),
                cuda_generator=torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.order.losses = checkpoint["losses"]
        if WITHIN_EPOCH in checkpoint:
            self._resumed = checkpoint[WITHIN_EPOCH]
            # Only a single process stops within an epoch; several may go on with it.
            self.order.shown = self._resumed["shown"][self.order.rank :: self.order.world_size]
            self.order.done = self.steps_done = self._resumed["steps_done"]

    def on_validation_epoch_start(self) -> None:
        self.val_totals.reset()
        # Now, because the checkpoint that follows validation holds them.
        if self.trainer.world_size > 1 and min(self.recipe.keep_hardest) < 1:
            shown = self.order.shown[: len(self.order) * self.order.batch_size].to(self.device)
            images, losses = self.all_gather((shown, self.order.losses.to(self.device)[shown]))
            self.order.losses[images.flatten()] = losses.flatten().to(self.order.losses.device)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        images, labels = batch
        # While images are small, networks are unsure of most: to look again would cost a tenth of a training.
        looks = one_view(self.network) if self.side < self.full_side else nullcontext()
        # What is reported is computed as `eval` and the exported model compute it, in float32.
        with looks, torch.autocast(self.device.type, enabled=False):
            logits = self(resize(images, self.side))
        self.val_totals.update(logits, labels)

    def configure_optimizers(self) -> dict[str, object]:
        assert self.recipe.lr is not None
        optimizer = build_optimizer(
            self.recipe.optimizer,
            self.network,
            self.recipe.lr,
            self.recipe.weight_decay,
            self.recipe.batch_size,
            bf16=self.trainer.precision == "bf16-mixed",
        )
        scheduler = build_scheduler(self.recipe.schedule, optimizer, self.ends)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
