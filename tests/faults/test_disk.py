"""A disk that fills up in the middle of a training."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from pathlib import Path

from fault_harness import Process, Store

Start = Callable[..., Process]

FIT = ("fit", "--dataset", "digits", "--epochs", "50")


def test_a_full_disk_ends_the_run_and_keeps_the_best_weights(start: Start, tmp_path: Path) -> None:
    process = start(*FIT, folder=tmp_path)
    process.until_it_says("\n    2 ")
    # From now on no file of the process grows beyond what the store's database needs.
    room = (tmp_path / "mlflow.db").stat().st_size + 2**19
    resource.prlimit(process.number, resource.RLIMIT_FSIZE, (room, room))
    assert process.wait() == 1, process.said
    assert "error: no checkpoint can be written in" in process.said
    assert "those of the epochs before are kept" in process.said.replace("\n", " ")
    assert "Traceback" not in process.said
    store = Store(tmp_path)
    ((run_id, status),) = store.runs.items()
    assert status == "FAILED"
    assert "no checkpoint can be written" in str(store.tag(run_id, "cifarkit.error"))
    # What was kept can be asked, and with room again the training goes on.
    best = tmp_path / ".cifarkit" / run_id / "checkpoints" / "best.ckpt"
    if not best.exists():
        best = store.artifacts(run_id) / "checkpoints" / "best.ckpt"
    asked = start("eval", "--checkpoint", best, folder=tmp_path)
    assert asked.wait() == 0, asked.said
    resumed = start("fit", "--resume", run_id, folder=tmp_path)
    resumed.until(lambda: resumed.said.count("\n    5 ") > 0)
    resumed.signal(signal.SIGTERM)
    assert resumed.wait() == 143, resumed.said
    assert store.runs == {run_id: "KILLED"}


def test_a_folder_that_becomes_read_only(start: Start, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    process = start(
        *FIT, folder=tmp_path / "work", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db",
    )  # fmt: skip
    process.until_it_says("\n    2 ")
    ((run_id, _),) = Store(tmp_path).runs.items()
    checkpoints = tmp_path / "work" / ".cifarkit" / run_id / "checkpoints"
    # Root may write everywhere, so the folder goes away instead.
    moved = checkpoints.rename(tmp_path / "elsewhere")
    checkpoints.write_text("a file in the way")
    assert process.wait() == 1, process.said
    assert "error: no checkpoint can be written in" in process.said
    assert list(Store(tmp_path).runs.values()) == ["FAILED"]
    assert (moved / "last.ckpt").exists()
