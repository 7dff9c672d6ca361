"""Processes that are interrupted, and what they leave behind."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

PATIENCE_SECONDS = 120
COMPARED = ("train/loss", "train/acc", "val/loss", "val/acc", "lr")


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what would change cifarkit's defaults."""
    unwanted = ("CIFARKIT_", "MLFLOW_", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "COLUMNS", "LINES")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
    return kept | {"COLUMNS": "100", "OMP_NUM_THREADS": "1"} | more


@dataclass(frozen=True)
class Process:
    """A command at work; its output is in ``stdout`` and ``stderr`` of its folder."""

    number: int
    folder: Path
    _wait: Callable[[int], int]

    def wait(self) -> int:
        """Its return code; negative where a signal ended it."""
        return self._wait(self.number)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.number, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.wait() in (-signal.SIGKILL, 0)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the process does."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)

    def until_it_says(self, text: str) -> None:
        self.until(lambda: text in self.said)

    @property
    def said(self) -> str:
        return _text(self.folder / "stderr")

    @property
    def answer(self) -> str:
        return _text(self.folder / "stdout").strip().splitlines()[-1]


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@dataclass(frozen=True)
class Store:
    """The database and the artifacts of a folder, read without MLflow."""

    folder: Path

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        if not (self.folder / "mlflow.db").exists():
            return []
        connection = sqlite3.connect(self.folder / "mlflow.db", timeout=30)
        try:
            tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone()
            return connection.execute(query, values).fetchall() if tables else []
        finally:
            connection.close()

    @property
    def runs(self) -> dict[str, str]:
        """Status of each run by its id, in the order in which they began."""
        return dict(self.rows("SELECT run_uuid, status FROM runs ORDER BY start_time"))

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
        path = self.artifacts(run_id) / "checkpoints" / f"{name}.ckpt"
        state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
        return state


def assert_same_training(
    store: Store, run_id: str, reference: Store, reference_id: str, *, with_figures: bool = True
) -> None:
    """Bit for bit the same weights and metrics, nothing recorded twice, nothing missing."""
    for name in ("best", "last"):
        ours, theirs = store.weights(run_id, name), reference.weights(reference_id, name)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == [], name
    for key in COMPARED:
        assert store.history(run_id, key) == reference.history(reference_id, key), key
    assert store.runs[run_id] == "FINISHED"
    missing = reference.files(reference_id) - store.files(run_id)
    assert {name for name in missing if with_figures or name.startswith("checkpoints")} == set()
