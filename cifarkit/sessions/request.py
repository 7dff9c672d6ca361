"""What `fit` was asked to do, and what that comes down to on this machine."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cifarkit import tracking
from cifarkit.data.datasets import Dataset, find_dataset
from cifarkit.data.loading import Splits, default_data_dir, load_splits
from cifarkit.errors import UsageError
from cifarkit.recipes import Recipe
from cifarkit.training.data import Data
from cifarkit.training.hardware import Hardware, choose_hardware

# Tags of a run: the fingerprints of its images.
FINGERPRINT, VAL_FINGERPRINT = "dataset.fingerprint", "dataset.val_fingerprint"
# What shapes a training beside its data set and its recipe.
SHAPING = ("seed", "target_acc", "max_epochs", "val_size", "workers", "deterministic", "compile")


@dataclass(frozen=True)
class FitRequest:
    """What `fit` was asked to do; names are resolved, a new run's recipe has a batch that suits the data."""

    source: Dataset
    recipe: Recipe
    data_dir: Path
    seed: int
    target_acc: float | None
    max_epochs: int | None
    own_batch_size: bool
    gpus: int | None
    nodes: int
    workers: int | None
    val_size: int
    deterministic: bool
    compile: bool
    experiment: str
    run_name: str | None
    tracking_uri: str | None

    def read(self) -> Splits:
        """The images; errors as of `load_splits`."""
        return load_splits(self.source, self.data_dir, self.val_size, self.seed)

    def hardware(self) -> Hardware:
        """What it will run on; errors as of `choose_hardware`."""
        return choose_hardware(self.gpus, self.nodes, self.recipe.precision)

    def shaping(self) -> dict[str, Any]:
        """What shapes the training, as arguments of `training.fit.fit`; the data hold the images out."""
        return {name: getattr(self, name) for name in SHAPING if name != "val_size"}

    def with_plan(self, plan: dict[str, Any]) -> FitRequest:
        """A request for the training that a plan describes; the inverse of `Job.plan`."""
        return replace(
            self,
            source=find_dataset(plan["dataset"], plan["image_size"]),
            recipe=Recipe.from_settings(plan["settings"]),
            own_batch_size=True,
            **{name: plan[name] for name in SHAPING},
        )

    def resuming(self, run_id: str) -> str:
        """The command that goes on with a run, for the same shell and folder."""
        program = Path(sys.argv[0])
        own = program.suffix == ".py" and program.name != "__main__.py"  # it may add to the tables
        words = [*(["python", str(program)] if own else ["cifarkit"]), "fit", "--resume", run_id]
        if self.tracking_uri and self.tracking_uri != os.environ.get("MLFLOW_TRACKING_URI"):
            words += ["--tracking-uri", self.tracking_uri]
        if self.data_dir != default_data_dir():
            words += ["--data-dir", str(self.data_dir)]
        if self.gpus is not None:
            words += ["--gpus", str(self.gpus)]
        return shlex.join(words)

    def shared_recipe(self, hardware: Hardware) -> Recipe:
        """The recipe with a batch that the devices can share.

        Raises:
            UsageError: they cannot share the batch that was asked for.
        """
        batch, devices = self.recipe.batch_size, hardware.world_size
        if not self.own_batch_size:
            return replace(self.recipe, batch_size=max(devices, batch // devices * devices))
        if batch % devices:
            raise UsageError(
                f"{devices} devices cannot share batches of {batch}: give another --gpus, or for a new run "
                "another --batch-size"
            )
        return self.recipe


@dataclass(frozen=True)
class Job:
    """A training as it will be done.

    Attributes:
        recipe: as these devices train it (`FitRequest.shared_recipe`).
    """

    request: FitRequest
    recipe: Recipe
    data: Data
    hardware: Hardware

    def plan(self) -> dict[str, Any]:
        """What shapes the training, as names and numbers."""
        return {
            "dataset": self.request.source.name,
            "image_size": self.request.source.image_shape[1],
            "settings": self.recipe.settings() | {"precision": self.hardware.precision},
            **{name: getattr(self.request, name) for name in SHAPING},
        }

    def tags(self) -> dict[str, str]:
        """What its MLflow run is tagged with."""
        own = {
            tracking.KIND: "fit",
            tracking.PLAN: json.dumps(self.plan()),
            "hardware": self.hardware.describe(),
            "dataset": self.data.name,
            "val_split": self.data.val.split,
            FINGERPRINT: self.data.train.fingerprint,
            VAL_FINGERPRINT: self.data.val.fingerprint,
        }
        return tracking.environment_tags() | own

    def params(self) -> dict[str, Any]:
        """What its MLflow run records as parameters."""
        request, data, hardware = self.request, self.data, self.hardware
        return self.recipe.settings() | {
            "dataset": data.name,
            "seed": request.seed,
            "precision": hardware.precision,
            "device": hardware.device,
            "world_size": hardware.world_size,
            "target_acc": request.target_acc,
            "max_epochs": request.max_epochs,
            "val_split": data.val.split,
            "val_size": request.val_size,
            "workers": request.workers,
            "deterministic": request.deterministic,
            "compile": request.compile,
            "train_images": len(data.train),
            "val_images": len(data.val),
            "image_size": data.image_size,
        }

    def describe(self) -> str:
        """What it works on, in one line."""
        train, val = self.data.train, self.data.val
        split = "test split" if val.split == "test" else "training split, held out"
        stride = self.recipe.val_stride(len(val))
        early = f" ({len(val) // stride:,} of them before the last epoch)" if stride > 1 else ""
        return (
            f"training on {len(train):,} images in batches of {self.recipe.batch_size}, "
            f"validating on {len(val):,} of the {split}{early}"
        )
