"""Finding runs, and telling which of them are alive."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tracking_harness import EXPERIMENT, FIT, HERE, row

from cifarkit import tracking
from cifarkit.errors import RunNotFound
from cifarkit.tracking import (
    Journal,
    RunRecorder,
    end_vanished,
    find_run,
    is_alive,
    list_fits,
    noted_ends,
    processes,
    recording,
    sync,
)
from cifarkit.tracking.journal import run_folder
from cifarkit.tracking.processes import this_process
from cifarkit.tracking.runs import HEARTBEAT, PARENT

# MLflow 3.17 on SQLAlchemy 2.1: both theirs, and raised on the recorder's thread.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


def found(client: Any, reference: str, **changes: Any) -> str:
    run_id: str = find_run(client, reference, EXPERIMENT, **changes).info.run_id
    return run_id


def test_last_is_the_latest_finished_fit(client: Any, add_run: Any) -> None:
    add_run()
    latest = add_run()
    for status in ("KILLED", "FAILED", "RUNNING"):
        add_run(status)
    add_run(tags={tracking.KIND: "lr-find"})
    add_run(tags={})
    assert found(client, "last") == latest


def test_last_is_the_fit_that_finished_last_not_the_one_that_began_last(client: Any, add_run: Any) -> None:
    resumed = add_run("KILLED")
    add_run()
    time.sleep(0.01)  # ends are stamped in milliseconds
    client.set_terminated(resumed, "FINISHED")
    assert found(client, "last") == resumed


def test_fits_are_listed_with_the_last_sample_until_all_images_were_looked_at(
    client: Any, add_run: Any
) -> None:
    add_run("KILLED")
    sampled, whole = add_run("KILLED"), add_run(acc=0.75)
    for step, accuracy in enumerate((0.5, 0.625), start=1):
        client.log_metric(sampled, "val/acc", accuracy, step=step)
    client.log_metric(whole, "val/acc", 0.5)
    listed = list_fits(client, EXPERIMENT, 20)
    assert [(row.val_acc, row.val_sampled) for row in listed] == [(0.75, False), (0.625, True), (None, False)]


def test_fits_of_several_seeds_are_listed_below_their_run(client: Any, add_run: Any) -> None:
    def add_seeds(parent: str) -> list[str]:
        return [add_run(tags=FIT | {PARENT: parent}) for _ in range(2)]

    orphan = add_run(tags=FIT | {PARENT: "0" * 32})
    first, second = add_run(), add_run()
    of_second, of_first = add_seeds(second), add_seeds(first)
    listed = [row.run_id for row in list_fits(client, EXPERIMENT, 20)]
    assert listed == [second, *of_second, first, *of_first, orphan]
    assert [row.run_id for row in list_fits(client, EXPERIMENT, 2)] == listed[:2]


@pytest.fixture
def with_checkpoint(client: Any, tmp_path: Path) -> Callable[[str], str]:
    def add(run_id: str) -> str:
        (tmp_path / "last.ckpt").write_bytes(b"weights")
        client.log_artifact(run_id, str(tmp_path / "last.ckpt"), "checkpoints")
        return run_id

    return add


def test_last_unfinished_is_the_latest_fit_that_can_go_on(
    client: Any, add_run: Any, with_checkpoint: Any
) -> None:
    with_checkpoint(add_run("FAILED"))
    killed = with_checkpoint(add_run("KILLED"))
    with_checkpoint(add_run())
    add_run("KILLED")  # before its first checkpoint
    at_work = {tracking.PROCESS: this_process()}
    with_checkpoint(add_run("RUNNING", tags=FIT | at_work))
    assert found(client, "last", unfinished=True) == killed


@pytest.mark.parametrize("mark", ["", "{host}/1@1", "{host}/999999999@1"])
def test_a_run_whose_process_is_gone_can_go_on(
    mark: str, client: Any, add_run: Any, with_checkpoint: Any
) -> None:
    tags = {tracking.PROCESS: mark.format(host=HERE)} if mark else {}
    vanished = with_checkpoint(add_run("RUNNING", tags=FIT | tags))
    assert found(client, "last", unfinished=True) == vanished


@pytest.mark.parametrize(("age", "alive"), [(None, True), (20, True), (1000, False)])
def test_on_another_host_the_heartbeat_tells(
    age: float | None, alive: bool, client: Any, add_run: Any
) -> None:
    tags = FIT | {tracking.PROCESS: "elsewhere/1@1"}
    if age is not None:
        tags[HEARTBEAT] = f"{time.time() - age:.0f}"
    assert is_alive(client.get_run(add_run("RUNNING", tags=tags))) is alive


def test_a_run_whose_process_is_gone_gets_a_true_end(client: Any, add_run: Any) -> None:
    gone = add_run("RUNNING", tags=FIT | {tracking.PROCESS: f"{HERE}/999999999@1"})
    at_work = add_run("RUNNING", tags=FIT | {tracking.PROCESS: this_process()})
    foreign = add_run("RUNNING", tags={})
    experiment = tracking.experiment_id(client, EXPERIMENT)
    assert end_vanished(client, experiment) == [gone]
    statuses = [client.get_run(run).info.status for run in (gone, at_work, foreign)]
    assert statuses == ["FAILED", "RUNNING", "RUNNING"]
    assert "(999999999 on" in client.get_run(gone).data.tags[tracking.ERROR]
    assert end_vanished(client, experiment) == []


@pytest.mark.parametrize(("beat", "end"), [(1000, 1_001_000), (1031, 1_031_000)])
def test_a_run_that_is_gone_ends_with_its_last_beat(beat: int, end: int, client: Any, add_run: Any) -> None:
    tags = {tracking.PROCESS: f"{HERE}/999999999@1", HEARTBEAT: str(beat)}
    gone = add_run("RUNNING", tags=FIT | tags)
    end_vanished(client, tracking.experiment_id(client, EXPERIMENT))
    info = client.get_run(gone).info
    assert (info.start_time, info.end_time) == (1_001_000, end)


def test_a_run_that_noted_its_end_gets_that_one(client: Any, add_run: Any, recorder: RunRecorder) -> None:
    gone = add_run("RUNNING", tags=FIT | {tracking.PROCESS: f"{HERE}/999999999@1"})
    journal = Journal(run_folder(gone))
    journal.open(gone, client.tracking_uri, f"{HERE}/999999999@1")
    journal.add("status", status="KILLED", milliseconds=1_700_000_000_000)
    assert noted_ends() == {gone: ("KILLED", 1_700_000_000_000)}
    recorder.start(FIT)
    run = client.get_run(gone)
    assert (run.info.status, run.info.end_time) == ("KILLED", 1_700_000_000_000)
    assert tracking.ERROR not in run.data.tags
    assert sync(journal)[1] == []


def test_processes_numbered_apart_are_not_looked_up(
    client: Any, add_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = this_process()
    assert f"{os.getpid()} on {platform.node()}" == processes.describe(mark)
    monkeypatch.setattr(processes, "_here", lambda: f"{platform.node()}~container")
    tags = FIT | {tracking.PROCESS: mark.replace(f"/{os.getpid()}@", "/999999999@")}
    beating = add_run("RUNNING", tags=tags | {HEARTBEAT: f"{time.time() - 20:.0f}"})
    silent = add_run("RUNNING", tags=tags | {HEARTBEAT: f"{time.time() - 1000:.0f}"})
    assert is_alive(client.get_run(beating))
    assert not is_alive(client.get_run(silent))


def test_a_diverged_run_is_not_the_last_to_go_on(client: Any, add_run: Any, with_checkpoint: Any) -> None:
    killed = with_checkpoint(add_run("KILLED"))
    diverged = {tracking.ERROR: "the loss has diverged (epoch 1, step 2); try a lower --lr"}
    with_checkpoint(add_run("FAILED", tags=FIT | diverged))
    assert found(client, "last", unfinished=True) == killed


def test_one_of_several_seeds_goes_on_with_the_others(client: Any, add_run: Any) -> None:
    parent = add_run("KILLED", tags=FIT | {tracking.PLAN: "{}"})
    child = add_run("KILLED", tags=FIT | {tracking.PLAN: "{}", tracking.PARENT: parent})
    assert found(client, "last", unfinished=True) == parent
    assert found(client, child[:8], unfinished=True) == child
    (only,) = tracking.find_children(client, client.get_run(parent))
    assert only.info.run_id == child


def test_that_the_latest_is_finished_is_said(client: Any, add_run: Any) -> None:
    add_run()
    latest = add_run()
    with pytest.raises(RunNotFound, match=f"the latest, run {latest[:8]}, is finished"):
        found(client, "last", unfinished=True)


def test_a_new_run_ends_those_that_vanished(client: Any, add_run: Any, recorder: RunRecorder) -> None:
    gone = add_run("RUNNING", tags=FIT | {tracking.PROCESS: f"{HERE}/999999999@1"})
    recorder.start(FIT)
    assert client.get_run(gone).info.status == "FAILED"


def test_a_fit_that_tells_its_plan_can_go_on_without_a_checkpoint(client: Any, add_run: Any) -> None:
    planned = add_run("KILLED", tags=FIT | {tracking.PLAN: "{}"})
    assert found(client, "last", unfinished=True) == planned


def test_best_is_the_finished_fit_with_the_highest_accuracy(client: Any, add_run: Any) -> None:
    add_run(acc=0.5)
    best = add_run(acc=0.9)
    add_run(acc=0.7)
    add_run()
    add_run("KILLED", acc=0.99)
    assert found(client, "best") == best


def test_looks_at_the_test_split_are_counted_over_an_experiment(
    recorder: RunRecorder, client: Any, add_run: Any
) -> None:
    run_id = recorder.start(FIT)
    with recording(recorder):
        for epoch in (1, 2, 3):
            recorder.on_epoch(row(epoch), True)
        recorder.on_epoch(replace(row(4), val_split="val"), True)
    assert client.get_run(run_id).data.metrics["test_looks"] == 3
    assert tracking.count_look(client, client.get_run(run_id), "digits") == 4
    other = add_run()
    assert tracking.count_look(client, client.get_run(other), "digits") == 5
    assert tracking.count_look(client, client.get_run(run_id), "digits") == 6
    asked = client.get_run(run_id).data.metrics
    assert (asked["test_looks"], asked["test_looks_asked"]) == (3, 2)
    # A training that goes on counts its epochs, and forgets no question.
    client.log_metric(run_id, "test_looks", 4, step=5)
    assert tracking.count_look(client, client.get_run(run_id), "digits") == 8


def test_looks_at_other_data_sets_do_not_count(client: Any, add_run: Any) -> None:
    digits, photos = (add_run(tags=FIT | {"dataset": name}) for name in ("digits", "folder:photos"))

    def count(run_id: str, dataset: str) -> int | None:
        return tracking.count_look(client, client.get_run(run_id), dataset)

    assert [count(digits, "digits") for _ in range(2)] == [1, 2]
    assert count(photos, "folder:photos") == 1
    # A network may be asked about another data set than it was trained on.
    assert [count(digits, "folder:photos") for _ in range(2)] == [2, 3]
    assert count(digits, "folder:Bilder von früher & heute") == 1
    assert (count(digits, "digits"), count(photos, "folder:photos")) == (3, 4)


def test_of_two_processes_that_look_at_once_both_are_counted(client: Any, add_run: Any) -> None:
    run_id = add_run()
    assert tracking.count_look(client, client.get_run(run_id), "digits") == 1
    time.sleep(0.002)
    client.log_metric(run_id, "test_looks_asked", 1, step=1)  # of one that had found none before it
    assert tracking.count_look(client, client.get_run(run_id), "digits") == 3


def test_an_id_or_a_unique_prefix(client: Any, add_run: Any) -> None:
    first, killed = add_run(), add_run("KILLED")
    assert found(client, first) == first
    for run_id, other in ((first, killed), (killed, first)):
        unique = next(run_id[:n] for n in range(4, 32) if not other.startswith(run_id[:n]))
        assert found(client, unique) == run_id


def test_a_whole_id_is_found_in_any_experiment(client: Any, add_run: Any) -> None:
    run_id = add_run()
    assert find_run(client, run_id, "another").info.run_id == run_id


def test_an_ambiguous_prefix(client: Any, add_run: Any) -> None:
    ids = [add_run() for _ in range(17)]  # two of them begin alike
    shared = next(i[0] for i in ids if sum(other[0] == i[0] for other in ids) > 1)
    with pytest.raises(RunNotFound, match=f"runs start with '{shared}'.*the latest are: {ids[-1][:8]}"):
        found(client, shared)


@pytest.mark.parametrize("reference", ["zzz", "f" * 31 + "x"])
def test_an_unknown_run(client: Any, add_run: Any, reference: str) -> None:
    run_id = add_run()
    with pytest.raises(RunNotFound, match=f"no run has the id '{reference}'.*latest are: {run_id[:8]}"):
        found(client, reference)


@pytest.mark.parametrize("reference", ["last", "zzz"])
def test_an_unknown_experiment(client: Any, add_run: Any, reference: str) -> None:
    add_run()
    with pytest.raises(RunNotFound, match=r"there is no experiment 'tril', only trial.*`cifarkit fit` first"):
        find_run(client, reference, "tril")


@pytest.mark.parametrize("reference", ["last", "best"])
def test_before_the_first_fit(client: Any, add_run: Any, reference: str) -> None:
    for _ in range(2):
        with pytest.raises(RunNotFound, match=r"no finished fit in the experiment 'trial' yet.*cifarkit fit"):
            found(client, reference)
        add_run("FAILED")
