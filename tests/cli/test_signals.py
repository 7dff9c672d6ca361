"""Ctrl-C, SIGTERM, and going on afterwards."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from cli_harness import ARTIFACTS, EPOCH_METRICS, Outcome, Store, Trained, artifact_names, history, run_until

pytestmark = pytest.mark.filterwarnings("default")

Cli = Callable[..., Outcome]
EPOCHS = 7


def after_epoch(number: int) -> Callable[[str], bool]:
    return lambda line: line.split()[:1] == [str(number)]


def says(text: str) -> Callable[[str], bool]:
    return lambda line: text in line


def fit_until(folder: Path, found: Callable[[str], bool], number: signal.Signals, epochs: int) -> Outcome:
    (folder / "scratch").mkdir()
    arguments = ["fit", "--dataset", "digits", "--epochs", str(epochs)]
    outcome = run_until(arguments, folder, found, number, TMPDIR=str(folder / "scratch"))
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert list((folder / "scratch").glob("cifarkit*")) == []
    return outcome


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Outcome]:
    """A training that Ctrl-C stopped after its second epoch."""
    folder = tmp_path_factory.mktemp("interrupted")
    return Store(folder), fit_until(folder, after_epoch(2), signal.SIGINT, EPOCHS)


def test_ctrl_c_ends_the_training_with_a_true_status(interrupted: tuple[Store, Outcome]) -> None:
    store, outcome = interrupted
    outcome.failed(130, "interrupted")
    assert f"cifarkit fit --resume {store.run_ids[0][:8]}" in outcome.err
    # The resuming test, which may have run before, does not undo this but adds to it.
    assert store.statuses in (["KILLED"], ["FINISHED"])


def test_sigterm_ends_the_training_with_a_true_status(tmp_path: Path) -> None:
    outcome = fit_until(tmp_path, after_epoch(1), signal.SIGTERM, EPOCHS)
    outcome.failed(143, "terminated")
    assert Store(tmp_path).statuses == ["KILLED"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_libraries_load(number: signal.Signals, code: int, tmp_path: Path) -> None:
    fit_until(tmp_path, says("loading torch"), number, 1).failed(code)
    assert Store(tmp_path).statuses == []


def test_ctrl_c_after_the_last_epoch(tmp_path: Path) -> None:
    fit_until(tmp_path, says("drawing the figures"), signal.SIGINT, 1).failed(130, "interrupted")
    assert Store(tmp_path).statuses == ["KILLED"]


def test_resume_last_finishes_the_same_run(cli: Cli, interrupted: tuple[Store, Outcome]) -> None:
    store, _ = interrupted
    (run_id,) = store.run_ids
    outcome = cli("fit", "--resume", "last", store=store).succeeded()
    assert outcome.line == run_id
    assert store.statuses == ["FINISHED"]
    assert store.run_ids == [run_id]
    client: Any = mlflow.MlflowClient(store.uri)
    for key in EPOCH_METRICS:
        assert [step for step, _ in history(client, run_id, key)] == list(range(1, EPOCHS + 1)), key
    assert ARTIFACTS - artifact_names(client, run_id) == set()
    accuracies = [value for _, value in history(client, run_id, "val/acc")]
    assert client.get_run(run_id).data.metrics["best_val_acc"] == max(accuracies)
    scores = cli("eval", "--run", run_id, "--json", store=store).succeeded().data
    assert scores["top1"] == pytest.approx(max(accuracies))
    cli("fit", "--resume", run_id[:8], store=store).failed(2, "finished", f"{EPOCHS} of {EPOCHS} epochs")
    assert store.statuses == ["FINISHED"]


def test_resume_by_id_gives_the_uninterrupted_result(cli: Cli, tmp_path: Path) -> None:
    whole = cli("fit", "--dataset", "digits", "--epochs", "2", "--json").succeeded().data["rows"]
    run_id = cli("fit", "--dataset", "digits", "--epochs", "2", "--target-acc", "0.3").succeeded().line
    again = cli("fit", "--resume", run_id, "--target-acc", "1", "--json")
    again.failed(3)
    exact = ("epoch", "train_loss", "train_acc", "val_loss", "val_acc", "lr")
    assert again.data["run_id"] == run_id
    assert [{key: row[key] for key in exact} for row in again.data["rows"]] == [
        {key: row[key] for key in exact} for row in whole
    ]
    assert Store(tmp_path).statuses == ["FINISHED"] * 2


def test_a_finished_run_is_not_resumed(cli: Cli, trained: Trained) -> None:
    cli("fit", "--resume", trained.run_id, store=trained).failed(2, "finished", "2 of 2 epochs")
    cli("fit", "--resume", "last", store=trained).failed(1, "finished")
    assert trained.statuses == ["FINISHED"]


@pytest.mark.parametrize(
    ("flag", "value"), [("--epochs", "9"), ("--lr", "0.1"), ("--dataset", "digits"), ("--seed", "1")]
)
def test_a_resumed_run_keeps_what_shapes_it(flag: str, value: str, cli: Cli, trained: Trained) -> None:
    cli("fit", "--resume", trained.run_id, flag, value, store=trained).failed(2, flag, "resumed")


def test_resuming_what_is_not_there(cli: Cli, trained: Trained) -> None:
    cli("fit", "--resume", "nosuchrun", store=trained).failed(1, "nosuchrun", trained.run_id[:8])
