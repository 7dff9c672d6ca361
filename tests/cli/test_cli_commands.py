"""Every command once as it is meant to be used: its line, its figure, its JSON, its silence."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from cli_harness import COLOURS, Outcome, Trained, artifact_names, colour_folder, is_picture, run
from PIL import Image

from cifarkit import results
from cifarkit.augment.policies import POLICIES
from cifarkit.data.image_set import ImageSet
from cifarkit.errors import TrackingError
from cifarkit.models import MODELS
from cifarkit.recipes import RECIPES
from cifarkit.tracking import Journal
from cifarkit.tracking.journal import run_folder
from cifarkit.tracking.processes import _here

# In one process with the libraries, what they warn about on import would be errors; the tests that start
# processes see to it that nobody else sees a warning.
pytestmark = pytest.mark.filterwarnings("default")

Cli = Callable[..., Outcome]
Picture = Callable[[Outcome], Path]


@pytest.fixture(autouse=True)
def measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`bench` measures again and again to be sure of a number that is of no interest here."""
    monkeypatch.setattr("cifarkit.training.bench.ROUNDS", 1)
    monkeypatch.setattr("cifarkit.training.bench.OBSERVED_REPORTS", 2)


def is_path(line: str) -> bool:
    return Path(line).exists()


def is_figure(line: str) -> bool:
    return is_picture(Path(line))


def is_share(line: str) -> bool:
    return 0.5 < float(line) <= 1 and len(line) == 6


def is_rate(line: str) -> bool:
    return 0 < float(line) < 1


def is_run(line: str) -> bool:
    return len(line) == 32 and int(line, 16) > 0


COMMANDS = {
    "data download": (["digits"], results.DataPath, is_path),
    "data verify": (["digits"], results.VerifyReport, "ok".__eq__),
    "data preview": (["digits", "--count", "2", "--rows", "1"], results.PreviewResult, is_figure),
    "summary": (["small-cnn", "--image-size", "8", "--channels", "1"], results.ModelTable, str.isdigit),
    "lr-find": (["--dataset", "digits", "--steps", "60"], results.LrCurve, is_rate),
    "doctor": (["--dataset", "digits"], results.Diagnosis, {"ok", "warn"}.__contains__),
    "runs list": ([], results.RunTable, is_run),
    "runs sync": ([], results.SyncTable, "".__eq__),
    "eval": ([], results.Evaluation, is_share),
    "misclassified": (["--limit", "2"], results.Misclassified, is_figure),
    "gradcam": (["--limit", "2"], results.CamResult, is_figure),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_stdout_is_the_documented_line(command: str, cli: Cli, trained: Trained) -> None:
    arguments, _, is_right = COMMANDS[command]
    outcome = cli(*command.split(), *arguments, store=trained).succeeded()
    line = outcome.line if outcome.out else ""
    assert is_right(line), line
    assert bool(outcome.out) == bool(line)  # no empty lines
    assert outcome.err


@pytest.mark.parametrize("command", COMMANDS)
def test_quiet_json_is_the_record_and_nothing_else(command: str, cli: Cli, trained: Trained) -> None:
    arguments, record, _ = COMMANDS[command]
    outcome = cli(*command.split(), *arguments, "--json", "--quiet", store=trained).succeeded()
    outcome.validated(record)
    assert outcome.err == ""


# -- the table commands ---------------------------------------------------------------------------


def test_recipes_lists_the_names(cli: Cli) -> None:
    outcome = cli("recipes").succeeded()
    assert outcome.out.split("\n") == [*RECIPES, ""]


def test_recipes_as_json(cli: Cli) -> None:
    outcome = cli("recipes", "--json", "--quiet").succeeded()
    table = outcome.validated(results.RecipeTable)
    assert [row["name"] for row in table["recipes"]] == list(RECIPES)
    assert outcome.err == ""


def test_stats_is_a_table_a_script_can_cut(cli: Cli, digits: ImageSet) -> None:
    outcome = cli("data", "stats", "digits").succeeded()
    table = dict(line.split("\t") for line in outcome.out.splitlines())
    assert table["dataset"] == "digits"
    assert table["image_shape"] == "1x8x8"
    assert table["train.samples"] == str(len(digits))
    assert table["train.fingerprint"] == digits.fingerprint
    assert {table[f"test.class.{name}"] for name in "0123456789"} <= {"35", "36", "37"}
    assert "digits: 1,797 grey handwritten digits" in outcome.err


def test_stats_as_json(cli: Cli, digits: ImageSet) -> None:
    stats = cli("data", "stats", "digits", "--json", "--quiet").succeeded().validated(results.DataStats)
    train, test = stats["splits"]
    assert (train["samples"], test["samples"]) == (1437, 360)
    assert train["class_counts"] == digits.class_counts()


def test_bench_writes_what_it_shows(cli: Cli, tmp_path: Path) -> None:
    command = ("bench", "--dataset", "digits", "--seconds", "0.1", "--output", "here", "--json")
    outcome = cli(*command, "--workers", "1", "--target-acc", "0.5").succeeded()
    result = outcome.validated(results.BenchResult)
    assert json.loads((tmp_path / "here" / "bench.json").read_text()) == result
    assert is_figure(result["figure"])
    assert {path.name for path in tmp_path.iterdir()} == {"here"}
    rows = {row["name"]: row for row in result["rows"]}
    assert {"matrix product", "memory copy", "loader, 1 worker", "step at 8 pixels"} <= set(rows)
    assert all(row["value"] > 0 for row in rows.values() if row["unit"] in ("images/s", "GFLOP/s", "GB/s"))
    assert rows["augmentation, batched"]["value"] > rows["augmentation, albumentations"]["value"]
    assert rows["step at 8 pixels"]["share"] > 0
    assert result["target"]["target_reached"]
    for name in rows:
        assert name in outcome.err or name.split()[0] in outcome.err


def test_sync_says_what_it_could_not_send(cli: Cli, tmp_path: Path) -> None:
    journal = Journal(run_folder("0123456789abcdef" * 2))
    journal.open("0123456789abcdef" * 2, f"sqlite:///{tmp_path}/file/mlflow.db", _here() + "/1@0")
    journal.add("tags", values={"a": "b"})
    (tmp_path / "file").write_text("")
    outcome = cli("runs", "sync")
    outcome.failed(1, "not everything could be sent: 01234567")
    assert "warning: run 01234567: the tracking store" in outcome.err
    assert journal.folder.exists()


# -- data and models ------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_preview_of_every_policy(policy: str, cli: Cli, picture: Picture, tmp_path: Path) -> None:
    colour_folder(tmp_path / "photos", COLOURS, 4, 16)
    preview = ("data", "preview", "folder:photos", "--image-size", "16", "--policy", policy, "--count", "2")
    picture(cli(*preview, "--rows", "1"))
    stages = cli(*preview, "--stages")
    assert "stages" in picture(stages).name


def test_preview_of_the_test_split(cli: Cli, unseen_digits: ImageSet) -> None:
    outcome = cli("data", "preview", "digits", "--split", "test", "--count", "3", "--json")
    preview = outcome.succeeded().validated(results.PreviewResult)
    assert preview["split"] == "test"
    assert Path(preview["figure"]).stem.endswith("_test")  # beside that of the other split
    assert set(preview["indices"]) <= {int(i) for i in unseen_digits.indices}


def test_preview_goes_where_output_says(cli: Cli, picture: Picture, tmp_path: Path) -> None:
    path = picture(cli("data", "preview", "digits", "--output", "deep/er", "--count", "1", "--rows", "1"))
    assert path.parent == tmp_path / "deep" / "er"


@pytest.mark.parametrize("model", MODELS)
def test_summary_of_every_model(model: str, cli: Cli) -> None:
    outcome = cli("summary", model, "--json").succeeded()
    table = outcome.validated(results.ModelTable)
    assert table["flops"] > 1e6
    assert table["size_bytes"] == 4 * table["parameters"]
    assert len(table["rows"]) > 5
    assert "FLOPs" in outcome.err


def test_summary_of_the_original_network(cli: Cli) -> None:
    outcome = cli("summary", "custom-resnet").succeeded()
    assert outcome.line == "6573130"
    assert f"custom-resnet: {MODELS['custom-resnet'].description}" in outcome.err


def test_summary_depth_shortens_the_table(cli: Cli) -> None:
    rows = [len(cli("summary", "small-cnn", "--depth", d, "--json").data["rows"]) for d in (1, 2)]
    assert 0 < rows[0] < rows[1]


def test_lr_find_records_a_run(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("lr-find", "--dataset", "digits", "--steps", "50", "--rule", "steepest", "--json")
    curve = outcome.succeeded().validated(results.LrCurve)
    assert curve["suggestion"] == curve["rules"]["steepest"]
    assert sorted(curve["lrs"]) == curve["lrs"]
    assert len(curve["lrs"]) == len(curve["losses"]) == len(curve["smoothed"])
    assert is_picture(tmp_path / curve["figure"])
    (run,) = mlflow.MlflowClient().search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["cifarkit.kind"] == "lr-find"
    assert {run.data.params[name] for name in ("min_lr", "max_lr")} == {"1e-07", "0.1"}
    assert run.data.metrics["suggested_lr"] == pytest.approx(curve["suggestion"])


def test_a_range_test_that_finds_nothing_shows_what_it_saw(cli: Cli, tmp_path: Path) -> None:
    rates = ("--min-lr", "1e30", "--max-lr", "1e35", "--steps", "12")
    outcome = cli("lr-find", "--dataset", "digits", "--optimizer", "sgd", *rates)
    outcome.failed(1, "'valley' nothing to go by", "--min-lr")
    (picture,) = (tmp_path / "figures").rglob("*.png")
    assert is_picture(picture)
    assert f"figure: {picture.relative_to(tmp_path)}" in outcome.err
    (run,) = mlflow.MlflowClient().search_runs(["1"])
    assert run.info.status == "FAILED"
    assert "figures/lr_range_test.png" in artifact_names(mlflow.MlflowClient(), run.info.run_id)


# -- a trained network ----------------------------------------------------------------------------


def test_a_figure_of_the_run_that_fit_just_made(first_fit: tuple[Path, Outcome]) -> None:
    folder, outcome = first_fit
    assert outcome.code == 0, (folder / "fit.err").read_text() + outcome.err
    assert is_picture(folder / outcome.line)
    assert "\x1b" not in outcome.err
    run_id = (folder / "fit.out").read_text()
    assert len(run_id) == 33
    assert run_id[:8] in outcome.line


def test_fit_tells_of_every_epoch_in_plain_lines(first_fit: tuple[Path, Outcome]) -> None:
    text = (first_fit[0] / "fit.err").read_text()
    assert "\x1b" not in text
    assert "Warning" not in text
    table = text[text.index("epoch ") :].splitlines()
    assert [line.split()[0] for line in table if line.startswith("    ")] == ["1", "2"]


def test_run_by_id_prefix_last_best_and_checkpoint_agree(cli: Cli, trained: Trained) -> None:
    full = cli("eval", "--run", trained.run_id, "--json", store=trained).validated(results.Evaluation)
    for more, reference in enumerate((trained.run_id[:7], "last", "best"), start=1):
        again = cli("eval", "--run", reference, "--json", "--quiet", store=trained)
        assert again.validated(results.Evaluation) == full | {"test_looks": full["test_looks"] + more}
    file = cli("eval", "--checkpoint", trained.checkpoint, "--json", "--quiet")
    assert file.validated(results.Evaluation) == full | {"run_id": None, "test_looks": None}


def test_a_checkpoint_needs_no_mlflow(cli: Cli, trained: Trained, tmp_path: Path) -> None:
    for command in ("eval", "misclassified", "gradcam"):
        cli(command, "--checkpoint", trained.checkpoint).succeeded()
    assert not (tmp_path / "mlflow.db").exists()
    [place] = (tmp_path / "figures").iterdir()
    assert place.name.startswith("best-")
    assert {p.name for p in place.glob("*.png")} >= {
        "confusion_matrix.png",
        "misclassified.png",
        "gradcam.png",
    }
    # Another of this name has another place.
    (tmp_path / "other").mkdir()
    shutil.copy(trained.checkpoint, tmp_path / "other")
    other = cli("misclassified", "--checkpoint", "other/best.ckpt").succeeded().line
    assert Path(other).parent.name.startswith("best-")
    assert Path(other).parent.name != place.name


def test_best_is_the_most_accurate_and_last_the_latest(cli: Cli, own_trained: Trained) -> None:
    client = mlflow.MlflowClient(own_trained.uri)
    for accuracy in (1.0, 0.1):
        run = client.create_run("1", tags={"cifarkit.kind": "fit"})
        client.log_metric(run.info.run_id, "best_val_acc", accuracy)
        client.set_terminated(run.info.run_id)
    best, last = own_trained.run_ids[1:]
    for reference, run_id in (("best", best), ("last", last)):
        # These runs hold no checkpoint, and the message says which run was looked at.
        cli("eval", "--run", reference, store=own_trained).failed(1, run_id[:8], "best.ckpt")


def test_eval_says_what_it_measured(cli: Cli, trained: Trained) -> None:
    scores = cli("eval", "--json", store=trained).succeeded().data
    confusion = np.array(scores["confusion"])
    assert (scores["split"], scores["samples"], scores["run_id"]) == ("test", 360, trained.run_id)
    assert confusion.sum() == 360
    assert scores["top1"] == pytest.approx(np.trace(confusion) / 360)
    assert scores["top1"] <= scores["top5"] <= 1
    assert [c["support"] for c in scores["per_class"]] == confusion.sum(1).tolist()
    assert sum(b["samples"] for b in scores["calibration"]) == 360


def test_eval_on_the_training_split(cli: Cli, trained: Trained) -> None:
    scores = cli("eval", "--split", "train", "--json", store=trained).succeeded().data
    assert (scores["split"], scores["samples"]) == ("train", 1437)


def test_eval_with_augmented_views(cli: Cli, trained: Trained) -> None:
    plain = cli("eval", "--json", store=trained).data
    augmented = cli("eval", "--tta", "--json", store=trained).succeeded()
    assert augmented.data["tta"] is True
    assert augmented.data["loss"] != plain["loss"]
    assert "test-time augmentation" in augmented.err


@pytest.mark.parametrize("sort", ["confidence", "loss", "index"])
def test_misclassified_in_every_order(sort: str, cli: Cli, trained: Trained, tmp_path: Path) -> None:
    outcome = cli("misclassified", "--sort", sort, "--limit", "3", "--json", store=trained).succeeded()
    found = outcome.validated(results.Misclassified)
    values = [mistake[sort] for mistake in found["mistakes"]]
    assert values == sorted(values, reverse=sort != "index")
    assert found["shown"] == min(3, len(values))
    assert Path(found["figure"]).stem.endswith("first-3")  # the run's own shows more
    assert found["total_mistakes"] == len(values) > 0
    assert all(mistake["true_class"] != mistake["pred_class"] for mistake in found["mistakes"])
    assert is_picture(tmp_path / found["figure"])
    with (tmp_path / found["csv"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [field.name for field in dataclasses.fields(results.Mistake)]
    assert [int(row["index"]) for row in rows] == [mistake["index"] for mistake in found["mistakes"]]


def test_misclassified_of_one_class(cli: Cli, trained: Trained) -> None:
    everything = cli("misclassified", "--json", store=trained).data["mistakes"]
    name = everything[0]["true_class"]
    other = everything[0]["pred_class"]
    for flag, field, value in (("--true", "true_class", name), ("--pred", "pred_class", other)):
        some = cli("misclassified", flag, value, "--json", store=trained).succeeded().data["mistakes"]
        assert some == [mistake for mistake in everything if mistake[field] == value]


def test_no_mistakes_are_a_figure_too(cli: Cli, trained: Trained, picture: Picture) -> None:
    mistakes = cli("misclassified", "--json", store=trained).validated(results.Misclassified)["mistakes"]
    made = {(mistake["true_class"], mistake["pred_class"]) for mistake in mistakes}
    true, pred = next(pair for pair in permutations("0123456789", 2) if pair not in made)
    picture(cli("misclassified", "--true", true, "--pred", pred, store=trained))


@pytest.mark.parametrize("method", ["gradcam", "eigencam", "hirescam"])
def test_gradcam_by_index(
    method: str, cli: Cli, trained: Trained, tmp_path: Path, unseen_digits: ImageSet
) -> None:
    first, second = (int(i) for i in unseen_digits.indices[[3, 7]])
    outcome = cli("gradcam", "--index", first, "--index", second, "--method", method, "--json", store=trained)
    explained = outcome.succeeded().validated(results.CamResult)
    assert [row["source"] for row in explained["images"]] == [f"#{first}", f"#{second}"]
    assert [row["true_class"] for row in explained["images"]] == [
        unseen_digits.classes[label] for label in unseen_digits.labels[[3, 7]]
    ]
    assert explained["method"] == method
    figure = tmp_path / explained["figure"]
    assert is_picture(figure)
    assert figure.name.startswith(f"gradcam_images-{first}-{second}")


def test_gradcam_of_correct_images(cli: Cli, trained: Trained) -> None:
    images = cli("gradcam", "--correct", "--limit", "3", "--json", store=trained).succeeded().data["images"]
    assert len(images) == 3
    assert all(row["true_class"] == row["pred_class"] for row in images)


def test_gradcam_of_mistakes_by_default(cli: Cli, trained: Trained) -> None:
    explained = cli("gradcam", "--limit", "3", "--json", store=trained).succeeded().data
    assert Path(explained["figure"]).name == "gradcam_first-3.png"
    images = explained["images"]
    assert all(row["true_class"] != row["pred_class"] for row in images)
    assert [row["confidence"] for row in images] == sorted((r["confidence"] for r in images), reverse=True)


def test_gradcam_at_a_layer(cli: Cli, trained: Trained) -> None:
    explained = cli("gradcam", "--correct", "--limit", "1", "--layer", "features.0", "--json", store=trained)
    assert (explained.succeeded().data["layer"], explained.data["map_size"]) == ("features.0", [8, 8])


def test_gradcam_of_image_files(cli: Cli, trained: Trained, tmp_path: Path, unseen_digits: ImageSet) -> None:
    [known] = cli("gradcam", "--correct", "--limit", "1", "--json", store=trained).succeeded().data["images"]
    at = unseen_digits.indices.tolist().index(int(known["source"].removeprefix("#")))
    Image.fromarray(unseen_digits.images[at, ..., 0]).save(tmp_path / "grey.png")
    colours = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "photo.jpg")
    outcome = cli("gradcam", "grey.png", "photo.jpg", "--json", store=trained).succeeded()
    explained = outcome.validated(results.CamResult)
    assert [row["source"] for row in explained["images"]] == ["grey.png", "photo.jpg"]
    assert [row["true_class"] for row in explained["images"]] == [None, None]
    assert explained["images"][0]["pred_class"] == known["pred_class"]
    assert explained["images"][0]["confidence"] == pytest.approx(known["confidence"])
    assert is_picture(tmp_path / explained["figure"])
    assert Path(explained["figure"]).name == "gradcam_files-grey-png-photo-jpg.png"


def test_image_files_need_no_data_set(cli: Cli, tmp_path: Path, own_trained: Trained) -> None:
    content = torch.load(own_trained.checkpoint, weights_only=True)
    content["cifarkit"]["dataset"] = "mnist"  # whose files are not here
    torch.save(content, tmp_path / "mnist.ckpt")
    Image.new("L", (8, 8), 200).save(tmp_path / "digit.png")
    at = ("--checkpoint", tmp_path / "mnist.ckpt", "--data-dir", tmp_path)
    explained = cli("gradcam", "digit.png", *at, "--json").succeeded().data
    assert (explained["dataset"], explained["split"]) == (None, None)
    cli("gradcam", *at).failed(1, "download mnist")


def test_other_questions_do_not_replace_the_runs_own_answers(cli: Cli, own_trained: Trained) -> None:
    reports = own_trained.run_folder / "reports"
    own = {path.name: path.read_bytes() for path in reports.iterdir()}
    for line in (
        "eval --split train",
        "eval --tta",
        "misclassified --true 8 --sort loss",
        "misclassified --limit 1",
        "gradcam --correct --limit 1",
        "gradcam --method hirescam --limit 1",
    ):
        cli(*line.split(), store=own_trained).succeeded()
    assert {name: (reports / name).read_bytes() for name in own} == own
    assert {path.name for path in reports.iterdir()} - own.keys() == {
        "evaluation_train.json",
        "evaluation_tta.json",
        "misclassified_true-8_by-loss.csv",
        "misclassified_true-8_by-loss.json",
        "misclassified_first-1.csv",
        "misclassified_first-1.json",
        "gradcam_correct-first-1.json",
        "gradcam_first-1_hirescam.json",
    }


def test_what_is_refused_is_no_look_at_the_test_split(cli: Cli, own_trained: Trained) -> None:
    def looks() -> int:
        found: int = cli("eval", "--json", store=own_trained).succeeded().data["test_looks"]
        return found

    before = looks()
    for line in ("gradcam --index 99999", "gradcam --layer nope", "misclassified --true 77"):
        cli(*line.split(), store=own_trained).failed(2)
    cli("eval", "--split", "train", store=own_trained).succeeded()
    assert looks() == before + 1
    for line in ("misclassified", "gradcam --limit 1"):
        cli(*line.split(), store=own_trained).succeeded()
    assert looks() == before + 4


def test_a_run_and_a_checkpoint_are_one_too_many(cli: Cli, trained: Trained) -> None:
    cli("eval", "--run", "last", "--checkpoint", trained.checkpoint, store=trained).failed(2, "choose one")


def test_images_that_moved_between_the_splits_are_refused(cli: Cli, tmp_path: Path) -> None:
    folder = colour_folder(tmp_path / "data", COLOURS, 9, 16)
    name = f"folder:{folder}"
    small = ("--model", "small-cnn", "--policy", "none", "--epochs", "1", "--image-size", "16")
    cli("fit", "--dataset", name, *small).succeeded()
    before = cli("eval", "--json").succeeded().data["samples"]
    shutil.copy(folder / "red" / "00.png", folder / "red" / "another.png")
    cli("eval").failed(1, "are not those", f"--dataset {name}")
    again = cli("eval", "--dataset", name, "--json").succeeded().data
    assert again["dataset"] == name
    assert again["samples"] == before + 1


def test_a_store_that_takes_nothing_does_not_cost_the_answer(
    cli: Cli, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise TrackingError("the store is read-only")

    monkeypatch.setattr("cifarkit.tracking.add_artifacts", refuse)
    outcome = cli("eval", "--quiet", store=trained).succeeded()
    assert 0 < float(outcome.line) < 1
    assert "read-only" in outcome.err


def test_later_analyses_are_added_to_the_run(cli: Cli, own_trained: Trained) -> None:
    for name in ("evaluation.json", "misclassified.csv", "gradcam.json"):
        (own_trained.run_folder / "reports" / name).unlink()
    for command in ("eval", "misclassified", "gradcam"):
        cli(command, "--quiet", store=own_trained).succeeded()
    for name in ("evaluation.json", "misclassified.csv", "gradcam.json"):
        assert (own_trained.run_folder / "reports" / name).stat().st_size > 0
    assert own_trained.statuses == ["FINISHED"]


# -- runs -----------------------------------------------------------------------------------------


def test_a_list_of_nothing_says_so(cli: Cli, trained: Trained) -> None:
    assert cli("runs", "list").failed(1, "no finished fit yet", "no store at", "`cifarkit fit`").out == ""
    assert not (trained.folder.parent / "mlflow.db").exists()
    typo = cli("runs", "list", "--experiment", "nosuch", store=trained)
    assert typo.failed(1, "there is no experiment 'nosuch', only cifarkit").out == ""


def test_what_there_is_to_choose_from_is_told(cli: Cli) -> None:
    outcome = cli("runs")
    assert (outcome.code, outcome.out) == (2, "")
    assert "list" in outcome.err
    assert "sync" in outcome.err


def test_names_that_a_terminal_cannot_write(tmp_path: Path) -> None:
    colour_folder(tmp_path / "photos", {"Öl": (9, 9, 9), "Wasser": (99, 99, 99)}, 4, 16)
    command = ["data", "stats", "folder:photos", "--image-size", "16"]
    outcome = run(command, tmp_path, PYTHONIOENCODING="ascii").succeeded()
    assert "\\xd6l" in outcome.out
