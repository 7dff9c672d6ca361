from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from cifarkit.errors import CifarkitError
from cifarkit.scratch import LOCK, YOUNG_SECONDS, scratch


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_it_goes_away(tmp_path: Path) -> None:
    with scratch() as folder:
        assert Path(folder).parent == tmp_path
        Path(folder, "file").write_text("something")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next(tmp_path: Path) -> None:
    code = "import os; from cifarkit.scratch import scratch\nwith scratch(): os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)})
    assert killed.returncode == -9
    (left,) = tmp_path.iterdir()
    with scratch():
        assert left.exists()  # so young that its process might be about to lock it
    then = time.time() - YOUNG_SECONDS - 1
    os.utime(left / LOCK, (then, then))
    (tmp_path / "cifarkit-unsent").mkdir()  # nothing of ours
    with scratch():
        assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["cifarkit-unsent"]


def test_what_another_is_at_work_in_stays(tmp_path: Path) -> None:
    with scratch() as folder:
        then = time.time() - YOUNG_SECONDS - 1
        os.utime(Path(folder, LOCK), (then, then))
        with scratch():
            pass
        assert Path(folder).exists()


def test_no_room_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nothing")
    with pytest.raises(CifarkitError, match="set TMPDIR"), scratch():
        pass
