"""SIGKILL and Ctrl-C at any moment: the run goes on and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from fault_harness import assert_same_training
from filelock import FileLock
from real_process import Start
from run_store import Store

# Hard examples are the part whose state is easily lost; growing images are in tests/training/test_fit.py.
FIT = (
    "fit", "--dataset", "digits", "--recipe", "fast", "--model", "small-cnn", "--optimizer", "adamw",
    "--lr", "0.003", "--epochs", "4", "--batch-size", "128", "--seed", "3",
)  # fmt: skip
RESUME = ("fit", "--resume")
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


@pytest.fixture(scope="session")
def reference(start: Start, shared_folder: Path) -> tuple[Store, str, float]:
    """The training that nothing disturbed, and the seconds that it took; one for all test processes."""
    folder = shared_folder / "reference"
    took = folder / "seconds"
    with FileLock(shared_folder / "reference.lock"):
        if not took.exists():
            took.parent.mkdir()
            took.write_text(str(seconds_of_a_training(start, folder)))
    (run_id,) = Store(folder).runs
    return Store(folder), run_id, float(took.read_text())


def seconds_of_a_training(start: Start, folder: Path, *, new_store: bool = False) -> float:
    began = time.monotonic()
    process = start(*FIT, folder=folder, new_store=new_store)
    assert process.wait() == 0, process.said
    return time.monotonic() - began


@pytest.mark.slow  # those that were stopped are equal, too
def test_two_trainings_are_equal(start: Start, tmp_path: Path, reference: tuple[Store, str, float]) -> None:
    seconds_of_a_training(start, tmp_path)
    store = Store(tmp_path)
    assert_same_training(store, *store.runs, reference[0], reference[1])


def stopped_and_resumed(
    start: Start,
    folder: Path,
    reference: tuple[Store, str, float],
    moments: list[tuple[float, signal.Signals]],
    *,
    new_store: bool = False,
) -> int:
    """Start, send a signal after a share of the time that the whole takes, go on, send another, ...; then to
    the end.

    Returns:
        How often there was something to stop.
    """
    whole, whole_id, seconds = reference
    store, stops = Store(folder), 0
    for moment, number in [*moments, (None, None)]:
        run_ids = list(store.runs)
        arguments = (*RESUME, run_ids[0]) if run_ids else FIT
        process = start(*arguments, folder=folder, new_store=new_store)
        if moment is None or number is None:
            assert process.wait() == 0, process.said
            break
        deadline = time.monotonic() + moment * seconds
        while time.monotonic() < deadline and "FINISHED" not in store.runs.values():
            time.sleep(0.005)
        process.signal(number)
        assert process.wait() in (-signal.SIGKILL, 130, 143, 0), process.said
        if "FINISHED" in store.runs.values():
            break
        stops += 1
    (run_id,) = store.runs
    assert_same_training(store, run_id, whole, whole_id)
    if (folder / ".cifarkit").exists():  # killed between the end of the run and that of its folder
        process = start("runs", "sync", folder=folder)
        assert process.wait() == 0, process.said
    assert not (folder / ".cifarkit").exists()
    return stops


def test_killed_interrupted_and_terminated(
    start: Start, tmp_path: Path, reference: tuple[Store, str, float]
) -> None:
    moments = [(0.25, signal.SIGKILL), (0.3, signal.SIGINT), (0.5, signal.SIGTERM)]
    assert stopped_and_resumed(start, tmp_path, reference, moments) >= 1


@pytest.mark.slow
def test_stopped_at_many_random_moments(
    start: Start, tmp_path: Path, reference: tuple[Store, str, float]
) -> None:
    reference = *reference[:2], seconds_of_a_training(start, tmp_path, new_store=True)
    draw, stops, trial = random.Random(100), dict.fromkeys(SIGNALS, 0), 0
    while min(stops.values()) < 16:
        folder = tmp_path / str(trial)
        folder.mkdir()
        number = SIGNALS[trial % 3]
        moments = [(draw.random(), number) for _ in range(3)]
        stops[number] += stopped_and_resumed(start, folder, reference, moments, new_store=True)
        trial += 1


def test_several_seeds_go_on_with_the_one_that_was_killed(
    start: Start, tmp_path: Path, reference: tuple[Store, str, float]
) -> None:
    """The second seed is the reference's."""
    process = start(*FIT[:-1], "2", "--runs", "2", folder=tmp_path)
    process.until(lambda: "\n    2 " in process.said.partition("seed 3")[2])
    process.kill()
    store = Store(tmp_path)
    parent, first, second = store.runs
    process = start(*RESUME, "last", folder=tmp_path)
    assert process.wait() == 0, process.said
    assert process.said.count("\n    4 ") == 2  # the first seed was not trained again
    assert list(store.runs.items()) == [(run, "FINISHED") for run in (parent, first, second)]
    assert_same_training(store, second, reference[0], reference[1], with_figures=False)
    assert {"reports/runs.json", "figures/curves.png", "figures/seeds.png", "model/MLmodel"} <= store.files(
        parent
    )
    summary = json.loads((store.artifacts(parent) / "reports" / "runs.json").read_text())
    assert [(fit["seed"], fit["run_id"]) for fit in summary["fits"]] == [(2, first), (3, second)]
    assert "--runs 2" in summary["evidence"]["command"]
    process = start(*RESUME, parent, folder=tmp_path)
    assert process.wait() == 2
    assert "this run is finished" in process.said


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(
    start: Start, tmp_path: Path, reference: tuple[Store, str, float]
) -> None:
    process = start(*FIT, folder=tmp_path)
    process.until_it_says("\n    3 ")
    process.kill()
    store = Store(tmp_path)
    (run_id,) = store.runs
    journal = tmp_path / ".cifarkit" / run_id
    # As if the disk had lost what the run kept, and the end of the last file.
    for path in sorted(journal.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    last = store.artifacts(run_id) / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    process = start(*RESUME, run_id[:8], folder=tmp_path, figures=False)
    assert process.wait() == 0, process.said
    assert "the last checkpoint of run" in process.said
    assert "is damaged" in process.said
    assert_same_training(store, run_id, reference[0], reference[1], with_figures=False)


def test_a_signal_to_everything_that_belongs_to_a_training(start: Start, tmp_path: Path) -> None:
    """As a terminal and a scheduler send it: the processes that load images get it, too."""
    process = start(*FIT[:-1], "3", "--workers", "1", "--epochs", "50", folder=tmp_path)
    process.until_it_says("\n    2 ")
    os.killpg(process.number, signal.SIGTERM)
    assert process.wait() == 143, process.said
    assert "stopped after" in process.said
    assert list(Store(tmp_path).runs.values()) == ["KILLED"]


def test_a_run_at_work_is_not_resumed(start: Start, tmp_path: Path) -> None:
    process = start(*FIT, folder=tmp_path)
    process.until_it_says("\n    1 ")
    (run_id,) = Store(tmp_path).runs
    second = start(*RESUME, run_id[:8], folder=tmp_path)
    assert second.wait() == 2
    assert f"error: run {run_id[:8]} is still being trained" in second.said
    process.kill()


def test_a_vanished_run_is_shown_as_such(start: Start, tmp_path: Path) -> None:
    process = start(*FIT, folder=tmp_path)
    process.until(lambda: "RUNNING" in Store(tmp_path).runs.values())
    process.kill()
    listed = start("runs", "list", folder=tmp_path, COLUMNS="80")
    assert listed.wait() == 0, listed.said
    store = Store(tmp_path)
    assert list(store.runs.values()) == ["FAILED"]
    (run_id,) = store.runs
    assert str(process.number) in str(store.tag(run_id, "cifarkit.error"))
    assert "is gone" in listed.said
