"""Recording a run as it happens, and what becomes of it when the store is away."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from tracking_harness import EXPERIMENT, FIT, Unreliable, left_by_us, row, runs_in

from cifarkit import tracking
from cifarkit.errors import CifarkitError, Interrupted, Stopped, Terminated, TrackingError, UsageError
from cifarkit.tracking import Journal, RunRecorder, fetch_artifact, left_behind, recording, sync
from cifarkit.tracking import journal as journal_module
from cifarkit.tracking import recorder as recorder_module
from cifarkit.tracking.journal import JOURNAL, UNSENT, lock_folder, run_folder
from cifarkit.tracking.processes import is_process, this_process

# MLflow 3.17 on SQLAlchemy 2.1: both theirs, and raised on the recorder's thread.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


def test_a_whole_run(recorder: RunRecorder, client: Any, tmp_path: Path) -> None:
    (tmp_path / "curve.png").write_bytes(b"png")
    (tmp_path / "fit.json").write_text("{}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("flavors:")
    run_id = recorder.start(FIT | {"dataset": "digits"})
    with recording(recorder):
        recorder.log_dataset("digits train", "0123456789abcdef", "training")
        recorder.log_params({"lr": 0.1, "image_scale": [0.5, 1.0], "target_acc": None})
        recorder.set_tags({"later": "too"})
        for epoch in (1, 2, 3):
            recorder.on_step(epoch, 1, 2, 10.0)
            recorder.on_validation(epoch)
            recorder.on_epoch(row(epoch), True)
        recorder.log_metrics({"best_val_acc": 0.75, "time_to_target_seconds": None}, step=3)
        recorder.log_reports([tmp_path / "curve.png", tmp_path / "fit.json"])
        recorder.log_folder(tmp_path / "model", "model")
        recorder.log_text("a table", "summary.txt")
    assert recorder.problems == []
    assert not UNSENT.exists()
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.end_time >= run.info.start_time
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits train", "0123456789abcdef")
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    assert run.data.params == {"lr": "0.1", "image_scale": "[0.5, 1.0]", "target_acc": "None"}
    assert run.data.tags.items() >= {tracking.KIND: "fit", "dataset": "digits", "later": "too"}.items()
    history = client.get_metric_history(run_id, "val/acc")
    assert [(m.step, m.value) for m in history] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert {
        "train/loss", "train/acc", "val/loss", "val/acc", "lr", "images_per_second", "epoch_seconds",
        "best_val_acc", "test_looks",
    } == {name for name in run.data.metrics if not name.startswith("system/")}  # fmt: skip
    assert [f.path for f in client.list_artifacts(run_id)] == ["figures", "model", "reports", "summary.txt"]
    assert [f.path for f in client.list_artifacts(run_id, "figures")] == ["figures/curve.png"]
    assert [f.path for f in client.list_artifacts(run_id, "reports")] == ["reports/fit.json"]
    fetched = fetch_artifact(client, run_id, "summary.txt", tmp_path)
    assert fetched.read_text() == "a table"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CifarkitError("no"), "FAILED"),
        (ValueError("unexpected"), "FAILED"),
        (SystemExit(1), "FAILED"),
        (Interrupted("interrupted"), "KILLED"),
        (Terminated("terminated"), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
    ],
    ids=repr,
)
def test_the_status_tells_how_it_ended(
    recorder: RunRecorder, client: Any, error: BaseException, status: str
) -> None:
    run_id = recorder.start(FIT)

    def train() -> None:
        recorder.on_epoch(row(1), True)
        raise error

    with pytest.raises(type(error)), recording(recorder):
        train()
    run = client.get_run(run_id)
    assert run.info.status == status
    assert run.data.metrics["val/acc"] == 0.25  # what was measured before is kept
    assert ("cifarkit.error" in run.data.tags) == (status == "FAILED")


@pytest.mark.parametrize("second", [KeyboardInterrupt(), Terminated("terminated")], ids=repr)
def test_a_second_signal_waits_for_no_store(
    recorder: RunRecorder, client: Any, monkeypatch: pytest.MonkeyPatch, second: BaseException
) -> None:
    run_id = recorder.start(FIT)
    recorder.flush()

    def impatient() -> None:
        try:
            raise Interrupted("interrupted")
        finally:  # the first is still on its way up
            raise second

    with monkeypatch.context() as patched:
        patched.setattr(recorder, "close", lambda status: pytest.fail("waits"))
        with pytest.raises(type(second)), recording(recorder):
            impatient()
    recorder._lock.release()  # as the end of its process does
    (journal,) = left_by_us()
    assert sync(journal)[1] == []
    assert client.get_run(run_id).info.status == "KILLED"


def test_a_signal_that_ends_the_waiting_leaves_a_true_status(
    recorder: RunRecorder, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = recorder.start(FIT)

    def wait(status: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(recorder, "close", wait)
        with pytest.raises(KeyboardInterrupt), recording(recorder):
            raise Interrupted("interrupted")
    recorder._lock.release()  # as the end of its process does
    (journal,) = left_by_us()
    assert sync(journal)[1] == []
    assert client.get_run(run_id).info.status == "KILLED"


def test_a_store_that_is_away_does_not_fill_the_disk(
    recorder: RunRecorder, client: Any, away: pytest.MonkeyPatch
) -> None:
    run_id = recorder.start(FIT)
    for epoch in range(5):
        path = recorder.folder / f"{epoch}" / "last.ckpt"
        path.parent.mkdir()
        path.write_text(f"{epoch}")
        recorder.log_artifact(path, "checkpoints", delete=True)
    recorder.close("KILLED")
    assert [path.read_text() for path in recorder.folder.rglob("last.ckpt")] == ["4"]
    away.undo()
    (journal,) = left_by_us()
    assert sync(journal)[1] == []
    assert fetch_artifact(client, run_id, "checkpoints/last.ckpt", Path()).read_text() == "4"


def test_the_machine_is_watched_while_the_store_is_away(
    recorder: RunRecorder, client: Any, away: pytest.MonkeyPatch
) -> None:
    away.setattr(recorder_module, "WATCH_SECONDS", 0.05)
    run_id = recorder.start(FIT)
    deadline = time.monotonic() + 30
    while len(recorder.journal.pending) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert all("system/cpu_utilization_percentage" in e.content["values"] for e in recorder.journal.pending)
    away.undo()
    recorder.close("FINISHED")
    watched = client.get_metric_history(run_id, "system/cpu_utilization_percentage")
    assert len(watched) >= 3
    assert {m.step for m in watched} <= set(range(31))
    assert not UNSENT.exists()


def test_a_file_that_replaces_itself_is_not_deleted(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for content in ("an epoch", "the same epoch again"):
        (tmp_path / "last.ckpt").write_text(content)
        journal.add("artifact", path="last.ckpt", place="checkpoints", delete=True)
    assert (tmp_path / "last.ckpt").read_text() == "the same epoch again"
    assert len(journal.pending) == 1


@pytest.mark.parametrize("survived", range(4))
def test_killed_while_one_file_replaces_another(
    survived: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it still did: a file waits to be sent, and no file is waited for that is gone."""

    class Killed(BaseException):
        pass

    left = [survived]

    def mortal(step: Callable[..., None]) -> Callable[..., None]:
        def take(*arguments: Any) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            step(*arguments)

        return take

    journal = Journal(tmp_path)
    journal.open("run", "uri", "process")
    for epoch in (1, 2):
        (tmp_path / str(epoch)).mkdir()
        (tmp_path / str(epoch) / "last.ckpt").write_text(f"epoch {epoch}")
    journal.add("artifact", path="1/last.ckpt", place="checkpoints", delete=True)
    monkeypatch.setattr(Journal, "_write", mortal(Journal._write))
    monkeypatch.setattr(Path, "unlink", mortal(Path.unlink))
    with pytest.raises(Killed) if survived < 3 else nullcontext():
        journal.add("artifact", path="2/last.ckpt", place="checkpoints", delete=True)
    pending = Journal(tmp_path).pending
    assert pending
    assert all((tmp_path / entry.content["path"]).exists() for entry in pending)
    assert [entry.content["path"] for entry in pending][-1] == f"{1 if survived == 0 else 2}/last.ckpt"


def test_a_run_that_was_silent_for_long_is_running_again(
    recorder: RunRecorder, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(recorder_module, "VANISHED_SECONDS", 0.01)
    run_id = recorder.start(FIT)
    client.set_tag(run_id, tracking.ERROR, "its process is gone")
    client.set_terminated(run_id, "FAILED")
    deadline = time.monotonic() + 20
    while client.get_run(run_id).info.status != "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.02)
    recorder.flush()
    assert client.get_run(run_id).info.status == "RUNNING"
    assert tracking.ERROR not in client.get_run(run_id).data.tags
    # Unless another process has taken it over.
    client.set_tag(run_id, tracking.PROCESS, "elsewhere/7@1")
    client.set_terminated(run_id, "KILLED")
    time.sleep(0.2)
    recorder.flush()
    assert client.get_run(run_id).info.status == "KILLED"


def test_the_journal_of_a_long_training_begins_anew(
    recorder: RunRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "LONG_BYTES", 2000)
    run_id = recorder.start(FIT)
    for epoch in range(1, 30):
        recorder.on_epoch(row(epoch), True)
        recorder.flush()
        assert (recorder.folder / JOURNAL).stat().st_size < 3000
    kept = Journal(recorder.folder)
    assert (kept.header, kept.pending) == (recorder.journal.header, [])
    assert kept.header["run_id"] == run_id


def test_the_end_that_was_not_sent_is_none_for_a_run_that_goes_on(
    uri: str, recorder: RunRecorder, client: Any, away: pytest.MonkeyPatch
) -> None:
    run_id = recorder.start(FIT)
    recorder.on_epoch(row(1), True)
    away.setattr(type(client), "set_terminated", lambda *arguments: 1 / 0)
    recorder.close("KILLED")
    away.undo()
    second = RunRecorder(uri, EXPERIMENT)
    second.start({}, resume=run_id)
    second.on_epoch(row(1), True)  # done again
    second.on_epoch(row(2), True)
    second.flush()
    assert client.get_run(run_id).info.status == "RUNNING"
    second.close("FINISHED")
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(run_id, "val/acc")] == [1, 2]
    assert not UNSENT.exists()


def test_one_process_at_a_time_goes_on_with_a_run(
    uri: str, client: Any, add_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = add_run("KILLED")
    monkeypatch.setattr("cifarkit.tracking.recorder.TAKE_OVER_SECONDS", 0.1)
    late = RunRecorder(uri, EXPERIMENT)
    with lock_folder(run_folder(run_id)), pytest.raises(UsageError, match="another process"):
        late.start({}, resume=run_id)
    late.close("FAILED")
    assert client.get_run(run_id).info.status == "KILLED"


def test_a_run_that_failed_for_a_while_has_no_reason_in_the_end(recorder: RunRecorder, client: Any) -> None:
    run_id = recorder.start(FIT)
    client.set_tag(run_id, tracking.ERROR, "its process is gone")
    recorder.close("FINISHED")
    assert tracking.ERROR not in client.get_run(run_id).data.tags


def test_what_a_stop_became_is_a_stop(
    recorder: RunRecorder, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = recorder.start(FIT)
    monkeypatch.setattr(Stopped, "requested", Terminated("terminated"))
    with pytest.raises(ValueError, match="matrix"), recording(recorder):
        raise ValueError("Invalid affine transformation matrix")
    run = client.get_run(run_id)
    assert run.info.status == "KILLED"
    assert tracking.ERROR not in run.data.tags


def test_what_a_killed_cleaning_left_goes(recorder: RunRecorder) -> None:
    run_id = recorder.start(FIT)
    recorder.close("FINISHED")
    with lock_folder(run_folder(run_id)):
        assert left_behind() == []
        assert UNSENT.exists()  # somebody is about to write there
    assert left_behind() == []
    assert not UNSENT.exists()


def test_a_process_is_known_again_after_its_clock_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = this_process()
    create_time, boot_time = psutil.Process.create_time, psutil.boot_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: create_time(process) + 3600)
    monkeypatch.setattr(psutil, "boot_time", lambda: boot_time() + 3600)
    assert this_process() == before
    assert is_process(before)


def test_a_run_is_running_until_it_ends(recorder: RunRecorder, client: Any) -> None:
    run_id = recorder.start(FIT)
    assert client.get_run(run_id).info.status == "RUNNING"
    assert recorder.run_id == run_id


def test_without_a_start_the_store_holds_nothing(uri: str, client: Any) -> None:
    RunRecorder(uri, EXPERIMENT).close("FAILED")
    assert runs_in(client) == []
    assert client.get_experiment_by_name(EXPERIMENT) is None


def test_a_store_that_takes_no_run_is_named(uri: str) -> None:
    recorder = RunRecorder(None, EXPERIMENT)

    def fail(*arguments: object, **options: object) -> None:
        raise OSError("read-only")

    recorder.client.create_run = fail
    with pytest.raises(TrackingError, match=rf"store {uri} cannot be used \(read-only\)"):
        recorder.start(FIT)
    recorder.close("FAILED")


def test_a_run_can_be_named(uri: str, client: Any) -> None:
    recorder = RunRecorder(uri, EXPERIMENT, "my run")
    run_id = recorder.start(FIT)
    recorder.close("FINISHED")
    assert client.get_run(run_id).info.run_name == "my run"


def test_a_resumed_run_goes_on(uri: str, client: Any, add_run: Any) -> None:
    run_id = add_run("KILLED")
    client.log_metric(run_id, "val/acc", 0.25, step=1)
    recorder = RunRecorder(uri, EXPERIMENT)
    assert recorder.start({}, resume=run_id) == run_id
    assert client.get_run(run_id).info.status == "RUNNING"
    with recording(recorder):
        recorder.on_epoch(row(2), True)
    assert [m.step for m in client.get_metric_history(run_id, "val/acc")] == [1, 2]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert len(runs_in(client)) == 1


def test_checkpoints_are_copied_before_they_are_deleted(
    recorder: RunRecorder, client: Any, tmp_path: Path
) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"weights")
    run_id = recorder.start(FIT)
    recorder.log_artifact(path, "checkpoints", delete=True)
    recorder.flush()
    assert not path.exists()
    assert fetch_artifact(client, run_id, "checkpoints/last.ckpt", tmp_path).read_bytes() == b"weights"


def test_what_cannot_be_recorded_is_noted_and_the_rest_goes_on(
    recorder: RunRecorder, client: Any, tmp_path: Path
) -> None:
    run_id = recorder.start(FIT)
    with recording(recorder):
        recorder.log_artifact(tmp_path / "nowhere.png", "figures")
        recorder.log_metrics({"best_val_acc": 0.5})
    assert len(recorder.problems) == 1
    assert recorder.problems[0].startswith("nowhere.png: ")
    assert recorder.unsent == 1
    assert client.get_run(run_id).data.metrics["best_val_acc"] == 0.5
    (tmp_path / "nowhere.png").write_bytes(b"png")
    (journal,) = left_by_us()
    assert sync(journal)[1] == []
    assert [f.path for f in client.list_artifacts(run_id, "figures")] == ["figures/nowhere.png"]
    assert not UNSENT.exists()


def test_the_status_is_true_whatever_could_not_be_recorded(
    recorder: RunRecorder, client: Any, tmp_path: Path
) -> None:
    run_id = recorder.start(FIT)
    with recording(recorder):
        for i in range(5):
            recorder.log_artifact(tmp_path / f"nowhere-{i}.png", "figures")
    assert len(recorder.problems) == 5
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_store_that_comes_back_is_sent_everything_in_order(
    recorder: RunRecorder, client: Any, store: Unreliable, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = recorder.start(FIT)
    with recording(recorder):
        recorder.on_epoch(row(1), True)
        recorder.flush()
        store.down = True
        recorder.on_epoch(row(2), True)
        recorder.flush()
        tries = store.tries
        recorder.on_epoch(row(3), True)
        recorder.flush()
        assert store.tries == tries  # nobody asks again at once
        assert client.get_run(run_id).data.metrics["val/acc"] == 0.25
        store.down = False
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "val/acc")] == [
        (1, 0.25), (2, 0.5), (3, 0.75)
    ]  # fmt: skip
    assert client.get_run(run_id).info.status == "FINISHED"
    assert recorder.unsent == 0
    assert not UNSENT.exists()


def test_a_store_that_comes_back_within_a_long_epoch(
    recorder: RunRecorder, client: Any, store: Unreliable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(recorder_module, "RETRY_SECONDS", 0.05)
    run_id = recorder.start(FIT)
    store.down = True
    recorder.log_metrics({"within": 1.0})
    recorder.flush()
    store.down = False
    deadline = time.monotonic() + 20
    while recorder.unsent and time.monotonic() < deadline:
        time.sleep(0.02)
    assert client.get_run(run_id).data.metrics == {"within": 1.0}


def test_a_long_end_says_what_it_waits_for(recorder: RunRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "SLOW_SECONDS", 0.01)
    close, heard = recorder.close, threading.Event()
    monkeypatch.setattr(recorder, "close", lambda status: (heard.wait(60), close(status)))
    told: list[str] = []
    recorder.start(FIT)
    with recording(recorder, lambda text: (told.append(text), heard.set())):
        assert not told
    assert told == [recorder_module.WAITING]


def test_a_full_temporary_folder_is_not_a_missing_artifact(
    client: Any, add_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = add_run()
    with pytest.raises(TrackingError, match=r"holds no checkpoints/best\.ckpt"):
        fetch_artifact(client, run_id, "checkpoints/best.ckpt", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(TrackingError, match=r"no space left in .* TMPDIR names another place"):
        fetch_artifact(client, run_id, "checkpoints/best.ckpt", tmp_path)


def test_what_another_host_left_is_known_by_its_silence(uri: str) -> None:
    journal = Journal(journal_module.run_folder("0" * 32))
    journal.open("0" * 32, uri, "elsewhere/1@1")
    assert left_behind() == []
    long_ago = time.time() - 1000
    os.utime(journal.folder / JOURNAL, (long_ago, long_ago))
    assert [each.folder for each in left_behind()] == [journal.folder]
    journal.touch()
    assert left_behind() == []


def test_a_resumed_run_does_not_record_an_epoch_twice(uri: str, client: Any, add_run: Any) -> None:
    run_id = add_run("KILLED")
    client.log_metric(run_id, "val/acc", 0.25, step=1)
    recorder = RunRecorder(uri, EXPERIMENT)
    recorder.start({}, resume=run_id)
    with recording(recorder):
        for epoch in (1, 2):
            recorder.on_epoch(row(epoch), True)
    assert [m.step for m in client.get_metric_history(run_id, "val/acc")] == [1, 2]


def test_a_folder_that_cannot_be_written_costs_only_the_journal(
    uri: str, client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    UNSENT.write_text("a file in the way")
    recorder = RunRecorder(uri, EXPERIMENT)
    run_id = recorder.start(FIT)
    with recording(recorder):
        recorder.log_metrics({"best_val_acc": 0.5})
        assert recorder.folder.parents[2] == elsewhere
    assert client.get_run(run_id).data.metrics == {"best_val_acc": 0.5}
    assert list(elsewhere.iterdir()) == []


def test_a_slow_store_does_not_hold_up_the_training(
    recorder: RunRecorder, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, plain = threading.Event(), journal_module.KINDS["metrics"]

    def slow(*args: Any, **kwargs: Any) -> None:
        released.wait(30)
        plain(*args, **kwargs)

    monkeypatch.setitem(journal_module.KINDS, "metrics", slow)
    run_id = recorder.start(FIT)
    started = time.perf_counter()
    for epoch in (1, 2, 3):
        recorder.on_epoch(row(epoch), True)
    assert time.perf_counter() - started < 5
    released.set()
    recorder.close("FINISHED")
    assert len(client.get_metric_history(run_id, "lr")) == 3
