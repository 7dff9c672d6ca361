"""Tags that tell where a run comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from cifarkit import tracking


def test_tags_tell_where_a_run_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "https://me:secret@example.org:1@2/x@y"
    monkeypatch.setattr("sys.argv", ["/bin/cifarkit", "fit", "--run-name", "two words", address])
    monkeypatch.chdir(tmp_path)
    tags = tracking.environment_tags()
    assert tags["cifarkit.command"] == "cifarkit fit --run-name 'two words' 'https://***@2/x@y'"
    assert tags["version.torch"] == torch.__version__.split("+")[0]
    assert "mlflow.source.git.commit" not in tags
    assert all(isinstance(value, str) and value for value in tags.values())


def test_tags_name_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "-m", "first")
    commit = tracking.environment_tags()["mlflow.source.git.commit"]
    assert len(commit) == 40
    (tmp_path / "new").write_text("")
    assert tracking.environment_tags()["mlflow.source.git.commit"] == commit
    git("add", "new")
    assert tracking.environment_tags()["mlflow.source.git.commit"] == f"{commit}-dirty"
