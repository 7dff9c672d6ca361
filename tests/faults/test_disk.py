"""A disk that fills up, or can no longer be written, in the middle of a training."""

from __future__ import annotations

import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from real_process import Start
from run_store import Store

Mount = Callable[..., bool]

FIT = ("fit", "--dataset", "digits", "--epochs", "50")


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mounts something on a folder, where this machine lets us, and says whether it did."""
    with ExitStack() as mounted:

        def on(folder: Path, *options: str) -> bool:
            done = subprocess.run(["mount", *options, str(folder)], capture_output=True)
            if done.returncode == 0:
                mounted.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
            return done.returncode == 0

        yield on


def test_a_full_disk_ends_the_run_and_keeps_the_best_weights(
    start: Start, tmp_path: Path, mount: Mount
) -> None:
    journals = tmp_path / ".cifarkit"
    journals.mkdir()
    real = mount(journals, "-t", "tmpfs", "-o", "size=64m", "none")
    process = start(*FIT, folder=tmp_path)
    process.until_it_says("\n    2 ")
    if real:
        fill = journals / "fill"
        with suppress(OSError), fill.open("wb", buffering=0) as everything:  # no space is left
            while True:
                everything.write(bytes(4096))
    else:
        # From now on no file of the process grows beyond what the store's database needs.
        room = (tmp_path / "mlflow.db").stat().st_size + 2**19
        resource.prlimit(process.number, resource.RLIMIT_FSIZE, (room, room))
    assert process.wait() == 1, process.said
    assert "error: no checkpoint can be written in" in process.said
    assert "what was saved before is kept" in process.said.replace("\n", " ")
    assert "Traceback" not in process.said
    store = Store(tmp_path)
    ((run_id, status),) = store.runs.items()
    assert status == "FAILED"
    assert "no checkpoint can be written" in str(store.tag(run_id, "cifarkit.error"))
    # What was kept can be asked, and with room again the training goes on.
    best = journals / run_id / "checkpoints" / "best.ckpt"
    if not best.exists():
        best = store.artifacts(run_id) / "checkpoints" / "best.ckpt"
    asked = start("eval", "--checkpoint", best, folder=tmp_path)
    assert asked.wait() == 0, asked.said
    if real:
        fill.unlink()
    resumed = start("fit", "--resume", run_id, folder=tmp_path)
    resumed.until(lambda: resumed.said.count("\n    5 ") > 0)
    resumed.signal(signal.SIGTERM)
    assert resumed.wait() == 143, resumed.said
    assert store.runs == {run_id: "KILLED"}


def test_a_folder_that_becomes_read_only(start: Start, tmp_path: Path, mount: Mount) -> None:
    (tmp_path / "work").mkdir()
    process = start(
        *FIT, folder=tmp_path / "work", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db",
    )  # fmt: skip
    process.until_it_says("\n    2 ")
    ((run_id, _),) = Store(tmp_path).runs.items()
    checkpoints = kept = tmp_path / "work" / ".cifarkit" / run_id / "checkpoints"
    if mount(checkpoints, "--bind", str(checkpoints)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(checkpoints)], check=True)
    else:
        # Root may write everywhere, so the folder goes away instead.
        kept = checkpoints.rename(tmp_path / "elsewhere")
        checkpoints.write_text("a file in the way")
    assert process.wait() == 1, process.said
    assert "error: no checkpoint can be written in" in process.said
    assert list(Store(tmp_path).runs.values()) == ["FAILED"]
    assert (kept / "last.ckpt").exists()
