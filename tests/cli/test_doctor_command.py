"""`cifarkit doctor`: what it finds, what it says to do about it, and how it ends."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_harness import Outcome, Trained, colour_folder

from cifarkit import results

pytestmark = pytest.mark.filterwarnings("default")

Cli = Callable[..., Outcome]


def findings(outcome: Outcome) -> dict[str, dict[str, Any]]:
    return {finding["check"]: finding for finding in outcome.validated(results.Diagnosis)["findings"]}


def test_doctor_finds_nothing_wrong_with_the_digits(cli: Cli, trained: Trained) -> None:
    found = findings(cli("doctor", "--dataset", "digits", "--json", store=trained).succeeded())
    of_this_machine = {"threads", "loader", "disk", "temporary files"}
    assert {found[check]["status"] for check in found.keys() - of_this_machine} == {"ok"}
    assert {
        "packages", "device", "data files", "balance", "duplicates", "draws", "augmentation", "loader",
        "tracking", "disk", "temporary files",
    } <= set(found)  # fmt: skip
    assert "1 thread" in found["threads"]["detail"] or found["threads"]["status"] == "warn"


def test_doctor_says_what_is_wrong_with_a_folder(cli: Cli, tmp_path: Path) -> None:
    colour_folder(tmp_path / "photos" / "train", {"red": (200, 0, 0)}, images=40, side=16)
    colour_folder(tmp_path / "photos" / "train", {"blue": (0, 0, 200)}, images=4, side=16)
    copied = tmp_path / "photos" / "test" / "blue" / "again.png"
    copied.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "photos" / "train" / "blue" / "00.png", copied)
    outcome = cli("doctor", "--dataset", "folder:photos", "--image-size", "16")
    assert outcome.succeeded().line == "warn"
    assert "40 (red) images a class" in outcome.err
    assert "1 image of the test split in the training split, too" in outcome.err.replace("\n", " ").replace(
        "  ", " "
    )


def test_doctor_says_what_to_do_about_a_damaged_image(cli: Cli, tmp_path: Path) -> None:
    colour_folder(tmp_path / "photos", {"red": (200, 0, 0), "blue": (0, 0, 200)}, images=10, side=16)
    (tmp_path / "photos" / "red" / "03.png").write_bytes(b"no picture")
    outcome = cli("doctor", "--dataset", "folder:photos", "--image-size", "16", "--json")
    found = findings(outcome.failed(1, "not fit to train: data files"))["data files"]
    assert "03.png: cannot be read: not an image" in found["detail"]
    assert found["remedy"] == "replace or remove it"


def test_doctor_shows_where_a_check_failed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifarkit.sessions.doctor.disk", lambda uri: 1 / 0)
    assert "ZeroDivisionError" not in cli("doctor", "--dataset", "digits").err
    outcome = cli("doctor", "--dataset", "digits", "--debug")
    assert outcome.code == 1
    assert "ZeroDivisionError: division by zero" in outcome.err


def test_doctor_fails_where_training_would(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    at = ("--tracking-uri", f"sqlite:///{tmp_path}/file/mlflow.db")
    outcome = cli("doctor", "--data-dir", "nowhere", "--gpus", "9", *at)
    outcome.failed(1, "not fit to train: device, data files, tracking")
    assert outcome.out == "fail\n"
    assert "-> cifarkit data download cifar10" in outcome.err
    outcome = cli("doctor", "--dataset", "folder:nowhere")
    assert outcome.code == 1
    assert "check --dataset and --data-dir" in " ".join(outcome.err.split())
