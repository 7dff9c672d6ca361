"""What a training works on: splits with their preprocessing, and a recipe and network that suit them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from cifarkit.augment.policies import find_policy, mirrors
from cifarkit.data.datasets import Dataset
from cifarkit.data.image_set import ImageSet
from cifarkit.data.loading import load_splits
from cifarkit.errors import CheckpointError, UsageError
from cifarkit.models import allow_tta, build_model, check_size
from cifarkit.pipeline import Preprocessing, check_batch
from cifarkit.recipes import Recipe, scaled_side

MIN_STEPS_PER_EPOCH = 8
INITIALISING_IMAGES = 5000


@runtime_checkable
class Initialised(Protocol):
    """A network that wants to see normalised training images (N, C, H, W) before the first step."""

    def initialise(self, images: Tensor) -> None: ...


@dataclass(frozen=True)
class Data:
    """The splits a training sees, and how their images become network input.

    Attributes:
        name: data set name or ``folder:PATH``.
        val: held-out training images (split ``val``) or the test split.
        image_size: side of the images; folder images were resized to it.
    """

    name: str
    train: ImageSet
    val: ImageSet
    preprocessing: Preprocessing
    val_size: int = 0
    image_size: int = 0

    def check_fingerprints(self, name: str, train: str | None, val: str | None) -> None:
        """That these are the images that a training has seen so far.

        Args:
            name: what an error calls that training.
            train, val: fingerprints of the images it was trained and validated on; None where unknown.

        Raises:
            CheckpointError: they are not.
        """
        for used, known, images in ("trained", train, self.train), ("validated", val, self.val):
            if known is not None and known != images.fingerprint:
                raise CheckpointError(
                    f"{name} was {used} on other images than {self.name} holds now "
                    f"(fingerprint {known}, now {images.fingerprint})"
                )


def load_data(dataset: Dataset, data_dir: Path, *, val_size: int = 0, seed: int = 0) -> Data:
    """The splits of a data set with their preprocessing.

    Raises:
        DataError: files are missing, damaged or altered.
        UsageError: ``val_size`` does not fit.
    """
    splits = load_splits(dataset, data_dir, val_size, seed)
    preprocessing = preprocessing_for(splits.train, *dataset.mean_std(splits.train))
    return Data(dataset.name, splits.train, splits.val, preprocessing, val_size, splits.train.image_shape[1])


def preprocessing_for(train: ImageSet, mean: Sequence[float], std: Sequence[float]) -> Preprocessing:
    """The preprocessing of a data set with these channel statistics."""
    shape = train.image_shape
    return Preprocessing(tuple(map(float, mean)), tuple(map(float, std)), shape, train.classes, shape[1])


def fit_batch_to_data(recipe: Recipe, images: int) -> Recipe:
    """The recipe with a batch small enough for a few steps per epoch, where its own would be too large
    for the data; ask for a batch size to have exactly that one."""
    if images >= MIN_STEPS_PER_EPOCH * recipe.batch_size:
        return recipe
    return replace(recipe, batch_size=max(1, images // MIN_STEPS_PER_EPOCH))


def check_recipe_fits(recipe: Recipe, data: Data) -> None:
    """That there are enough images for a batch, that they are square, and that the network takes them at
    their size and at the smallest that training shrinks them to.

    Raises:
        UsageError: it does not.
    """
    check_batch(recipe.batch_size, len(data.train))
    channels, side, width = data.preprocessing.image_shape
    if side != width:
        raise UsageError(f"images of {data.name} are {side} x {width} pixels; only square ones can be used")
    smallest = scaled_side(side, min(recipe.image_scale))
    check_size(recipe.model, (channels, smallest, smallest))


def build_network(recipe: Recipe, data: Data) -> nn.Module:
    """The recipe's network for these images, initialised from PyTorch's generator and, where the network
    asks for it, from training images."""
    network = build_model(recipe.model, data.preprocessing.image_shape, len(data.preprocessing.classes))
    if isinstance(network, Initialised):
        some = torch.from_numpy(data.train.images[:: max(1, len(data.train) // INITIALISING_IMAGES)])
        network.initialise(data.preprocessing(some.permute(0, 3, 1, 2)))
    return allow_tta(network, mirrors(find_policy(recipe.policy)))
