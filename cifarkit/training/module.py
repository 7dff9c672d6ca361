"""The Lightning module: a network, a recipe, running totals."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarkit.augment.randomness import mix
from cifarkit.optim import build_optimizer
from cifarkit.optim.schedules import build_scheduler
from cifarkit.pipeline import Batch, resize
from cifarkit.recipes import Recipe, scaled_side
from cifarkit.training.totals import Totals


class Classifier(pl.LightningModule):
    """Trains a network as a recipe says.

    Args:
        network: images (B, C, H, W) to logits (B, classes).
        recipe: resolved; its ``lr`` is a number.
        ends: steps after which the training may end; the recipe's schedule spans those up to the first
            (see `build_scheduler`).
        side: of the images in pixels, at full size.

    Attributes:
        side: of the images that the network sees now, in training and in the validation that follows.
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, *, ends: Sequence[int], side: int, seed: int
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe, self.ends, self.seed = recipe, ends, seed
        self.full_side = self.side = side
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
        self.side = self._side_of_step()
        logits = self(resize(images, self.side))
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.train_totals.update(logits, labels)
        return loss

    def _side_of_step(self) -> int:
        parts = self.recipe.image_scale
        part = min(int(self.global_step) * len(parts) // max(1, self.ends[0]), len(parts) - 1)
        return scaled_side(self.full_side, parts[part])

    def on_validation_epoch_start(self) -> None:
        self.val_totals.reset()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        images, labels = batch
        # What is reported is computed as `eval` and the exported model compute it, in float32.
        with torch.autocast(self.device.type, enabled=False):
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
        )
        scheduler = build_scheduler(self.recipe.schedule, optimizer, self.ends)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
