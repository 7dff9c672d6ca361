from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_process import Start

from cifarkit.data.datasets import DATASETS
from cifarkit.data.image_set import ImageSet

# As in `cifarkit.__main__`: a search through all that torch and MLflow have made finds nothing.
gc.set_threshold(*gc.get_threshold()[:2], 1000)


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


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], ...]]:
    """Lets `Replayed` work without a GPU: its records run the work anew and put the results where the first
    were. Gets the shapes of what has been recorded."""
    import torch

    from cifarkit import replay

    shapes: list[tuple[tuple[int, ...], ...]] = []

    def record(work: replay.Work, inputs: tuple[torch.Tensor, ...]) -> replay.Work:
        shapes.append(tuple(tuple(each.shape) for each in inputs))
        places: list[tuple[Any, ...]] = []

        def again(*inputs: torch.Tensor) -> tuple[Any, ...]:
            results = work(*inputs)
            if not places:
                places.append(results)
            for place, value in zip(places[0], results, strict=True):
                if place is not None:
                    place.detach().copy_(value)
            return places[0]

        return again

    monkeypatch.setattr(replay, "record", record)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    return shapes


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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``noload`` loader")  # MLflow's
        connect(f"sqlite:///{database}")
    return database


@pytest.fixture(scope="session")
def start(empty_store: Path) -> Iterator[Start]:
    """Starts a cifarkit command in a process of its own."""
    with Start(empty_store) as start:
        yield start


@pytest.fixture(autouse=True)
def nothing_goes_on(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "start" in request.fixturenames:
        request.getfixturevalue("start").end_all()


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    return DATASETS["digits"].load(Path("unused"), "train")


@pytest.fixture(scope="session")
def unseen_digits() -> ImageSet:
    return DATASETS["digits"].load(Path("unused"), "test")
