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
from cifarkit.checkpoint import FORMAT
from cifarkit.data.datasets import Dataset, find_dataset
from cifarkit.data.loading import Splits, default_data_dir, load_splits
from cifarkit.errors import OtherVersion, UsageError
from cifarkit.recipes import Plan, Recipe
from cifarkit.training.data import Data
from cifarkit.training.hardware import Hardware, choose_hardware

# Tags of a run: the fingerprints of its images.
FINGERPRINT, VAL_FINGERPRINT = "dataset.fingerprint", "dataset.val_fingerprint"


@dataclass(frozen=True)
class FitRequest:
    """What `fit` was asked to do; names are resolved, a new run's recipe has a batch that suits the data.

    Attributes:
        val_size: how many images to hold out of the training split.
        own_batch_size: whether the recipe's batch size has to be that one.
    """

    source: Dataset
    plan: Plan
    data_dir: Path
    val_size: int
    own_batch_size: bool
    gpus: int | None
    nodes: int
    experiment: str
    run_name: str | None
    tracking_uri: str | None

    def read(self) -> Splits:
        """The images; errors as of `load_splits`."""
        return load_splits(self.source, self.data_dir, self.val_size, self.plan.seed)

    def hardware(self) -> Hardware:
        """What it will run on; errors as of `choose_hardware`."""
        return choose_hardware(self.gpus, self.nodes, self.plan.recipe.precision)

    def record(self) -> dict[str, Any]:
        """What shapes the training, as names and numbers."""
        return record(self.source.name, self.source.image_shape[1], self.val_size, self.plan)

    def as_recorded(self, training: dict[str, Any]) -> FitRequest:
        """A request for the training that was recorded so."""
        return replace(
            self,
            source=find_dataset(training["dataset"], training["image_size"]),
            plan=Plan.from_settings(training["plan"]),
            val_size=training["val_size"],
            own_batch_size=True,
        )

    def named(self, suffix: str = "") -> FitRequest:
        """With a name for its run, where none is asked for."""
        name = f"{self.plan.recipe.name}-{Path(self.source.name).name}{suffix}"
        return replace(self, run_name=self.run_name or name)

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

    def on(self, hardware: Hardware) -> FitRequest:
        """With the plan as this hardware trains it: in its precision, with batches that all devices share.

        Raises:
            UsageError: they cannot share the batch that was asked for.
        """
        batch, devices = self.plan.recipe.batch_size, hardware.world_size
        if batch % devices:
            if self.own_batch_size:
                raise UsageError(
                    f"{devices} devices cannot share batches of {batch}: give another --gpus, or for a new "
                    "run another --batch-size"
                )
            batch = max(devices, batch // devices * devices)
        plan = self.plan.with_recipe(batch_size=batch, precision=hardware.precision)
        return replace(self, plan=plan)


def record(dataset: str, image_size: int, val_size: int, plan: Plan) -> dict[str, Any]:
    """What a run tells of its training, for `FitRequest.as_recorded`."""
    images = {"dataset": dataset, "image_size": image_size, "val_size": val_size}
    return {"format": FORMAT, **images, "plan": plan.settings()}


def recorded(run: Any) -> dict[str, Any]:
    """What a run tells of its training.

    Raises:
        OtherVersion: it was begun by another version.
    """
    training: dict[str, Any] = json.loads(run.data.tags[tracking.PLAN])
    if training.get("format") != FORMAT:
        raise OtherVersion(f"run {run.info.run_id[:8]} was begun by another version of cifarkit")
    return training


@dataclass(frozen=True)
class Job:
    """A training as it will be done.

    Attributes:
        request: with the plan as this hardware trains it (`FitRequest.on`).
    """

    request: FitRequest
    data: Data
    hardware: Hardware

    @property
    def plan(self) -> Plan:
        return self.request.plan

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe

    def with_plan(self, plan: Plan) -> Job:
        return replace(self, request=replace(self.request, plan=plan))

    def tags(self) -> dict[str, str]:
        """What its MLflow run is tagged with."""
        own = {
            tracking.KIND: "fit",
            tracking.PLAN: json.dumps(self.request.record()),
            "hardware": self.hardware.describe(),
            "dataset": self.data.name,
            "val_split": self.data.val.split,
            FINGERPRINT: self.data.train.fingerprint,
            VAL_FINGERPRINT: self.data.val.fingerprint,
        }
        return tracking.environment_tags() | own

    def params(self) -> dict[str, Any]:
        """What its MLflow run records as parameters."""
        data, hardware = self.data, self.hardware
        return self.plan.settings() | {
            "dataset": data.name,
            "device": hardware.device,
            "world_size": hardware.world_size,
            "val_split": data.val.split,
            "val_size": data.val_size,
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
