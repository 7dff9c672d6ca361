from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tracking_harness import EXPERIMENT, FIT, Unreliable

from cifarkit import tracking
from cifarkit.tracking import RunRecorder, connect


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def client(uri: str) -> Any:
    return connect(uri)


@pytest.fixture
def recorder(uri: str) -> Iterator[RunRecorder]:
    made = RunRecorder(uri, EXPERIMENT)
    yield made
    with suppress(RuntimeError):  # closed by the test
        made.close("FAILED")


@pytest.fixture
def add_run(client: Any) -> Callable[..., str]:
    """A finished or unfinished run in the store; each starts after the one before."""
    clock = [1_000_000]

    def add(status: str = "FINISHED", acc: float | None = None, tags: dict[str, str] = FIT) -> str:
        clock[0] += 1000
        experiment = tracking.experiment_id(client, EXPERIMENT)
        run_id: str = client.create_run(experiment, start_time=clock[0], tags=tags).info.run_id
        if acc is not None:
            client.log_metric(run_id, "best_val_acc", acc)
        if status != "RUNNING":
            client.set_terminated(run_id, status)
        return run_id

    return add


@pytest.fixture
def away(client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The store takes no metrics and no files."""

    def fail(*arguments: object, **options: object) -> None:
        raise ConnectionError("away")

    with monkeypatch.context() as patched:
        patched.setattr(type(client), "log_batch", fail)
        patched.setattr(type(client), "log_artifact", fail)
        patched.setattr("cifarkit.tracking.recorder.RETRY_SECONDS", 0)
        yield patched


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Unreliable:
    return Unreliable(monkeypatch)
