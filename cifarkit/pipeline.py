"""Data plus augmentation: loaders with one batch contract for both backends.

A batch is ``(images, labels)``: images float32 (B, C, H, W), normalised with the data set's mean and
standard deviation; labels int64 (B,). Which images an epoch shows, in which
order and how changed, follows from (seed, epoch, index) alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cifarkit.augment.batched import Batched
from cifarkit.augment.batched_ops import Scaling, normalize
from cifarkit.augment.ops import Policy
from cifarkit.augment.policies import POLICIES
from cifarkit.augment.randomness import epoch_permutation
from cifarkit.data.image_set import ImageSet

Batch = tuple[Tensor, Tensor]

# Of 32 x 32 pixels or less; of larger images fewer.
EVAL_BATCH = {"cpu": 125, "cuda": 2500}
_AUGMENTED_AT_ONCE = 1 << 28  # numbers, which are 1 GB; on a GPU


@dataclass(frozen=True)
class Preprocessing:
    """What turns raw uint8 images into a network's input; stored with the weights.

    Attributes:
        mean, std: per channel, of values scaled to 0..1.
        image_shape: (C, H, W) of the raw images.
        classes: class names, in label order.
        side: in pixels, of the images as the network sees them: the one that it was trained at last.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    side: int

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) to normalised float32 (B, C, side, side), on the device of ``images``."""
        scaling = Scaling(*(factor.to(images.device) for factor in Scaling.of(self.mean, self.std)))
        return resize(normalize(images, scaling), self.side)


def resize(images: Tensor, side: int) -> Tensor:
    """Square images (B, C, H, W) at another side, antialiased, channels-last in memory."""
    if images.shape[-1] != side:
        images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    return images.contiguous(memory_format=torch.channels_last)


def window(images: Tensor, side: int, number: int) -> Tensor:
    """A square cut out of square images (B, C, H, W), as a view (B, C, side, side).

    Args:
        number: drawn uniformly; says where. The place is the same in all images of a batch: policies shift
            them one by one already.
    """
    places = images.shape[-1] - side + 1
    top, left = divmod(number % places**2, places)
    return images[..., top : top + side, left : left + side]


def as_tensors(images: ImageSet, device: torch.device | str = "cpu") -> Batch:
    """uint8 images (N, C, H, W), channels-last in memory and on the CPU without a copy, and labels."""
    pixels = torch.from_numpy(images.images).permute(0, 3, 1, 2)
    return pixels.to(device), torch.from_numpy(images.labels).to(device)


class EpochOrder:
    """The order of one epoch's images on this process; Lightning calls `set_epoch`.

    Args:
        length: number of images over all processes.
        batch_size: images per batch on this process, at most.
        shuffle: permute by (seed, epoch); a shuffled order drops the last, incomplete batch, another one has
            batches of nearly one size.
        kept_in: share of the images that an epoch shows; see `Recipe.keep_hardest`.
        rank, world_size: this process takes every ``world_size``-th image from ``rank`` on, so that each
            image is seen by exactly one process. All have as many batches, because they wait for each other.

    Attributes:
        losses: float32 (length,), of every image when it was last seen; infinite before.
        shown: int64, the images of the epoch that runs, in the order of its batches.
        done: batches of this epoch that an interrupted training has shown before; `shown` holds them.
        device: where the batches are wanted.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        kept_in: Callable[[int], float] = lambda epoch: 1.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.kept_in = kept_in
        self.losses = torch.full((length,), math.inf)
        self.shown = self._noted = torch.empty(0, dtype=torch.int64)
        self.length, self.batch_size, self.shuffle, self.seed = length, batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = self.done = 0
        self.device = torch.device("cpu")

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return self.steps_in(self.epoch)
        return math.ceil(math.ceil(self.length / self.world_size) / self.batch_size)

    def steps_in(self, epoch: int) -> int:
        """Batches of a shuffled epoch."""
        return self._images_in(epoch) // self.world_size // self.batch_size

    def _images_in(self, epoch: int) -> int:
        return round(self.length * self.kept_in(epoch))

    def __iter__(self) -> Iterator[Tensor]:
        first, self.done = self.done, 0
        if not first:
            self.shown = self._order()[self.rank :: self.world_size]
        self._noted = self.shown
        # Moved once an epoch: a GPU would wait for each batch's transfer.
        shown = self.shown.to(self.device)
        if not self.shuffle:
            yield from shown.tensor_split(len(self))
            return
        for step in range(first, len(self)):
            yield self._batch(shown, step)

    def _order(self) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.length)
        order = epoch_permutation(self.length, self.seed, self.epoch).to(self.losses.device)
        images = self._images_in(self.epoch)
        if images == self.length:
            return order
        hardest = self.losses[order].argsort(descending=True, stable=True)[:images]
        return order[hardest.sort().values]

    def _batch(self, images: Tensor, step: int) -> Tensor:
        return images[step * self.batch_size : (step + 1) * self.batch_size]

    def note(self, step: int, losses: Tensor) -> None:
        """Remember the losses (batch_size,) of the images that this step of the epoch showed."""
        self.losses, self._noted = self.losses.to(losses.device), self._noted.to(losses.device)
        self.losses[self._batch(self._noted, step)] = losses


class DeviceLoader:
    """Batches cut and augmented on the device that holds the whole data set."""

    def __init__(self, images: ImageSet, augment: Batched, order: EpochOrder, device: torch.device) -> None:
        self.images, self.labels = as_tensors(images, device)
        self.augment, self.sampler, self.device = augment, order, device
        order.device = device
        self.batch_sampler = None  # Lightning looks for the order of the images here and in `sampler`

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        batches, several = list(self.sampler), self._batches_at_once()
        for first in range(0, len(batches), several):
            some = batches[first : first + several]
            at, sizes = torch.cat(some), [len(batch) for batch in some]
            images = self.augment(self.images[at], at, self.sampler.epoch)
            yield from zip(torch.split(images, sizes), torch.split(self.labels[at], sizes), strict=True)

    def _batches_at_once(self) -> int:
        """How many batches are augmented together: a GPU is through with one before the next one's
        augmentation has been asked for."""
        if self.device.type != "cuda":
            return 1
        return max(1, _AUGMENTED_AT_ONCE // (self.sampler.batch_size * self.images[0].numel()))


class _AugmentedImages(Dataset[tuple[Tensor, int]]):
    """Items by (epoch, index), so that persistent workers need not be told which epoch it is."""

    def __init__(self, images: ImageSet, policy: Policy, preprocessing: Preprocessing, seed: int) -> None:
        from cifarkit.augment.per_image import PerImage

        self.images = images
        self.augment = PerImage(policy, preprocessing.mean, preprocessing.std, seed)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        pixels = self.augment(self.images.images[index], index, epoch)
        return torch.from_numpy(np.ascontiguousarray(pixels)), int(self.images.labels[index])


class _EpochBatches:
    """Batches of (epoch, index) keys for a DataLoader."""

    def __init__(self, order: EpochOrder) -> None:
        self.sampler = order

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for at in self.sampler:
            yield [(self.sampler.epoch, index) for index in at.tolist()]


def fits_on_device(images: ImageSet, device: torch.device) -> bool:
    """Whether the images take less than a quarter of a GPU's free memory; on the CPU they are already."""
    return device.type != "cuda" or images.images.nbytes < torch.cuda.mem_get_info(device)[0] / 4


def train_loader(
    images: ImageSet,
    policy: Policy,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    seed: int,
    device: torch.device,
    workers: int | None = None,
    epoch: int = 0,
    kept_in: Callable[[int], float] = lambda epoch: 1.0,
    rank: int = 0,
    world_size: int = 1,
) -> DeviceLoader | DataLoader[Any]:
    """Shuffled, augmented batches of ``batch_size`` images on this process.

    Args:
        workers: None keeps the data on the device when it fits and uses 2 workers otherwise; a number
            augments with albumentations in as many processes (0: in this one).
        epoch: the first to be shown; worker processes fetch ahead, before anyone calls `set_epoch`.
        kept_in: see `EpochOrder`.

    Raises:
        UsageError: fewer images than one batch takes.
    """
    images.check_batch(batch_size * world_size)
    order = EpochOrder(
        len(images),
        batch_size,
        shuffle=True,
        seed=seed,
        kept_in=kept_in,
        rank=rank,
        world_size=world_size,
    )
    order.set_epoch(epoch)
    if workers is None and fits_on_device(images, device):
        augment = Batched(policy, preprocessing.mean, preprocessing.std, seed)
        return DeviceLoader(images, augment, order, device)
    workers = 2 if workers is None else workers
    return DataLoader(
        _AugmentedImages(images, policy, preprocessing, seed),
        batch_sampler=_EpochBatches(order),  # type: ignore[arg-type]
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(seed),  # else it would draw from the global one
        worker_init_fn=_in_a_group_of_its_own,
    )


def _in_a_group_of_its_own(worker: int) -> None:
    """Ctrl-C goes to a whole process group; who trains still needs the worker to finish its step."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()


def epoch_order(loader: DeviceLoader | DataLoader[Any]) -> EpochOrder:
    """The order in which a loader shows its images."""
    holder = loader if isinstance(loader, DeviceLoader) else loader.batch_sampler
    order = holder.sampler  # type: ignore[union-attr]
    assert isinstance(order, EpochOrder)
    return order


def eval_loader(
    images: ImageSet,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    batch_size: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> DeviceLoader:
    """Every image exactly once, in order, only normalised (see `resize`); data that does not fit stays on the
    CPU and its batches move to the device one by one."""
    height, width, _ = images.images.shape[1:]
    most = EVAL_BATCH[device.type]
    batch_size = batch_size or max(1, min(most, most * 32**2 // (height * width)))
    order = EpochOrder(len(images), batch_size, shuffle=False, rank=rank, world_size=world_size)
    home = device if fits_on_device(images, device) else torch.device("cpu")
    return DeviceLoader(
        images, Batched(POLICIES["none"], preprocessing.mean, preprocessing.std, 0), order, home
    )
