"""What a training works on: splits with their preprocessing, and a recipe and network that suit them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from cifarkit.augment.policies import find_policy, mirrors
from cifarkit.data.datasets import Dataset
from cifarkit.data.image_set import ImageSet
from cifarkit.data.loading import Splits
from cifarkit.errors import CheckpointError
from cifarkit.models import allow_tta, build_model
from cifarkit.pipeline import Preprocessing
from cifarkit.recipes import Recipe

# To initialise a network; of larger images fewer.
INITIALISING_IMAGES, INITIALISING_PIXELS = 5000, 5000 * 32**2


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
    """

    name: str
    train: ImageSet
    val: ImageSet
    preprocessing: Preprocessing

    @classmethod
    def of(cls, dataset: Dataset, splits: Splits) -> Data:
        """The splits of a data set with their preprocessing.

        Raises:
            DataError: its images cannot be normalised.
        """
        preprocessing = preprocessing_for(splits.train, *dataset.mean_std(splits.train))
        return cls(dataset.name, splits.train, splits.val, preprocessing)

    @property
    def val_size(self) -> int:
        """How many training images are held out; 0 where validation runs on the test split."""
        return len(self.val) if self.val.split == "val" else 0

    @property
    def image_size(self) -> int:
        """Side of the images, to which those of a folder were resized."""
        return self.train.image_shape[1]

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


def preprocessing_for(train: ImageSet, mean: Sequence[float], std: Sequence[float]) -> Preprocessing:
    """The preprocessing of a data set with these channel statistics."""
    shape = train.image_shape
    return Preprocessing(tuple(map(float, mean)), tuple(map(float, std)), shape, train.classes, shape[1])


def build_network(recipe: Recipe, data: Data) -> nn.Module:
    """The recipe's network for these images, initialised from PyTorch's generator and, where the network
    asks for it, from training images."""
    network = build_model(recipe.model, data.preprocessing.image_shape, len(data.preprocessing.classes))
    if isinstance(network, Initialised):
        wanted = min(INITIALISING_IMAGES, INITIALISING_PIXELS // data.image_size**2)
        some = torch.from_numpy(data.train.images[:: math.ceil(len(data.train) / max(1, wanted))])
        network.initialise(data.preprocessing(some.permute(0, 3, 1, 2)))
    return allow_tta(network, mirrors(find_policy(recipe.policy)))
