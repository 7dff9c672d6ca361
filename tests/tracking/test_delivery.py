"""Sending later what a run left behind."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from tracking_harness import FIT, Unreliable, left_by_us, row

from cifarkit import tracking
from cifarkit.errors import CifarkitError
from cifarkit.tracking import Journal, RunRecorder, fetch_artifact, recording, sync
from cifarkit.tracking.journal import JOURNAL, UNSENT

# MLflow 3.17 on SQLAlchemy 2.1: both theirs, and raised on the recorder's thread.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


def test_what_was_left_behind_does_not_replace_what_came_after(
    recorder: RunRecorder, client: Any, away: pytest.MonkeyPatch
) -> None:
    run_id = recorder.start(FIT)
    recorder.on_epoch(row(1), True)
    recorder.close("KILLED")
    away.undo()
    client.set_tag(run_id, tracking.PROCESS, "elsewhere/7@1")
    client.set_terminated(run_id, "FINISHED")
    (journal,) = left_by_us()
    sent, problems = sync(journal)
    assert (sent, ["gone on elsewhere" in problem for problem in problems]) == (0, [True])
    assert client.get_run(run_id).info.status == "FINISHED"
    assert "val/acc" not in client.get_run(run_id).data.metrics
    assert not UNSENT.exists()


def test_what_a_dead_store_was_to_get_is_sent_by_sync(
    recorder: RunRecorder, client: Any, store: Unreliable, tmp_path: Path
) -> None:
    run_id = recorder.start(FIT)
    checkpoint = recorder.folder / "upload" / "last.ckpt"

    def train() -> None:
        store.down = True
        recorder.log_params({"lr": 0.1})
        recorder.on_epoch(row(1), True)
        checkpoint.parent.mkdir()
        checkpoint.write_bytes(b"weights")
        recorder.log_artifact(checkpoint, "checkpoints", delete=True)
        recorder.log_text("a table", "summary.txt")
        raise CifarkitError("no")

    with pytest.raises(CifarkitError), recording(recorder):
        train()
    assert recorder.unsent == 6
    assert client.get_run(run_id).info.status == "RUNNING"
    (journal,) = left_by_us()
    assert len(sync(journal)[1]) == 1  # still down: nothing is tried after the first
    assert len(journal.pending) == 6
    store.down = False
    (journal,) = left_by_us()
    assert sync(journal)[1] == []
    run = client.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.params == {"lr": "0.1"}
    assert run.data.tags["cifarkit.error"] == "no"
    assert len(client.get_metric_history(run_id, "val/acc")) == 1
    assert fetch_artifact(client, run_id, "checkpoints/last.ckpt", tmp_path).read_bytes() == b"weights"
    assert fetch_artifact(client, run_id, "summary.txt", tmp_path).read_text() == "a table"
    assert not UNSENT.exists()


def test_a_journal_from_elsewhere_gets_at_no_file_outside(
    recorder: RunRecorder, client: Any, store: Unreliable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unpacked").mkdir()
    monkeypatch.chdir(tmp_path / "unpacked")
    secret = tmp_path / "secret"
    secret.write_text("mine")
    run_id = recorder.start(FIT)
    store.down = True
    link = recorder.folder / "link"
    link.symlink_to(secret)
    for path in (str(secret), "../../../secret", "link"):
        recorder.journal.add("artifact", path=path, place=f"as {path[0]}", delete=True)
    recorder.journal.add("artifacts", path="../../../..", place="")
    recorder.journal.add("text", text="a table", name="summary.txt")
    recorder.close("FINISHED")
    with (recorder.folder / "journal.jsonl").open("a") as file:
        file.write("\n[1]\n5\nnull")
    store.down = False
    (journal,) = left_by_us()
    sent, problems = sync(journal)
    assert [f"outside of {tmp_path / 'unpacked'}" in problem for problem in problems] == [True] * 4
    assert sent == 2
    assert secret.read_text() == "mine"
    assert [file.path for file in client.list_artifacts(run_id)] == ["summary.txt"]


def test_what_is_kept_elsewhere_can_be_sent_from_there(
    recorder: RunRecorder,
    client: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    away: pytest.MonkeyPatch,
) -> None:
    """The current folder cannot be written."""
    (tmp_path / UNSENT).write_text("in the way")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    told: list[str] = []
    run_id = recorder.start(FIT)
    with recording(recorder, told.append):
        recorder.log_params({"lr": 0.1})
    (advice,) = told
    (there,) = (tmp_path / "temporary").iterdir()
    assert f"`cd {there} && cifarkit runs sync`" in advice
    away.undo()
    monkeypatch.chdir(there)
    (journal,) = left_by_us()
    assert sync(journal)[1] == []
    assert client.get_run(run_id).data.params == {"lr": "0.1"}
    assert not there.exists()


def test_entries_sent_twice_are_in_the_store_once(recorder: RunRecorder, client: Any, tmp_path: Path) -> None:
    """As when a process dies after the store took something and before the journal says so."""
    run_id = recorder.start(FIT)
    journal = recorder.folder / JOURNAL
    (recorder.folder / "last.ckpt").write_bytes(b"weights")
    recorder.log_dataset("digits train", "0123456789abcdef", "training")
    recorder.log_params({"lr": 0.1})
    recorder.on_epoch(row(1), True)
    recorder.log_artifact(recorder.folder / "last.ckpt", "checkpoints", delete=True)
    recorder.flush()
    kept = [line for line in journal.read_text().split("\n") if '"sent"' not in line]
    recorder.close("KILLED")
    journal.parent.mkdir(parents=True)
    journal.write_text("\n".join([*kept, '{"number": 9, "kind": "met']))  # and a line cut short
    again = Journal(journal.parent)
    assert [entry.kind for entry in again.pending] == ["data set", "params", "metrics", "artifact"]
    assert sync(again)[1] == []
    run = client.get_run(run_id)
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "val/acc")] == [(1, 0.25)]
    assert len(run.inputs.dataset_inputs) == 1
