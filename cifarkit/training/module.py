"""The Lightning module: a network, a recipe, running totals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarkit.augment.randomness import mix
from cifarkit.checkpoint import MAX_LOGITS, VAL_LOGITS
from cifarkit.models import one_view
from cifarkit.optim import build_optimizer
from cifarkit.optim.schedules import build_scheduler
from cifarkit.pipeline import Batch, EpochOrder, resize, window
from cifarkit.recipes import Recipe, scaled_side
from cifarkit.replay import Replayed
from cifarkit.training.hardware import return_freed_memory
from cifarkit.training.totals import Totals, outcomes

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
        val_images: how many validation looks at.
        target_acc, compile: see `recipes.Plan`.
        replay: have the GPU replay the passes of training (`Replayed`).

    Attributes:
        side: of the images that the network sees now, in training and in the validation that follows.
        steps_done: in the epoch that runs.
        val_sampled: whether validation looks at a sample of the images (`Recipe.val_sample`).
        looks_again: whether validation looks at more views of images that the network is unsure about.
        val_logits: of all images of the validation that has just been, float32 (N, classes); None with
            several processes, or where they would make a checkpoint much larger.
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
        val_images: int = 0,
        target_acc: float | None = None,
        compile: bool = False,
        replay: bool = False,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe, self.order, self.ends, self.seed = recipe, order, ends, seed
        self.full_side = self.side = side
        self.train_totals, self.val_totals = Totals(), Totals()
        self.steps_done = 0
        self.looks_again = self.val_sampled = False
        self.val_stride, self.val_images = recipe.val_stride(val_images), val_images
        self._sample = sample(val_images, self.val_stride)
        self.target_acc = target_acc
        self.val_logits: Tensor | None = None
        self._heard: list[Tensor] = []
        self._validated = 0
        self._resumed: dict[str, Any] | None = None
        # The method, because a compiled module would be a second child with the same weights.
        self._forward = torch.compile(network.forward, dynamic=False) if compile else network.forward
        self._trained = [p for p in network.parameters() if p.requires_grad]
        self._replayed = Replayed(self._passes) if replay else None
        self._gradients: tuple[Tensor | None, ...] = ()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = (self._forward if self.training else self.network)(images)
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
        self.looks_again, self.val_logits = False, None
        # Lightning counts an epoch's steps before it tells the order which epoch it is.
        self.trainer.fit_loop.max_batches = self.trainer.val_check_batch = len(self.order)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        images, labels = batch
        scale = self.recipe.scale_at(self.current_epoch + batch_index / len(self.order))
        side = scaled_side(self.full_side, scale)
        if side != self.side:
            self.side = side
            if self.device.type == "cpu":
                return_freed_memory()
        if scale >= self.recipe.crop_from:
            images = window(images, self.side, mix(self.seed, self.current_epoch, batch_index))
        images = resize(images, self.side)
        loss: Tensor
        if self._replayed:
            loss, losses, correct, *gradients = self._replayed(images, labels)
            self._gradients = tuple(gradients)
        else:
            loss, losses, correct = self._forward_pass(images, labels)
        self.train_totals.update(losses, correct)
        if min(self.recipe.keep_hardest) < 1:
            self.order.note(batch_index, losses)
        self.steps_done = batch_index + 1
        return loss

    def _forward_pass(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss to be minimised, and `outcomes`."""
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        return loss, *outcomes(logits, labels)

    def _passes(self, images: Tensor, labels: Tensor) -> tuple[Any, ...]:
        """What `_forward_pass` returns, and the loss's gradient with respect to every trained parameter."""
        loss, *rest = self._forward_pass(images, labels)
        return loss.detach(), *rest, *torch.autograd.grad(loss, self._trained, allow_unused=True)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if not self._replayed:
            loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]
        for parameter, gradient in zip(self._trained, self._gradients, strict=False):
            parameter.grad = gradient

    @property
    def within_epoch(self) -> bool:
        """Whether some steps of an epoch are done and some are not."""
        return 0 < self.steps_done < len(self.order)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["losses"] = self.order.losses
        if self.val_logits is not None:
            checkpoint[VAL_LOGITS] = self.val_logits
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
        self._validated = 0
        at_an_end = self.trainer.global_step in self.ends
        self.val_sampled = self.val_stride > 1 and not at_an_end
        # Before the end, and while images are small, networks are unsure of most: it would cost a tenth of a
        # training.
        self.looks_again = self.side == self.full_side and at_an_end
        # Now, because the checkpoint that follows validation holds them.
        if self.trainer.world_size > 1 and min(self.recipe.keep_hardest) < 1:
            shown = self.order.shown[: len(self.order) * self.order.batch_size].to(self.device)
            images, losses = self.all_gather((shown, self.order.losses.to(self.device)[shown]))
            self.order.losses[images.flatten()] = losses.flatten().to(self.order.losses.device)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        images, labels = batch
        if self.val_sampled:
            some = self._sample[self._validated :][: len(labels)].nonzero().flatten().to(labels.device)
            self._validated += len(labels)
            images, labels = images[some], labels[some]
            if not len(labels):
                return
        looks = nullcontext() if self.looks_again else one_view(self.network)
        # What is reported is computed as `eval` and the exported model compute it, in float32.
        with looks, torch.autocast(self.device.type, enabled=False):
            logits = self(resize(images, self.side))
        self.val_totals.update(*outcomes(logits, labels))
        # Others would make a checkpoint much larger, or be a part of them.
        if self.trainer.world_size == 1 and self.val_images * logits.shape[1] <= MAX_LOGITS:
            self._heard.append(logits)

    def on_validation_epoch_end(self) -> None:
        if self.val_sampled and self._may_have_reached_target():
            self.val_sampled = False
            self.val_totals.reset()
            self._heard.clear()
            for number, batch in enumerate(self.trainer.val_dataloaders):
                images, labels = (part.to(self.device) for part in batch)
                self.validation_step((images, labels), number)
        heard, self._heard = self._heard, []
        if heard and not self.val_sampled:
            self.val_logits = torch.cat(heard).float()

    def _may_have_reached_target(self) -> bool:
        """Whether all images may reach it: a sample of them falls three deviations short about once in a
        thousand times."""
        if self.target_acc is None:
            return False
        _, accuracy = self.val_totals.compute()
        deviation = math.sqrt(accuracy * (1 - accuracy) * self.val_stride / self.val_images)
        return accuracy + 3 * deviation >= self.target_acc

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


def sample(images: int, stride: int) -> Tensor:
    """Which images make one of ``stride``, bool (images,): always the same, and taken at random, because
    those of a class may follow each other in any order."""
    chosen = torch.randperm(images, generator=torch.Generator().manual_seed(0))[: images // stride]
    return torch.zeros(images, dtype=torch.bool).index_fill(0, chosen, True)
