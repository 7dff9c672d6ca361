"""Recipes: named presets of everything a training needs, as data.

Every field is a name from another table, a number, or a value that prints itself; a recipe adds no code.
Its evidence states what was measured, on which hardware and by which command.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cifarkit.errors import UnknownName, UsageError
from cifarkit.optim.schedules import Linear, OneCycle, Schedule
from cifarkit.results import Evidence

PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class Recipe:
    """A complete training set-up.

    Attributes:
        model, policy, optimizer: names in MODELS, POLICIES, OPTIMIZERS.
        lr: peak learning rate, or None for the suggestion of a range test (``--lr auto``).
        weight_decay: as `cifarkit.optim.build_optimizer` takes it.
        schedule: the learning rate's course over the training.
        epochs: length of the training.
        batch_size: images per optimiser step, over all devices.
        label_smoothing: share of the target spread evenly over all classes.
        precision: ``fp32``, ``bf16``, or ``auto``: bf16 where the hardware computes it natively.
        image_scale: side of the images that the network sees as a share of their own side; the entries
            divide the training into equal parts. Validation follows, and a checkpoint keeps the side it
            was trained at.
        crop_from: scales of this and more are a window that training cuts out of the images; smaller ones,
            and validation, show whole images made smaller. 1 cuts nothing.
        keep_hardest: share of the training images that an epoch shows: those whose loss was highest when they
            were last seen. The entries divide the epochs into equal parts; the first is 1.
    """

    name: str
    description: str
    model: str
    policy: str
    optimizer: str
    lr: float | None
    weight_decay: float
    schedule: Schedule
    epochs: int
    batch_size: int
    label_smoothing: float = 0.0
    precision: str = "auto"
    image_scale: tuple[float, ...] = (1.0,)
    crop_from: float = 1.0
    keep_hardest: tuple[float, ...] = (1.0,)
    evidence: tuple[Evidence, ...] = ()

    def scale_at(self, epoch: float) -> float:
        """The image scale after so many, and parts of, epochs."""
        return _part(self.image_scale, epoch / self.epochs)

    def kept_in(self, epoch: int) -> float:
        """The share of the training images that an epoch, counted from 0, shows."""
        return _part(self.keep_hardest, epoch / self.epochs)

    def work(self, begin: float, end: float, *, side: int, validation: float = 0.0) -> float:
        """What it takes to train from one point to another, both counted in epochs; to show all images once
        at full size is 1.

        Args:
            side: of the images at full size, in pixels.
            validation: the work of a validation of them at that size; there is one after every epoch, of the
                size that training has come to.
        """

        def area(epoch: float) -> float:
            share = scaled_side(side, self.scale_at(epoch)) / side
            return share * share

        parts = len(self.image_scale)
        changes = [part * self.epochs / parts for part in range(parts)]
        whole = range(math.floor(begin) + 1, math.floor(end) + 1)
        within = [change for change in changes if begin < change < end]
        points: list[float] = sorted({begin, end, *whole, *within})
        trained = sum(
            self.kept_in(int(left)) * area(left) * (right - left) for left, right in pairwise(points)
        )
        # Changes lie at multiples of 1 / parts: none is so close before an epoch's end.
        return trained + validation * sum(area(epoch - 1 / (2 * parts)) for epoch in whole)

    def settings(self) -> dict[str, Any]:
        """The resolved settings as a flat dict of names and numbers; what a run records."""
        flat: dict[str, Any] = {"recipe": self.name}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("name", "description", "evidence"):
                continue
            if field.name == "schedule":
                flat["schedule"] = type(value).__name__
                flat |= {f"schedule.{key}": item for key, item in dataclasses.asdict(value).items()}
            else:
                flat[field.name] = list(value) if isinstance(value, tuple) else value
        return flat

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Recipe:
        """The inverse of `settings`, for resuming a run."""
        flat = dict(settings)
        schedule_type = {"OneCycle": OneCycle, "Linear": Linear}[flat.pop("schedule")]
        arguments = {key: flat.pop(key) for key in list(flat) if key.startswith("schedule.")}
        schedule = schedule_type(**{key.removeprefix("schedule."): item for key, item in arguments.items()})
        for name in ("image_scale", "keep_hardest"):
            flat[name] = tuple(flat[name])
        return cls(name=flat.pop("recipe"), description="", schedule=schedule, **flat)

    def override(self, **changes: Any) -> Recipe:
        """A copy with the given fields replaced; values of None leave the field as it is.

        Raises:
            UsageError: a value that no training can use.
        """
        recipe = dataclasses.replace(self, **{k: v for k, v in changes.items() if v is not None})
        if recipe.epochs < 1:
            raise UsageError(f"epochs must be at least 1, not {recipe.epochs}")
        if recipe.batch_size < 1:
            raise UsageError(f"batch size must be at least 1, not {recipe.batch_size}")
        if recipe.lr is not None and not 0 < recipe.lr < float("inf"):
            raise UsageError(f"the learning rate must be a positive number, not {recipe.lr}")
        if recipe.precision not in PRECISIONS:
            raise UnknownName("precision", recipe.precision, PRECISIONS)
        return recipe

    def measured(self, dataset: str, target: float) -> Evidence | None:
        """The shortest measured training on this data set that promises a target accuracy. Where none does,
        the one that came closest; None where nothing was measured."""
        known = [evidence for evidence in self.evidence if evidence.dataset == dataset]
        enough = [each for each in known if each.promises(target)]
        if enough:
            return min(enough, key=lambda each: each.epochs)
        return max(known, key=lambda each: each.accuracy_mean, default=None)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="fast",
            description="the speed records' method, lean enough for a CPU: whitening net, Muon, "
            "growing images",
            model="speednet-slim",
            policy="fast",
            optimizer="muon",
            lr=0.15,
            weight_decay=1e-3,
            schedule=Linear(),
            epochs=7,
            batch_size=500,
            label_smoothing=0.2,
            image_scale=(0.5, 0.5, 0.5, 0.625, 0.75, 0.875, 1.0),
            keep_hardest=(1.0, 1.0, 0.7, 0.7, 0.7, 0.7, 0.7),
            evidence=(
                Evidence(
                    dataset="cifar10",
                    accuracy_mean=0.9028,
                    accuracy_std=0.0025,
                    runs=5,
                    epochs=7,
                    train_seconds=141,
                    hardware="AMD EPYC with AVX512-BF16, 2 cores, bf16",
                    command="cifarkit fit --epochs 7 --runs 5 --seed 71",
                ),
                Evidence(
                    dataset="cifar10",
                    accuracy_mean=0.8831,
                    accuracy_std=0.0011,
                    runs=2,
                    epochs=4,
                    train_seconds=181,
                    hardware="AMD EPYC without bf16, 2 cores, fp32, shared with other work",
                    command="cifarkit fit --epochs 4 --runs 2 --seed 51",
                ),
                Evidence(
                    dataset="cifar10",
                    accuracy_mean=0.8893,
                    accuracy_std=0.0006,
                    runs=2,
                    epochs=5,
                    train_seconds=246,
                    hardware="AMD EPYC without bf16, 2 cores, fp32, shared with other work",
                    command="cifarkit fit --epochs 5 --runs 2 --seed 51",
                ),
                Evidence(
                    dataset="cifar10",
                    accuracy_mean=0.9126,
                    accuracy_std=0.001,
                    runs=2,
                    epochs=10,
                    train_seconds=594,
                    hardware="AMD EPYC without bf16, 2 cores, fp32, shared with other work",
                    command="cifarkit fit --epochs 10 --runs 2 --seed 51",
                ),
                Evidence(
                    dataset="cifar10",
                    accuracy_mean=0.9214,
                    accuracy_std=0.0009,
                    runs=2,
                    epochs=16,
                    train_seconds=1168,
                    hardware="AMD EPYC without bf16, 2 cores, fp32, shared with other work",
                    command="cifarkit fit --epochs 16 --seed 51 and 52",
                ),
            ),
        ),
        Recipe(
            name="accurate",
            description="as fast, with the records' full width, and windows of the larger images",
            model="speednet",
            policy="fast",
            optimizer="muon",
            lr=0.18,
            weight_decay=2e-3,
            schedule=Linear(),
            epochs=12,
            batch_size=1000,
            label_smoothing=0.2,
            image_scale=(0.5, 0.5, 0.625, 0.75, 0.75, 0.875, 0.875, 1.0, 1.0, 1.0),
            crop_from=0.75,
            keep_hardest=(1.0, 1.0, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7),
            evidence=(
                Evidence(
                    dataset="cifar10",
                    accuracy_mean=0.9387,
                    accuracy_std=0.0016,
                    runs=2,
                    epochs=12,
                    train_seconds=680,
                    hardware="AMD EPYC with AVX512-BF16, 2 cores, bf16",
                    command="cifarkit fit --recipe accurate --runs 2 --seed 95",
                ),
            ),
        ),
        Recipe(
            name="airbench94",
            description="after the 94% record, with two epochs of smaller images first; made for a GPU",
            model="speednet",
            policy="fast",
            optimizer="muon",
            lr=0.24,
            weight_decay=4e-3,
            schedule=Linear(),
            epochs=9,
            batch_size=2000,
            label_smoothing=0.2,
            image_scale=(0.75, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
            keep_hardest=(1.0, 1.0, 1.0, 0.85, 0.85, 0.85, 0.85, 0.85, 0.85),
            evidence=(
                Evidence(
                    dataset="cifar10",
                    accuracy_mean=0.9406,
                    accuracy_std=0.0014,
                    runs=30,
                    epochs=9,
                    train_seconds=1.53,
                    hardware="NVIDIA H100 80GB HBM3, bf16",
                    command="cifarkit fit --recipe airbench94 --runs 30 --seed 500",
                    device="cuda",
                ),
            ),
        ),
        Recipe(
            name="airbench96",
            description="the 96% record's network and augmentation, trained as airbench94; made for a GPU",
            model="speednet-deep",
            policy="airbench96",
            optimizer="muon",
            lr=0.17,
            weight_decay=2e-3,
            schedule=Linear(),
            epochs=36,
            batch_size=1024,
            label_smoothing=0.2,
            keep_hardest=(1.0, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6),
            evidence=(
                Evidence(
                    dataset="cifar10",
                    accuracy_mean=0.9552,
                    accuracy_std=0.0010,
                    runs=2,
                    epochs=36,
                    train_seconds=14.3,
                    hardware="NVIDIA H100 80GB HBM3, bf16",
                    command="cifarkit fit --recipe airbench96 --seed 2000 and 2001",
                    device="cuda",
                ),
            ),
        ),
        Recipe(
            name="onecycle",
            description="the course project's: custom ResNet, Adam, range test, One Cycle",
            model="custom-resnet",
            policy="original-cifar10",
            optimizer="adam",
            lr=None,
            weight_decay=1e-2,
            schedule=OneCycle(rise=5 / 24),
            epochs=24,
            batch_size=512,
            evidence=(
                Evidence(
                    dataset="cifar10",
                    accuracy_mean=0.7305,
                    accuracy_std=0.0,
                    runs=1,
                    epochs=3,
                    train_seconds=4303,
                    hardware="AMD EPYC without bf16, 2 cores, fp32, shared with other work",
                    command="cifarkit fit --recipe onecycle --epochs 3 --lr 0.000327 --seed 1",
                ),
                Evidence(
                    dataset="cifar10",
                    accuracy_mean=0.9294,
                    accuracy_std=0.0,
                    runs=1,
                    epochs=24,
                    train_seconds=8390,
                    hardware="AMD EPYC with AVX512-BF16, 2 cores, bf16",
                    command="cifarkit fit --recipe onecycle --lr 0.00107 --seed 111",
                ),
            ),
        ),
        Recipe(
            name="mnist",
            description="small network for 28 x 28 grey images, mild rotation and perspective",
            model="small-cnn",
            policy="original-mnist",
            optimizer="adamw",
            lr=4e-3,
            weight_decay=1e-2,
            schedule=OneCycle(rise=0.3, div_factor=10.0),
            epochs=3,
            batch_size=256,
            evidence=(
                Evidence(
                    dataset="mnist",
                    accuracy_mean=0.9951,
                    accuracy_std=0.0,
                    runs=1,
                    epochs=3,
                    train_seconds=376,
                    hardware="AMD EPYC without bf16, 2 cores, fp32",
                    command="cifarkit fit --dataset mnist --seed 1",
                ),
            ),
        ),
        Recipe(
            name="digits",
            description="the embedded 8 x 8 digits in seconds",
            model="small-cnn",
            policy="shift",
            optimizer="adamw",
            lr=6e-3,
            weight_decay=1e-2,
            schedule=OneCycle(rise=0.3, div_factor=10.0),
            epochs=15,
            batch_size=64,
            precision="fp32",
            evidence=(
                Evidence(
                    dataset="digits",
                    accuracy_mean=0.9972,
                    accuracy_std=0.0,
                    runs=1,
                    epochs=15,
                    train_seconds=18,
                    hardware="AMD EPYC without bf16, 2 cores, fp32",
                    command="cifarkit fit --dataset digits",
                ),
            ),
        ),
        Recipe(
            name="folder",
            description="a sensible start for a folder of images",
            model="speednet-slim",
            policy="fast",
            optimizer="muon",
            lr=0.12,
            weight_decay=1e-3,
            schedule=Linear(warmup=0.1),
            epochs=16,
            batch_size=128,
            label_smoothing=0.1,
        ),
    )
}


def recipe_for(target: float, dataset: str, default: str, device: str = "cpu") -> str:
    """The default recipe where it promises a target accuracy on this data set; else, of those measured on
    this kind of device, ``cpu`` or ``cuda``, the quickest to reach it, or the one that came closest."""
    measured = {name: evidence for name in RECIPES if (evidence := RECIPES[name].measured(dataset, target))}
    if default in measured and measured[default].promises(target):
        return default
    here = {name: each for name, each in measured.items() if each.device == device}
    enough = [name for name, each in here.items() if each.accuracy_mean >= target]
    if enough:
        return min(enough, key=lambda name: here[name].expected_seconds(target))
    return max(here, key=lambda name: here[name].accuracy_mean, default=default)


def _part(parts: Sequence[float], done: float) -> float:
    """The one of equal parts that a training is in, of which a share ``done`` is behind it."""
    # Rounded, so that an epoch that begins a part is not put before it by the last bit of a quotient.
    return parts[min(int(round(done * len(parts), 6)), len(parts) - 1)]


def scaled_side(side: int, share: float) -> int:
    """A share of an image side in whole pixels: at least 8, or the side itself where that is smaller."""
    return min(side, max(8, round(side * share)))


def find_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        UnknownName: not in `RECIPES`.
    """
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    return RECIPES[name]
