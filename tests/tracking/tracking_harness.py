"""What the tests of recording record, and where."""

from __future__ import annotations

from typing import Any

from cifarkit import tracking
from cifarkit.results import EpochRow
from cifarkit.tracking import processes

EXPERIMENT = "trial"
FIT = {tracking.KIND: "fit"}
HERE = processes._here()


def row(epoch: int, **changes: Any) -> EpochRow:
    numbers: dict[str, Any] = {
        "train_loss": 2.0 / epoch, "train_acc": 0.2 * epoch, "val_loss": 2.2 / epoch, "val_acc": 0.25 * epoch,
        "lr": 0.1 / epoch, "images_per_second": 100.0, "waiting_share": 0.1,
        "epoch_seconds": 2.0, "train_seconds": 2.0 * epoch,
    }  # fmt: skip
    return EpochRow(epoch=epoch, val_split="test", image_side=32, **(numbers | changes))


def runs_in(client: Any) -> list[Any]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments))
