"""What is in a store, read without MLflow."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


# Every file that a fit leaves in its run.
ARTIFACTS = {
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "model/MLmodel",
    "summary.txt",
    *(
        f"figures/{name}.png"
        for name in (
            "augmentation",
            "calibration",
            "confusion_matrix",
            "curves",
            "examples",
            "gradcam",
            "learning_rate",
            "misclassified",
            "per_class",
        )
    ),
    *(
        f"reports/{name}"
        for name in (
            "evaluation.json",
            "fit.json",
            "gradcam.json",
            "history.json",
            "misclassified.csv",
            "misclassified.json",
        )
    ),
}
EPOCH_METRICS = (
    "train/loss",
    "train/acc",
    "val/loss",
    "val/acc",
    "lr",
    "images_per_second",
    "epoch_seconds",
)


@dataclass(frozen=True)
class Store:
    """The database and the artifacts of a folder, as a bare ``cifarkit fit`` makes them."""

    folder: Path

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """The answer to a question about runs; nothing where there are none yet."""
        if not (self.folder / "mlflow.db").exists():
            return []
        connection = sqlite3.connect(self.folder / "mlflow.db", timeout=30)
        try:
            tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone()
            return connection.execute(query, values).fetchall() if tables else []
        finally:
            connection.close()

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def runs(self) -> dict[str, str]:
        """Status of each run by its id, in the order in which they began."""
        return dict(self.rows("SELECT run_uuid, status FROM runs ORDER BY start_time"))

    @property
    def statuses(self) -> list[str]:
        return list(self.runs.values())

    @property
    def run_ids(self) -> list[str]:
        return list(self.runs)

    def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """(step, value) of every record of a metric."""
        query = "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step, timestamp"
        return self.rows(query, run_id, key)

    def tag(self, run_id: str, key: str) -> str | None:
        found = self.rows("SELECT value FROM tags WHERE run_uuid = ? AND key = ?", run_id, key)
        return found[0][0] if found else None

    def artifacts(self, run_id: str) -> Path:
        ((place,),) = self.rows("SELECT artifact_uri FROM runs WHERE run_uuid = ?", run_id)
        return Path(place)

    def files(self, run_id: str) -> set[str]:
        root = self.artifacts(run_id)
        return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}

    def weights(self, run_id: str, name: str) -> dict[str, torch.Tensor]:
        import torch

        path = self.artifacts(run_id) / "checkpoints" / f"{name}.ckpt"
        state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
        return state
