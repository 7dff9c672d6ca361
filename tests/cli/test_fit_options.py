"""Every way to ask `fit` for something, and the record that it was done."""

from __future__ import annotations

import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from cli_harness import COLOURS, Outcome, artifact_names, colour_folder, history, is_picture
from run_store import Store
from torch import Tensor, nn

from cifarkit import results
from cifarkit.cli.choices import resolve
from cifarkit.cli.fit import plan
from cifarkit.console import Terminal
from cifarkit.data.datasets import DATASETS
from cifarkit.data.digits import DigitsSource
from cifarkit.data.image_set import ImageSet
from cifarkit.models import MODELS, Model
from cifarkit.recipes import RECIPES
from cifarkit.recipes.recipe import PRECISIONS

pytestmark = pytest.mark.filterwarnings("default")

Cli = Callable[..., Outcome]
FIT = ("fit", "--dataset", "digits")


@pytest.mark.usefixtures("without_figures")
def test_target_reached_ends_the_training(cli: Cli, tmp_path: Path) -> None:
    outcome = cli(*FIT, "--epochs", "8", "--target-acc", "0.5", "--json").succeeded()
    result = outcome.validated(results.FitResult)
    assert result["target_reached"] is True
    assert result["epochs"] == len(result["rows"]) < 8
    assert result["best_val_acc"] >= 0.5
    assert 0 < result["time_to_target_seconds"] <= result["train_seconds"]
    metrics = mlflow.MlflowClient().get_run(result["run_id"]).data.metrics
    assert metrics["time_to_target_seconds"] == pytest.approx(result["time_to_target_seconds"])
    assert Store(tmp_path).statuses == ["FINISHED"]
    # The time to another target, which is missed, is none.
    cli("fit", "--resume", result["run_id"], "--target-acc", "0.9999").failed(3, "in 8 epochs")
    metrics = mlflow.MlflowClient().get_run(result["run_id"]).data.metrics
    assert math.isnan(metrics["time_to_target_seconds"])


@pytest.mark.usefixtures("without_figures")
def test_a_run_without_a_target_goes_on_to_one(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = cli(*FIT, "--epochs", "1").succeeded().line
    # The environment says what new runs are to be.
    for name, value in [("EPOCHS", "9"), ("IMAGE_SIZE", "64"), ("MODEL", "nosuch"), ("LR", "none")]:
        monkeypatch.setenv(f"CIFARKIT_{name}", value)
    cli("fit", "--resume", run_id, "--max-epochs", "2").failed(2, "this run has none; give --target-acc, too")
    cli("fit", "--resume", run_id, "--target-acc", "0.9999").failed(3, "in 3 epochs")
    cli("fit", "--resume", run_id, "--max-epochs", "4").failed(3, "in 4 epochs")


@pytest.mark.usefixtures("without_figures")
def test_a_target_plans_the_training_and_makes_it_go_on(cli: Cli, tmp_path: Path) -> None:
    outcome = cli(*FIT, "--epochs", "1", "--max-epochs", "3", "--target-acc", "0.9999", "--json")
    run_id = outcome.data["run_id"]
    outcome.failed(3, "99.99%", "in 3 epochs", f"--resume {run_id} --max-epochs 6")
    assert "99.99% is not reached: going on to epoch 2 with these weights" in outcome.err
    assert "going on to epoch 3" in outcome.err
    result = outcome.validated(results.FitResult)
    assert (result["planned_epochs"], result["epochs"], result["target_reached"]) == (1, 3, False)
    # The same run, with more patience.
    again = cli("fit", "--resume", result["run_id"], "--max-epochs", "4", "--json").failed(3, "in 4 epochs")
    assert again.validated(results.FitResult)["run_id"] == result["run_id"]
    assert Store(tmp_path).statuses == ["FINISHED"]


@pytest.mark.usefixtures("without_figures")
def test_a_measured_target_says_what_it_takes(cli: Cli) -> None:
    outcome = cli(*FIT, "--target-acc", "0.9").succeeded()
    assert "90.00% needs about 15 epochs: recipe digits came to 99.72% in 15 epochs" in outcome.err
    outcome = cli(*FIT, "--target-acc", "0.3", "--policy", "none", "--batch-size", "100").succeeded()
    assert "nobody has measured what 30.00% needs with these settings: 15 epochs" in outcome.err


def test_precision_does_not_change_what_a_target_takes() -> None:
    said = Terminal(quiet=True)
    lengths = {plan(said, RECIPES["fast"].override(precision=p), "cifar10", 0.92).epochs for p in PRECISIONS}
    assert lengths == {16}


def test_a_target_may_choose_the_recipe_but_not_against_what_was_asked() -> None:
    def chosen(target_acc: float | None, recipe: str | None = None, **overrides: Any) -> str:
        return resolve("cifar10", recipe, 32, target_acc=target_acc, **{"gpus": 0} | overrides)[1].name

    assert [chosen(target) for target in (None, 0.9, 0.92, 0.94, 0.999)] == [
        "fast", "fast", "fast", "accurate", "accurate",
    ]  # fmt: skip
    assert chosen(0.94, precision="fp32", model=None) == "accurate"
    assert chosen(0.94, epochs=3) == chosen(0.94, model="speednet") == chosen(0.94, batch_size=100) == "fast"
    assert chosen(0.94, recipe="fast") == "fast"
    assert [chosen(target, gpus=1) for target in (0.9, 0.94, 0.95)] == ["fast", "airbench94", "airbench96"]


@pytest.mark.usefixtures("without_figures")
def test_a_limit_below_what_the_target_is_expected_to_take(cli: Cli) -> None:
    places = ["--tracking-uri", "sqlite:///mlflow.db", "--data-dir", "my data"]
    outcome = cli(*FIT, *places, "--target-acc", "0.9999", "--max-epochs", "1").failed(
        3, "99.99%", "in 1 epoch"
    )
    expected = (
        "recipe digits came to 99.72% in 15 epochs, and nobody has measured more: 15 epochs to begin with"
    )
    assert expected in outcome.err
    assert "limited to 1 epoch by --max-epochs" in outcome.err
    # What it says to go on with finds the run and the data where they are.
    hint = re.search("`cifarkit (fit --resume .*)`", outcome.err)
    assert hint
    assert shlex.split(hint[1])[3:7] == places
    cli(*shlex.split(hint[1])).failed(3, "in 2 epochs")


@pytest.mark.usefixtures("without_figures")
def test_a_run_whose_images_have_changed_is_not_touched(cli: Cli, tmp_path: Path) -> None:
    # Nobody can tell these classes apart.
    root = colour_folder(tmp_path / "greys", dict.fromkeys(("one", "two"), (99, 99, 99)), 30, 16)
    options = ("--dataset", f"folder:{root}", "--image-size", "16", "--epochs", "1", "--target-acc", "1")
    name = "[/x] [red]" + " and on" * 20
    run_id = cli("fit", *options, "--max-epochs", "1", "--batch-size", "20", "--run-name", name).line
    # Fewer than a batch: what is wrong is not its size.
    for path in [*root.rglob("1*.png"), *root.rglob("2*.png")]:
        path.unlink()
    outcome = cli("fit", "--resume", run_id, "--max-epochs", "2")
    outcome.failed(1, f"run {run_id[:8]} was trained on other images", "fingerprint")
    assert Store(tmp_path).statuses == ["FINISHED"]
    # Nor if there is no checkpoint that tells of them.
    shutil.rmtree(Store(tmp_path).artifacts(run_id) / "checkpoints")
    outcome = cli("fit", "--resume", run_id, "--max-epochs", "2")
    outcome.failed(1, f"run {run_id[:8]} was trained on other images")
    listed = cli("runs", "list").succeeded()
    assert listed.line == run_id
    assert re.search(rf" FINISHED {re.escape(name)} +\d+\.\d\d% test ", listed.err)


@pytest.mark.usefixtures("without_figures")
def test_several_seeds_do_not_go_on_with_other_test_images(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIFARKIT_TARGET_ACC", "0.001")  # there are no others to refuse
    for split, images in (("train", 20), ("test", 4)):
        colour_folder(tmp_path / "photos" / split, COLOURS, images, 16)
    options = ("--dataset", "folder:photos", "--image-size", "16", "--epochs", "1", "--runs", "2")
    run_id = cli("fit", *options).succeeded().line
    store = Store(tmp_path)
    mlflow.MlflowClient(store.uri).set_terminated(run_id, "KILLED")
    before = store.statuses
    assert sorted(before) == ["FINISHED", "FINISHED", "KILLED"]
    shutil.copy(tmp_path / "photos/test/red/00.png", tmp_path / "photos/test/red/01.png")
    cli("fit", "--resume", run_id, "--target-acc", "0.5").failed(2, "cannot change in a run of several seeds")
    cli("fit", "--resume", run_id).failed(1, f"run {run_id[:8]} was validated on other images")
    assert store.statuses == before


@pytest.mark.usefixtures("without_figures")
def test_held_out_images_are_those_of_the_training(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set that differs by one image is cut otherwise: what it holds out may have been trained on."""

    class Fewer(DigitsSource):
        def load(self, name: str, data_dir: Path, split: str) -> ImageSet:
            images = super().load(name, data_dir, split)
            return images.take(range(1, len(images)))

    run_id = cli(*FIT, "--epochs", "1", "--val-size", "200").succeeded().line
    digits = DATASETS["digits"]
    monkeypatch.setitem(DATASETS, "again", replace(digits, name="again"))
    monkeypatch.setitem(DATASETS, "fewer", replace(digits, name="fewer", source=Fewer()))
    for options, split, samples, looks in [
        ((), "val", 200, None),
        (("--dataset", "digits"), "val", 200, None),
        (("--dataset", "again", "--split", "val"), "val", 200, None),
        (("--dataset", "again"), "test", 360, 1),
        (("--dataset", "fewer"), "test", 359, 1),
        (("--dataset", "fewer"), "test", 359, 2),
    ]:
        scores = cli("eval", "--run", run_id, *options, "--json").validated(results.Evaluation)
        assert (scores["split"], scores["samples"], scores["test_looks"]) == (split, samples, looks)
    refused = cli("eval", "--run", run_id, "--dataset", "fewer", "--split", "val")
    refused.failed(1, f"the val images of fewer are not those that run {run_id[:8]} was trained with")


@pytest.mark.usefixtures("without_figures")
def test_several_seeds_make_one_run_with_children(cli: Cli, tmp_path: Path) -> None:
    options = (*FIT, "--epochs", "2", "--val-size", "200")
    command = (*options, "--seed", "3", "--runs", "2")
    outcome = cli(*command, "--target-acc", "0.9999", "--json").failed(3, "2 of 2 seeds", "99.99%")
    summary = outcome.validated(results.FitRuns)
    fits = summary["fits"]
    assert summary["seeds"] == [fit["seed"] for fit in fits] == [3, 4]
    accuracies = [fit["rows"][-1]["val_acc"] for fit in fits]
    assert summary["accuracy"]["mean"] == pytest.approx(sum(accuracies) / 2)
    assert summary["evidence"]["accuracy_mean"] == summary["accuracy"]["mean"]
    assert (summary["targets_reached"], summary["time_to_target_seconds"]) == (0, None)
    client = mlflow.MlflowClient(Store(tmp_path).uri)
    parent = client.get_run(summary["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.params["seed"] == "3-4"
    assert parent.data.metrics["accuracy_mean"] == pytest.approx(summary["accuracy"]["mean"])
    for fit in fits:
        child = client.get_run(fit["run_id"])
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == summary["run_id"]
        assert child.data.params["seed"] == str(fit["seed"])
        assert [step for step, _ in history(client, fit["run_id"], "val/acc")] == [1, 2]
        assert {"checkpoints/best.ckpt", "reports/fit.json"} <= artifact_names(client, fit["run_id"])
    names = artifact_names(client, summary["run_id"])
    assert "checkpoints/best.ckpt" in names  # tests/faults looks at its figures and reports
    listed = cli("runs", "list", "--json").validated(results.RunTable)["runs"]
    assert [(run["run_id"], run["parent_id"], run["seeds"]) for run in listed] == [
        (summary["run_id"], None, 2),
        (fits[0]["run_id"], summary["run_id"], 1),
        (fits[1]["run_id"], summary["run_id"], 1),
    ]
    assert listed[0]["val_acc"] == pytest.approx(summary["accuracy"]["mean"])
    assert listed[0]["train_seconds"] == pytest.approx(summary["train_seconds"]["mean"])
    assert cli("runs", "list", "--limit", "2").out.split() == [run["run_id"] for run in listed[:2]]
    table = cli("runs", "list").err
    rows = [line for line in table.splitlines() if "FINISHED" in line]
    begins = [line.index("digits-digits") for line in rows]
    assert all(re.search(r"% +val ", line) for line in rows)
    assert begins == [begins[0], begins[0] + 2, begins[0] + 2]
    assert "of several seeds: their mean accuracy in the last epoch" in table
    # The parent is asked like any other run, and answers with the best of its trainings.
    best = max(fit["best_val_acc"] for fit in fits)
    assert cli("eval").succeeded().line == f"{best:.4f}"
    asked = cli("eval", "--run", "best", "--json").succeeded()
    assert asked.data["run_id"] == summary["run_id"]
    assert "2 seeds: asking the best of them" in asked.err
    # Each of them held out images of its own.
    for child in fits:
        assert cli("eval", "--run", child["run_id"]).succeeded().line == f"{child['best_val_acc']:.4f}"
    # Seeds trained beside each other are the seeds trained alone.
    alone = cli(*options, "--seed", "4", "--json").succeeded().validated(results.FitResult)
    assert alone["rows"][-1]["val_acc"] == accuracies[1]
    assert alone["rows"][-1]["train_loss"] == fits[1]["rows"][-1]["train_loss"]


@pytest.mark.usefixtures("without_figures")
def test_a_slow_loader_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifarkit.console.WAITING_TOO_LONG", 0.0)
    outcome = cli(*FIT, "--epochs", "2", "--workers", "0").succeeded()
    assert outcome.err.count("of the time the model waited for images; raise --workers") == 1
    without_workers = cli(*FIT, "--epochs", "1").succeeded()
    assert "waited" not in without_workers.err


@pytest.mark.usefixtures("without_figures")
def test_every_option_reaches_the_run(cli: Cli, tmp_path: Path) -> None:
    options = {
        "--epochs": "2",
        "--batch-size": "48",
        "--optimizer": "sgd",
        "--policy": "original-mnist",
        "--model": "small-cnn",
        "--lr": "auto",
        "--workers": "1",
        "--val-size": "200",
        "--seed": "3",
        "--precision": "fp32",
        "--gpus": "0",
        "--experiment": "other things",
        "--run-name": "a name",
    }
    flags = [word for pair in options.items() for word in pair]
    outcome = cli(*FIT, *flags, "--deterministic").succeeded()
    client = mlflow.MlflowClient(Store(tmp_path).uri)
    found = client.get_run(outcome.line)
    params = found.data.params
    expected = {
        "epochs": "2",
        "batch_size": "48",
        "optimizer": "sgd",
        "policy": "original-mnist",
        "model": "small-cnn",
        "workers": "1",
        "val_size": "200",
        "val_split": "val",
        "val_images": "200",
        "train_images": "1237",
        "seed": "3",
        "device": "cpu",
        "precision": "fp32",
        "deterministic": "True",
        "compile": "False",
    }
    assert {key: params[key] for key in expected} == expected
    assert found.info.run_name == "a name"
    assert client.get_experiment(found.info.experiment_id).name == "other things"
    assert "200 of the training split, held out" in outcome.err
    assert "learning rate" in outcome.err
    assert {"figures/lr_range_test.png", "reports/lr_range_test.json"} <= artifact_names(client, outcome.line)
    curve = client.download_artifacts(outcome.line, "reports/lr_range_test.json", str(tmp_path))
    suggestion = Outcome(0, Path(curve).read_text(), "").validated(results.LrCurve)["suggestion"]
    assert float(params["lr"]) == suggestion
    assert [step for step, _ in history(client, outcome.line, "val/acc")] == [1, 2]

    # Held-out images are what it is measured on afterwards, too.
    for split, samples in ((None, 200), ("val", 200), ("test", 360), ("train", 1237)):
        flags = ("--split", split) if split else ()
        scores = cli("eval", "--experiment", "other things", "--json", *flags).succeeded().data
        assert (scores["split"], scores["samples"]) == (split or "val", samples)
        assert samples != 200 or scores["top1"] == pytest.approx(found.data.metrics["best_val_acc"])


@pytest.mark.usefixtures("without_figures")
def test_settings_from_the_environment_and_a_target_out_of_reach(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "DATASET": "digits",
        "EPOCHS": "1",
        "BATCH_SIZE": "100",
        "OPTIMIZER": "adam",
        "SEED": "5",
        "QUIET": "1",
        "EXPERIMENT": "from outside",
        "TARGET_ACC": "0.999",
    }.items():
        monkeypatch.setenv(f"CIFARKIT_{name}", value)
    elsewhere = Store(tmp_path / "elsewhere")
    elsewhere.folder.mkdir()
    # The target is out of reach: the exit code says so, and the run is as good as any other.
    outcome = cli("fit", "--batch-size", "90", store=elsewhere).failed(
        3, "test accuracy", "99.90%", "--max-epochs 2"
    )
    assert outcome.err.splitlines() == outcome.errors
    assert outcome.line == elsewhere.run_ids[0]
    assert elsewhere.statuses == ["FINISHED"]
    client = mlflow.MlflowClient(elsewhere.uri)
    found = client.get_run(outcome.line)
    expected = {"dataset": "digits", "epochs": "1", "batch_size": "90", "optimizer": "adam", "seed": "5"}
    assert {key: found.data.params[key] for key in expected} == expected
    assert client.get_experiment(found.info.experiment_id).name == "from outside"


def test_a_folder_of_images_needs_no_other_settings(cli: Cli, tmp_path: Path) -> None:
    root = colour_folder(tmp_path / "colours", COLOURS, images=20, side=16)
    outcome = cli("fit", "--dataset", f"folder:{root}", "--epochs", "4", "--json").succeeded()
    result = outcome.validated(results.FitResult)
    assert result["recipe"] == "folder"
    assert result["best_val_acc"] > 0.9
    scores = cli("eval", "--json").succeeded().validated(results.Evaluation)
    assert [c["name"] for c in scores["per_class"]] == sorted(COLOURS)
    assert scores["samples"] == 12
    figure = cli("gradcam", "--correct", "--limit", "2").succeeded().line
    assert is_picture(tmp_path / figure)
    # A network this good may leave nothing to explain; that is no failure either.
    for command in ("misclassified", "gradcam"):
        assert is_picture(tmp_path / cli(command).succeeded().line)


def test_a_folder_of_images_is_data_like_any_other(cli: Cli, tmp_path: Path) -> None:
    name = f"folder:{colour_folder(tmp_path / 'colours', COLOURS, images=5, side=20)}"
    assert cli("data", "download", name).succeeded().line == str(tmp_path / "colours")
    (tmp_path / "colours" / "notes.txt").write_text("all mine")
    verified = cli("data", "verify", name, "--json").succeeded()
    assert (verified.validated(results.VerifyReport)["ok"], len(verified.data["files"])) == (True, 16)
    assert "ignored: " in verified.err
    assert "15 of 15 files are as they should be" in verified.err
    stats = cli("data", "stats", name, "--image-size", "20", "--json").succeeded()
    assert stats.validated(results.DataStats)["image_shape"] == [3, 20, 20]
    assert is_picture(tmp_path / cli("data", "preview", name, "--count", "3").succeeded().line)
    # With a batch that suits so few.
    cli("lr-find", "--dataset", name, "--image-size", "20").succeeded()


def test_a_run_in_a_repository_names_its_commit(cli: Cli, tmp_path: Path) -> None:
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path))
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    cli("lr-find", "--dataset", "digits", "--steps", "40", "--max-lr", "0.1").succeeded()
    (found,) = mlflow.MlflowClient().search_runs(["1"])
    assert found.data.tags["mlflow.source.git.commit"].startswith(head.strip())


def test_a_figure_that_cannot_be_drawn_does_not_fail_a_training(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("this network has no gradient")

    monkeypatch.setattr("cifarkit.reports.report_cams", fail)
    outcome = cli("fit", "--dataset", "digits", "--epochs", "1").succeeded()
    assert "no class activation maps: this network has no gradient" in outcome.err
    assert Store(tmp_path).statuses == ["FINISHED"]


def test_a_network_that_cannot_be_exported_does_not_fail_a_training(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Branching(nn.Module):
        def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(image_shape[0], 8, 3), nn.ReLU(), nn.Flatten())
            self.head = nn.Linear(8 * 36, classes)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(self.layers(images))
            return logits if images.mean() > 0 else 2 * logits

    monkeypatch.setitem(MODELS, "branching", Model("for tests", Branching, 8))
    for slow in ("report_training", "report_evaluation", "report_cams"):
        monkeypatch.setattr(f"cifarkit.reports.{slow}", lambda *arguments, **options: None)
    outcome = cli(*FIT, "--epochs", "1", "--model", "branching").succeeded()
    assert "warning: no exported model: " in outcome.err
    store = Store(tmp_path)
    assert store.statuses == ["FINISHED"]
    assert "figures/misclassified.png" in store.files(outcome.line)
    assert "model/MLmodel" not in store.files(outcome.line)


@pytest.mark.usefixtures("without_figures")
def test_one_of_several_trainings_that_a_scheduler_starts_is_a_whole_one(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", "1")
    cli(*FIT, "--epochs", "1").succeeded()
    assert Store(tmp_path).statuses == ["FINISHED"]


@pytest.mark.usefixtures("without_figures")
def test_a_run_named_by_its_id_is_gone_on_with_in_its_own_experiment(cli: Cli, tmp_path: Path) -> None:
    options = ("--epochs", "1", "--target-acc", "0.9999", "--max-epochs", "1", "--experiment", "other")
    run_id = cli(*FIT, *options, "--json").failed(3).data["run_id"]
    cli("fit", "--resume", run_id, "--max-epochs", "2").failed(3, "in 2 epochs")
    names = {each.name for each in mlflow.MlflowClient(Store(tmp_path).uri).search_experiments()}
    assert names == {"Default", "other"}
