"""Stores that cannot be used, names that cannot be given."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest
from tracking_harness import EXPERIMENT, FIT

from cifarkit import tracking
from cifarkit.errors import TrackingError, UsageError
from cifarkit.tracking import RunRecorder, connect, fetch_artifact
from cifarkit.tracking.store import check_name

# MLflow 3.17 on SQLAlchemy 2.1: both theirs, and raised on the recorder's thread.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def test_a_server_that_does_not_answer(closed_port: int) -> None:
    started = time.perf_counter()
    recorder = RunRecorder(f"http://127.0.0.1:{closed_port}", EXPERIMENT)
    with pytest.raises(TrackingError, match=rf"127\.0\.0\.1:{closed_port} does not answer.*mlflow server"):
        recorder.start(FIT)
    recorder.close("FAILED")
    assert time.perf_counter() - started < 15


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match="cannot be used") as error:
        connect(f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}")
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, " * 100)
    with pytest.raises(TrackingError, match="cannot be used"):
        connect(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_a_deleted_experiment(uri: str, client: Any) -> None:
    client.delete_experiment(tracking.experiment_id(client, EXPERIMENT))
    recorder = RunRecorder(uri, EXPERIMENT)
    with pytest.raises(TrackingError, match=f"the experiment '{EXPERIMENT}' is deleted"):
        recorder.start(FIT)
    recorder.close("FAILED")


def test_an_artifact_that_is_not_there(client: Any, add_run: Any, tmp_path: Path) -> None:
    run_id = add_run()
    with pytest.raises(TrackingError, match=f"run {run_id[:8]} holds no checkpoints/best.ckpt"):
        fetch_artifact(client, run_id, "checkpoints/best.ckpt", tmp_path)


@pytest.mark.parametrize("name", ["", "   "])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name)
    assert check_name("mine") == "mine"


@pytest.mark.parametrize(
    ("name", "folder"), [("curves.png", "figures"), ("fit.json", "reports"), ("misclassified.csv", "reports")]
)
def test_pictures_and_reports_have_their_places(name: str, folder: str) -> None:
    assert tracking.place(Path("anywhere") / name) == folder
