from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from real_process import Process, environment

from cifarkit.data.datasets import DATASETS
from cifarkit.data.image_set import ImageSet

FORK_SERVER = Path(__file__).with_name("fork_server.py")


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
def start(empty_store: Path) -> Iterator[Callable[..., Process]]:
    """Starts a cifarkit command in a process of its own.

    ``new_store``: in a folder without a store, have it make one, which takes seconds; else it finds one that
    holds nothing. ``figures``: whether a training ends with figures and a model, which take seconds.
    ``terminal``: device for its stdin and stderr.
    """
    with subprocess.Popen(
        [sys.executable, str(FORK_SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

        def ask(order: dict[str, Any]) -> int | None:
            print(json.dumps(order), file=server.stdin, flush=True)
            answer: int | None = json.loads(server.stdout.readline())
            return answer

        def begin(
            *arguments: object,
            folder: Path,
            new_store: bool = False,
            figures: bool = True,
            terminal: str | None = None,
            **variables: str,
        ) -> Process:
            if not new_store and not (folder / "mlflow.db").exists():
                shutil.copy(empty_store, folder / "mlflow.db")
            order = {
                "arguments": [str(argument) for argument in arguments],
                "folder": str(folder),
                "variables": variables,
                "terminal": terminal,
                "figures": figures,
            }
            number = ask(order)
            assert number is not None
            return Process(number, folder, ask)

        yield begin
        server.stdin.close()


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    return DATASETS["digits"].load(Path("unused"), "train")


@pytest.fixture(scope="session")
def unseen_digits() -> ImageSet:
    return DATASETS["digits"].load(Path("unused"), "test")
