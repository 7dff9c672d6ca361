from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from cifarkit.data.image_set import ImageSet
from cifarkit.models import MODELS, Model
from cifarkit.optim.schedules import OneCycle
from cifarkit.recipes import Recipe
from cifarkit.results import EpochRow
from cifarkit.training.data import Data, preprocessing_for
from cifarkit.training.hardware import Hardware

CPU = Hardware("cpu", 1, 1, "fp32")


def _dropout_net(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(image_shape[0], 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(8 * 16, classes),
    )


@pytest.fixture(autouse=True, scope="session")
def dropout_net() -> Iterator[str]:
    """A network that trains in no time and draws random numbers while it does."""
    MODELS["dropout-net"] = Model("for tests", _dropout_net, 4)
    yield "dropout-net"
    del MODELS["dropout-net"]


@pytest.fixture
def recipe(dropout_net: str) -> Recipe:
    """Three epochs of four steps; One Cycle, dropout and augmentation, all of which must be resumable."""
    return Recipe(
        name="test",
        description="",
        model=dropout_net,
        policy="shift",
        optimizer="adamw",
        lr=0.02,
        weight_decay=1e-2,
        schedule=OneCycle(),
        epochs=3,
        batch_size=48,
        precision="fp32",
    )


@pytest.fixture
def cpu() -> Hardware:
    return CPU


@pytest.fixture
def data(digits: ImageSet, unseen_digits: ImageSet) -> Data:
    train = digits.take(range(200))
    return Data("digits", train, unseen_digits.take(range(100)), preprocessing_for(train, (0.3,), (0.4,)))


@pytest.fixture
def larger_data(data: Data) -> Data:
    """Of 16 x 16 pixels, which training may make smaller: no image gets less than 8."""

    def enlarged(images: ImageSet) -> ImageSet:
        return replace(images, images=images.images.repeat(2, axis=1).repeat(2, axis=2))

    train = enlarged(data.train)
    return Data("digits", train, enlarged(data.val), preprocessing_for(train, (0.3,), (0.4,)))


@pytest.fixture
def flat_data(data: Data) -> Data:
    """Validated on ten copies of one image, one of each class: the accuracy is always a tenth."""
    one = data.val.take([0] * 10)
    return replace(data, val=replace(one, labels=np.arange(10)))


@pytest.fixture
def colour_data() -> Data:
    """Images of 16 x 16 pixels whose class is their colour."""
    random = np.random.default_rng(0)
    labels = np.arange(96) % 3
    pixels = random.integers(0, 100, (96, 16, 16, 3), dtype=np.uint8)
    pixels[np.arange(96), :, :, labels] += 100
    train = ImageSet("colours", "train", pixels, labels, ("red", "green", "blue"), np.arange(96))
    val = train.take(range(30), split="val")
    return Data("colours", train, val, preprocessing_for(train, (0.3,) * 3, (0.2,) * 3))


@dataclass
class Watcher:
    """An observer that remembers everything, does ``at_epoch`` after an epoch, ``at_step`` after a step
    that is reported and ``at_validation`` before a validation."""

    at_epoch: Callable[[int], None] = lambda epoch: None
    at_step: Callable[[int, int], None] = lambda epoch, step: None
    at_validation: Callable[[int], None] = lambda epoch: None
    rows: list[EpochRow] = field(default_factory=list)
    best: list[bool] = field(default_factory=list)
    steps: list[tuple[int, int, int]] = field(default_factory=list)
    validations: list[int] = field(default_factory=list)
    stops: list[tuple[int, int, int]] = field(default_factory=list)

    def on_step(self, epoch: int, step: int, steps: int, images_per_second: float) -> None:
        self.steps.append((epoch, step, steps))
        self.at_step(epoch, step)

    def on_validation(self, epoch: int) -> None:
        self.validations.append(epoch)
        self.at_validation(epoch)

    def on_stop(self, epoch: int, step: int, steps: int) -> None:
        self.stops.append((epoch, step, steps))

    def on_epoch(self, row: EpochRow, best: bool) -> None:
        self.rows.append(row)
        self.best.append(best)
        self.at_epoch(row.epoch)


@pytest.fixture
def watcher() -> type[Watcher]:
    return Watcher


TIMES = ("images_per_second", "waiting_share", "epoch_seconds", "train_seconds")


@pytest.fixture
def without_times() -> Callable[[Sequence[EpochRow]], list[EpochRow]]:
    """Rows with everything that two equal trainings may differ in set to 0."""

    def stripped(rows: Sequence[EpochRow]) -> list[EpochRow]:
        return [replace(row, **dict.fromkeys(TIMES, 0.0)) for row in rows]

    return stripped


@pytest.fixture
def weights() -> Callable[[str | Path], dict[str, object]]:
    from cifarkit.checkpoint import read_story

    def read(path: str | Path) -> dict[str, object]:
        _, content = read_story(Path(path))
        state: dict[str, object] = content["state_dict"]
        return state

    return read
