from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from cli_harness import Outcome, Screen, Trained, is_picture, run_on_terminal, shell
from filelock import FileLock
from real_process import Start, environment
from run_store import Store

import cifarkit.cli
from cifarkit.tracking import store as store_module

Cli = Callable[..., Outcome]


def copy_whole(source: Path, target: Path) -> None:
    """As a copy under another name first: a command that fails early leaves without waiting for its store."""
    shutil.copy(source, target.with_suffix(".new")).replace(target)


@pytest.fixture
def cli(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_store: Path
) -> Iterator[Cli]:
    """Runs one command in this process, which spares the seconds that its imports take, on a copy of a store
    in the place of a new one.

    It works in ``tmp_path``, in a store of that folder unless another is passed.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store_module, "_create", lambda mlflow, database: copy_whole(empty_store, database))

    def run(*arguments: object, store: Store | None = None) -> Outcome:
        # The address is absolute because MLflow keeps one connection per address and process.
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (store or Store(tmp_path)).uri)
        capfd.readouterr()
        code = cifarkit.cli.run([str(argument) for argument in arguments])
        return Outcome(code, *capfd.readouterr())

    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def on_terminal(start: Start) -> Callable[..., Screen]:
    """Runs one command on a terminal; see `run_on_terminal`."""
    return partial(run_on_terminal, start)


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training takes less time than the figures after it, which are the business of other tests."""
    for user in ("fit", "repeats"):
        monkeypatch.setattr(f"cifarkit.sessions.{user}.report", lambda *arguments: None)


@pytest.fixture(scope="session")
def first_fit(shared_folder: Path) -> tuple[Path, Outcome]:
    """One real training and an explanation of it, composed in a shell; shared by all test processes.

    ``fit.out`` and ``fit.err`` in the folder are what the fit said.
    """
    folder, done = shared_folder / "first-fit", shared_folder / "first-fit.json"
    with FileLock(shared_folder / "first-fit.lock"):
        if not done.exists():
            folder.mkdir()
            script = (
                'cifarkit gradcam --limit 2 --run "$('
                'cifarkit fit --dataset digits --epochs 2 2>fit.err | tee fit.out)"'
            )
            outcome = shell(script, folder)
            done.write_text(json.dumps([outcome.code, outcome.out, outcome.err]))
    return folder, Outcome(*json.loads(done.read_text()))


@pytest.fixture(scope="session")
def _trained(first_fit: tuple[Path, Outcome]) -> Trained:
    folder, outcome = first_fit
    assert outcome.code == 0, (folder / "fit.err").read_text() + outcome.err
    return Trained(folder, (folder / "fit.out").read_text().strip())


@pytest.fixture(scope="module")
def trained(_trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A finished fit on digits that the tests of one file may add to."""
    return _trained.copy(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def own_trained(_trained: Trained, tmp_path: Path) -> Trained:
    """A finished fit on digits that one test may spoil."""
    return _trained.copy(tmp_path / "own")


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[Outcome], Path]:
    """From the outcome of a command to the figure its line names."""

    def find(outcome: Outcome) -> Path:
        path = tmp_path / outcome.succeeded().line
        assert is_picture(path)
        return path

    return find
