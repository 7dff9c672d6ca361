"""Several processes and one store."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_harness import COMPARED
from real_process import Start
from run_store import Store


@pytest.mark.parametrize("runs", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_many_runs_at_once_on_a_store_that_is_not_there_yet(runs: int, start: Start, tmp_path: Path) -> None:
    folders = [tmp_path / str(i) for i in range(runs)]
    for folder in folders:
        folder.mkdir()
    store = f"sqlite:///{tmp_path}/mlflow.db"
    processes = [
        start(
            "fit", "--dataset", "digits", "--epochs", "1", "--seed", i, "--experiment", f"new-{i % 2}",
            folder=folder, new_store=True, figures=runs > 2, MLFLOW_TRACKING_URI=store,
        )
        for i, folder in enumerate(folders)
    ]  # fmt: skip
    for process in processes:
        assert process.wait() == 0, process.said
        assert "did not take everything" not in process.said
    kept = Store(tmp_path)
    assert set(kept.runs) == {process.answer for process in processes}
    assert set(kept.runs.values()) == {"FINISHED"}
    for process in processes:
        for key in COMPARED:
            assert [step for step, _ in kept.history(process.answer, key)] == [1], key
        assert not (process.folder / ".cifarkit").exists()
