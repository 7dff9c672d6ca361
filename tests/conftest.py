from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cifarkit.data.datasets import DATASETS
from cifarkit.data.image_set import ImageSet


@pytest.fixture(autouse=True, scope="session")
def one_thread_for_small_tensors() -> Iterator[None]:
    """Small tensors are slower on several threads; tests that never load torch are not made to."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all test processes."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="session")
def empty_store(shared_folder: Path) -> Path:
    """An MLflow database with all its tables, which take seconds to create."""
    from cifarkit.tracking import connect

    database = shared_folder / "empty-store" / "mlflow.db"
    database.parent.mkdir(exist_ok=True)
    connect(f"sqlite:///{database}")
    return database


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    return DATASETS["digits"].load(Path("unused"), "train")


@pytest.fixture(scope="session")
def unseen_digits() -> ImageSet:
    return DATASETS["digits"].load(Path("unused"), "test")
