"""What a finished fit leaves in MLflow: the whole story."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from cli_harness import Outcome, Trained, artifact_names, history, is_picture
from run_store import ARTIFACTS, EPOCH_METRICS

import cifarkit
from cifarkit import results
from cifarkit.data.image_set import ImageSet
from cifarkit.recipes import find_recipe

# In one process with the libraries, what they warn about on import would be errors; the tests that start
# processes see to it that nobody else sees a warning.
pytestmark = pytest.mark.filterwarnings("default")

Cli = Callable[..., Outcome]
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def client(trained: Trained) -> Any:
    return mlflow.MlflowClient(trained.uri)


@pytest.fixture(scope="module")
def run(client: Any, trained: Trained) -> Any:
    return client.get_run(trained.run_id)


def test_status_and_place(run: Any, trained: Trained) -> None:
    assert run.info.status == "FINISHED"
    assert run.info.end_time > run.info.start_time
    assert trained.run_ids == [trained.run_id]
    assert trained.run_folder.is_relative_to(trained.folder / "mlruns")


def test_params_hold_the_resolved_recipe(run: Any) -> None:
    recipe = find_recipe("digits").override(epochs=2)
    expected = recipe.settings() | {
        "dataset": "digits",
        "seed": 0,
        "precision": "fp32",
        "device": "cpu",
        "world_size": 1,
        "target_acc": None,
        "val_split": "test",
        "val_size": 0,
        "train_images": 1437,
        "val_images": 360,
    }
    if run.data.params["device"] == "cuda":
        expected["device"] = "cuda"
    assert {key: run.data.params.get(key) for key in expected} == {k: str(v) for k, v in expected.items()}


def test_tags_say_how_where_and_on_what(run: Any, digits: ImageSet) -> None:
    tags = run.data.tags
    assert tags["cifarkit.command"] == "cifarkit fit --dataset digits --epochs 2"
    assert tags["cifarkit.version"] == cifarkit.__version__
    assert tags["cifarkit.kind"] == "fit"
    assert tags["dataset"] == "digits"
    assert tags["dataset.fingerprint"] == digits.fingerprint
    assert tags["val_split"] == "test"
    assert tags["hardware"].endswith("fp32")
    for package in ("torch", "torchvision", "pytorch-lightning", "albumentations", "mlflow", "numpy"):
        assert tags[f"version.{package}"]
    for key in ("host", "python", "platform", "cpus"):
        assert tags[key]


def test_metrics_have_one_value_per_epoch(client: Any, trained: Trained) -> None:
    for key in EPOCH_METRICS:
        assert [step for step, _ in history(client, trained.run_id, key)] == [1, 2], key


def test_final_metrics(client: Any, run: Any, trained: Trained) -> None:
    accuracies = [value for _, value in history(client, trained.run_id, "val/acc")]
    assert run.data.metrics["best_val_acc"] == max(accuracies)
    assert 0 < run.data.metrics["train_seconds"] < 200
    assert "time_to_target_seconds" not in run.data.metrics


def test_system_metrics(run: Any) -> None:
    names = {key for key in run.data.metrics if key.startswith("system/")}
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= names


def test_artifacts_are_all_there_and_whole(client: Any, trained: Trained) -> None:
    names = artifact_names(client, trained.run_id)
    assert ARTIFACTS - names == set()
    for name in names:
        path = trained.run_folder / name
        assert path.stat().st_size > 0
        assert path.suffix != ".png" or is_picture(path)
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    assert "Params" in (trained.run_folder / "summary.txt").read_text()


def test_reports_are_the_commands_records(trained: Trained) -> None:
    for name, record in (
        ("fit.json", results.FitResult),
        ("evaluation.json", results.Evaluation),
        ("misclassified.json", results.Misclassified),
        ("gradcam.json", results.CamResult),
    ):
        text = (trained.run_folder / "reports" / name).read_text(encoding="utf-8")
        assert Outcome(0, text, "").validated(record)["run_id"] == trained.run_id
    rows = trained.report("history.json")
    assert rows == trained.report("fit.json")["rows"]
    assert [row["epoch"] for row in rows] == [1, 2]


def test_reports_agree_with_the_metrics(run: Any, trained: Trained) -> None:
    assert trained.report("evaluation.json")["top1"] == pytest.approx(run.data.metrics["best_val_acc"])


def test_reports_name_no_file_that_is_gone(trained: Trained) -> None:
    """A path into a folder that was removed when the command ended helps nobody."""
    for name in ("fit.json", "misclassified.json", "gradcam.json"):
        assert "cifarkit-" not in (trained.run_folder / "reports" / name).read_text()


def test_the_exported_model_predicts_what_eval_says(
    cli: Cli, trained: Trained, unseen_digits: ImageSet
) -> None:
    cli("eval", "--quiet", store=trained)
    model = mlflow.pyfunc.load_model(f"runs:/{trained.run_id}/model")
    assert model.metadata.signature.inputs.input_types() == [np.dtype(np.uint8)]
    probabilities = model.predict(unseen_digits.images)
    assert probabilities.shape == (360, 10)
    assert probabilities.dtype == np.float32
    assert probabilities.sum(1) == pytest.approx(1, abs=1e-5)
    # As the README shows it.
    (program,) = re.findall(
        r"```python\n(import mlflow\n.*?)```", README.read_text(encoding="utf-8"), re.DOTALL
    )
    shown: dict[str, Any] = {}
    exec(program.replace("ID", trained.run_id).replace("32, 32, 3", "8, 8, 1"), shown)
    assert shown["probabilities"].shape == (4, 10)
    predicted = probabilities.argmax(1)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (unseen_digits.labels, predicted), 1)
    assert confusion.tolist() == trained.report("evaluation.json")["confusion"]
    with (trained.run_folder / "reports" / "misclassified.csv").open(newline="") as file:
        mistakes = {int(row["index"]): row["pred_class"] for row in csv.DictReader(file)}
    wrong = predicted != unseen_digits.labels
    assert mistakes == {
        int(index): unseen_digits.classes[label]
        for index, label in zip(unseen_digits.indices[wrong], predicted[wrong], strict=True)
    }
