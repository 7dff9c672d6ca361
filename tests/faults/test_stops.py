"""Signals outside the epochs of a training and in every other command, and a target that is never reached."""

from __future__ import annotations

import json
import random
import re
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from real_process import Start
from run_store import Store

FIT = ("fit", "--dataset", "digits", "--epochs")


def test_ctrl_c_after_the_last_epoch(start: Start, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    process = start(*FIT, "1", folder=tmp_path, TMPDIR=str(tmp_path / "scratch"))
    process.until_it_says("drawing the figures")
    process.signal(signal.SIGINT)
    assert process.wait() == 130
    assert process.said.endswith("error: interrupted\n")
    assert "what is missing is drawn by `cifarkit fit --resume" in process.said.replace("\n", " ")
    assert (tmp_path / "stdout").read_text() == ""
    store = Store(tmp_path)
    ((run_id, status),) = store.runs.items()
    assert status == "KILLED"
    assert list((tmp_path / "scratch").glob("cifarkit*")) == []
    # Nothing is left to train; what is missing is drawn and exported.
    process = start("fit", "--resume", "last", folder=tmp_path)
    assert process.wait() == 0, process.said
    assert process.answer == run_id
    assert store.runs == {run_id: "FINISHED"}
    files = store.files(run_id)
    assert {"model/MLmodel", "reports/fit.json", "figures/curves.png", "figures/misclassified.png"} <= files
    assert [step for step, _ in store.history(run_id, "val/acc")] == [1]


def test_a_resumed_run_may_miss_its_target(start: Start, tmp_path: Path) -> None:
    process = start(*FIT, "4", "--target-acc", "0.9999", folder=tmp_path)
    process.until_it_says("\n    1 ")
    process.signal(signal.SIGINT)
    assert process.wait() == 130, process.said
    store = Store(tmp_path)
    (run_id,) = store.runs
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("UPDATE tags SET value = 'another, 8 cores, fp32' WHERE key = 'hardware'")
        connection.commit()
    process = start("fit", "--resume", "last", "--max-epochs", "3", folder=tmp_path)
    assert process.wait() == 2
    assert "planned for 4 epochs" in process.said
    assert store.runs == {run_id: "KILLED"}
    # How many runs to make is for new trainings.
    process = start("fit", "--resume", "last", folder=tmp_path, figures=False, CIFARKIT_RUNS="2")
    assert process.wait() == 3
    said = process.said.replace("\n", " ")
    assert "stayed below the target 99.99% in 4 epochs" in said
    assert "so far it ran on another, 8 cores, fp32: here, rounding will differ" in said
    assert store.runs == {run_id: "FINISHED"}


def test_several_seeds_go_on_where_they_were_and_as_they_were_called(start: Start, tmp_path: Path) -> None:
    named = ("--experiment", "mine", "--run-name", "mine", "--runs", "3", "--gpus", "0")
    process = start(*FIT, "4", *named, folder=tmp_path)
    process.until(lambda: "\n    1 " in process.said.partition("seed 1,")[2])
    process.signal(signal.SIGINT)
    assert process.wait() == 130, process.said
    store = Store(tmp_path)
    parent, first, _ = store.runs
    assert list(store.runs.values()) == ["KILLED", "FINISHED", "KILLED"]
    hint = re.findall(r"go on with `cifarkit ([^`]*)`", process.said.replace("\n", " "))[-1]
    assert hint.split() == ["fit", "--resume", parent, "--gpus", "0"]
    told = (store.artifacts(first) / "reports" / "fit.json").read_text()
    # Whoever asks for another target gets no for an answer, and the run stays as it was.
    process = start(*hint.split(), "--target-acc", "0.5", folder=tmp_path)
    assert process.wait() == 2
    assert list(store.runs.values()) == ["KILLED", "FINISHED", "KILLED"]
    process = start(*hint.split(), folder=tmp_path, OMP_NUM_THREADS="2")
    assert process.wait() == 0, process.said
    assert set(store.runs.values()) == {"FINISHED"}
    query = "SELECT runs.name, experiments.name FROM runs JOIN experiments USING (experiment_id)"
    names = ("mine-3-seeds", "mine-seed0", "mine-seed1", "mine-seed2")
    assert sorted(store.rows(query)) == [(name, "mine") for name in names]
    summary = json.loads((store.artifacts(parent) / "reports" / "runs.json").read_text())
    assert summary["fits"][0] == json.loads(told)
    assert [fit["epochs"] for fit in summary["fits"]] == [4, 4, 4]


def test_ctrl_c_in_the_range_test(start: Start, tmp_path: Path) -> None:
    process = start(*FIT, "1", "--lr", "auto", folder=tmp_path)
    process.until_it_says("range test for the learning rate")
    process.signal(signal.SIGINT)
    assert process.wait() == 130, process.said
    store = Store(tmp_path)
    ((run_id, status),) = store.runs.items()
    assert status == "KILLED"
    assert f"go on with `cifarkit fit --resume {run_id}" in process.said.replace("\n", " ")
    assert store.history(run_id, "val/acc") == []
    process = start("fit", "--resume", "last", folder=tmp_path, figures=False)
    assert process.wait() == 0, process.said
    assert store.runs == {run_id: "FINISHED"}
    found = json.loads((store.artifacts(run_id) / "reports" / "lr_range_test.json").read_text())["suggestion"]
    query = "SELECT value FROM params WHERE run_uuid = ? AND key = 'lr'"
    assert [float(value) for (value,) in store.rows(query, run_id)] == [found]
    assert [step for step, _ in store.history(run_id, "val/acc")] == [1]


@pytest.mark.slow
def test_ctrl_c_when_all_seeds_are_trained(start: Start, tmp_path: Path) -> None:
    process = start(*FIT, "1", "--runs", "2", folder=tmp_path)
    process.until_it_says("drawing the figures")
    process.signal(signal.SIGINT)
    assert process.wait() == 130, process.said
    store = Store(tmp_path)
    parent, *seeds = store.runs
    assert list(store.runs.values()) == ["KILLED", "FINISHED", "FINISHED"]
    assert f"go on with `cifarkit fit --resume {parent}`" in process.said.replace("\n", " ")
    told = [(store.artifacts(seed) / "reports" / "fit.json").read_bytes() for seed in seeds]
    before = process.said
    process = start("fit", "--resume", "last", folder=tmp_path)
    assert process.wait() == 0, process.said
    assert process.answer == parent
    assert "\n    1 " not in process.said.removeprefix(before)
    assert [(store.artifacts(seed) / "reports" / "fit.json").read_bytes() for seed in seeds] == told
    assert list(store.runs) == [parent, *seeds]
    assert set(store.runs.values()) == {"FINISHED"}
    assert {"model/MLmodel", "reports/runs.json", "figures/curves.png"} <= store.files(parent)


COMMANDS = (
    "eval --tta", "misclassified", "gradcam --limit 4", "gradcam --method scorecam --limit 1",
    "lr-find --dataset digits", "bench --dataset digits --seconds 0.1", "doctor --dataset digits",
    "data preview digits --stages", "data stats digits", "data verify digits", "runs list",
    "summary resnet18",
)  # fmt: skip


@pytest.mark.slow
def test_a_signal_at_a_random_moment_of_any_command(start: Start, tmp_path: Path) -> None:
    """It leaves within seconds, says so in one line, and leaves nothing behind."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    draw = random.Random(100)
    assert start(*FIT, "2", folder=tmp_path).wait() == 0
    stops = 0
    for command in COMMANDS:
        begun = time.monotonic()
        assert start(*command.split(), folder=tmp_path).wait() == 0, command
        seconds = time.monotonic() - begun
        for number, code, end in 2 * [
            (signal.SIGINT, 130, "error: interrupted\n"),
            (signal.SIGTERM, 143, "error: terminated\n"),
        ]:
            said = (tmp_path / "stderr").read_text()
            process = start(*command.split(), folder=tmp_path, TMPDIR=str(scratch))
            time.sleep(0.1 + 0.9 * draw.random() * seconds)
            process.signal(number)
            asked = time.monotonic()
            left_with = process.wait()
            words = process.said.removeprefix(said)
            assert left_with in (code, 0), (command, words)
            assert "Traceback" not in words
            if left_with:
                stops += 1
                assert time.monotonic() - asked < 5, command
                assert words.endswith(end), command
            assert list(scratch.glob("cifarkit*")) == [], command
    assert stops > 2 * len(COMMANDS)
