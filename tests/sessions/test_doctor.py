from __future__ import annotations

import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cifarkit.data.datasets import DATASETS
from cifarkit.data.loading import load_splits
from cifarkit.recipes import RECIPES
from cifarkit.results import Finding
from cifarkit.sessions import doctor
from cifarkit.tracking import Journal, processes
from cifarkit.tracking.journal import run_folder
from cifarkit.training.data import Data

# MLflow 3.17 on SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(scope="module")
def data() -> Data:
    return Data.of(DATASETS["digits"], load_splits(DATASETS["digits"], Path("unused")))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, whose store is the one that is asked about."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def said(findings: Iterator[Finding]) -> dict[str, tuple[str, str, str | None]]:
    return {each.check: (each.status, each.detail, each.remedy) for each in findings}


# -- packages and device --------------------------------------------------------------------------


def test_packages_of_another_version_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(name: str) -> str:
        if name == "nosuch":
            raise PackageNotFoundError(name)
        return version(name)

    wanted = ["numpy>=999", "nosuch", "torch", "windows-only; sys_platform == 'win32'"]
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    monkeypatch.setattr(doctor, "version", installed)
    status, detail, remedy = said(doctor.packages())["packages"]
    assert status == "fail"
    assert detail == f"numpy {np.__version__} is not >=999; nosuch is missing"
    assert "make install" in remedy


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    findings = said(doctor.device(1))
    assert list(findings) == ["device"]
    assert findings["device"][0] == "fail"


@pytest.mark.parametrize(("threads", "status"), [(1, "warn"), (4, "ok"), (9, "warn")])
def test_threads_are_as_many_as_cores(threads: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found, _, remedy = said(doctor.device(0))["threads"]
    assert found == status
    assert remedy == (None if status == "ok" else "set OMP_NUM_THREADS=4")


@pytest.mark.parametrize("native", [True, False])
def test_precision_is_no_fault(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "has_native_bf16", lambda device: native)
    status, detail, _ = said(doctor.device(0))["precision"]
    assert status == "ok"
    assert ("fp32" in detail) != native


# -- augmentation and loader ----------------------------------------------------------------------


def test_draws_that_repeat(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    once = torch.rand(doctor.DRAWN, 4, dtype=torch.float64)
    monkeypatch.setattr(doctor, "uniforms", lambda seed, epoch, indices, count: once)
    status, detail, _ = said(doctor.augmentation(RECIPES["digits"], data))["draws"]
    assert status == "fail"
    assert f"{3 * doctor.DRAWN} repeated draws; epochs correlate" in detail


def test_draws_that_hang_together(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    def related(seed: int, epoch: int, indices: torch.Tensor, count: int) -> torch.Tensor:
        draws = torch.rand(len(indices), count, generator=torch.Generator().manual_seed(epoch))
        draws[:, 1] = 0.8 * draws[:, 1] + 0.2 * draws[:, 0]
        return draws

    monkeypatch.setattr(doctor, "uniforms", related)
    status, detail, _ = said(doctor.augmentation(RECIPES["digits"], data))["draws"]
    assert status == "fail"
    assert "columns correlate" in detail


def test_an_augmentation_with_a_memory(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    class Remembers(doctor.PerImage):
        calls = 0

        def __call__(self, image: np.ndarray, index: int, epoch: int) -> np.ndarray:
            Remembers.calls += 1
            return super().__call__(image, index, epoch) + Remembers.calls

    monkeypatch.setattr(doctor, "PerImage", Remembers)
    status, detail, _ = said(doctor.augmentation(RECIPES["digits"], data))["augmentation"]
    assert status == "fail"
    assert "depend on those before" in detail


@pytest.mark.parametrize(("prepared", "status"), [(10_000.0, "ok"), (1000.0, "warn")])
def test_a_loader_that_takes_long(
    prepared: float, status: str, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = SimpleNamespace
    monkeypatch.setattr(doctor.bench, "measure_augmentation", lambda *arguments: [row(value=prepared)])
    monkeypatch.setattr(doctor.bench, "measure_steps", lambda *arguments: [row(value=1000.0)])
    found, detail, _ = said(doctor.loader(RECIPES["digits"], data, 0))["loader"]
    assert found == status
    assert f"{100 * 1000 / (1000 + prepared):.0f}% of the time would" in detail


# -- tracking -------------------------------------------------------------------------------------


def test_a_store_that_is_not_there_yet(place: Path) -> None:
    findings = said(doctor.store("sqlite:///mlflow.db"))
    assert findings == {"tracking": ("ok", "sqlite:///mlflow.db will be made by the first run", None)}
    assert list(place.iterdir()) == []


def test_a_folder_in_which_no_store_can_be_made(place: Path) -> None:
    status, detail, _ = said(doctor.store(f"sqlite:///{place}/nosuch/mlflow.db"))["tracking"]
    assert (status, detail) == ("fail", f"{place}/nosuch cannot be written")


def test_a_store_in_use(place: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOCK_SECONDS", 0.1)
    database = shutil.copy(empty_store, place)
    assert said(doctor.store(None))["tracking"][0] == "ok"
    with closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, detail, remedy = said(doctor.store(None))["tracking"]
    assert (status, remedy) == ("warn", "ask again later")
    assert "another process is writing" in detail


def test_files_that_are_no_store(place: Path) -> None:
    (place / "mlflow.db").write_text("this is no database, " * 100)
    status, _, remedy = said(doctor.store(None))["tracking"]
    assert status == "fail"
    assert remedy.startswith("move it away")


def test_artifacts_that_are_a_file(place: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, place)
    (place / "mlruns").write_text("")
    assert said(doctor.store(None))["tracking"] == ("fail", f"{place}/mlruns is not a folder", "move it away")


def test_a_server_that_is_not_there(place: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    status, detail, remedy = said(doctor.store(f"http://127.0.0.1:{port}"))["tracking"]
    assert status == "fail"
    assert "does not answer" in detail
    assert remedy == "start the server, or leave --tracking-uri out"


def test_runs_that_are_not_fully_recorded(place: Path) -> None:
    run_id = "0123456789abcdef" * 2
    Journal(run_folder(run_id)).open(run_id, "sqlite:///mlflow.db", f"{processes._here()}/1@0")
    findings = said(doctor.store(None))
    assert findings["tracking"][0] == "ok"
    assert findings["unsent"] == ("warn", "1 run not fully recorded", "cifarkit runs sync")


# -- disk -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("free", "status"), [(5e7, "fail"), (5e8, "warn"), (5e9, "ok")])
def test_room_on_the_disk(free: float, status: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda where: SimpleNamespace(free=free))
    findings = said(doctor.disk(None))
    assert findings.keys() == {"disk", "temporary files"}
    assert {found[0] for found in findings.values()} == {status}


def test_a_store_on_another_disk_needs_room_too(place: Path) -> None:
    (place / "store").mkdir()
    findings = said(doctor.disk(f"sqlite:///{place}/store/mlflow.db"))
    assert findings["disk of the store"][1].endswith(f"{place}/store")
    assert "disk of the store" not in said(doctor.disk(f"sqlite:///{place}/nosuch/mlflow.db"))
