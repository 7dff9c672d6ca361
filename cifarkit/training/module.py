"""The Lightning module: a network, a recipe, running totals."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarkit.augment.randomness import mix
from cifarkit.optim import build_optimizer
from cifarkit.pipeline import Batch
from cifarkit.recipes import Recipe
from cifarkit.training.totals import Totals


class Classifier(pl.LightningModule):
    """Trains a network as a recipe says.

    Args:
        network: images (B, C, H, W) to logits (B, classes).
        recipe: resolved; its ``lr`` is a number.
        total_steps: optimiser steps of the whole training; the schedule spans them.
        side: full image side in pixels.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, *, total_steps: int, side: int, seed: int) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe, self.total_steps, self.side, self.seed = recipe, total_steps, side, seed
        self.train_totals, self.val_totals = Totals(), Totals()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    def on_train_epoch_start(self) -> None:
        # Dropout draws from the global generator; seeding it per epoch makes an epoch's draws depend on
        # (seed, epoch) alone, so that a resumed training sees the ones it would have seen.
        torch.manual_seed(mix(self.seed, self.current_epoch) % 2**63)
        self.train_totals.reset()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        images, labels = batch
        side = self.train_side()
        if side != self.side:
            images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        logits = self(images.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.train_totals.update(logits, labels)
        return loss

    def train_side(self) -> int:
        """Side in pixels of this step's training images."""
        parts = self.recipe.image_scale
        part = min(int(self.global_step) * len(parts) // max(1, self.total_steps), len(parts) - 1)
        side: int = min(self.side, max(8, round(self.side * parts[part])))
        return side

    def on_validation_epoch_start(self) -> None:
        self.val_totals.reset()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        images, labels = batch
        # What is reported is computed as `eval` and the exported model compute it, in float32.
        with torch.autocast(self.device.type, enabled=False):
            logits = self(images.contiguous(memory_format=torch.channels_last))
        self.val_totals.update(logits, labels)

    def configure_optimizers(self) -> dict[str, object]:
        assert self.recipe.lr is not None
        optimizer = build_optimizer(
            self.recipe.optimizer,
            self.network,
            self.recipe.lr,
            self.recipe.weight_decay,
            self.recipe.batch_size,
        )
        scheduler = self.recipe.schedule.build(optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
