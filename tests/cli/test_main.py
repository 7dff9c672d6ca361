"""How the program starts and how it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from real_process import environment

from cifarkit.__main__ import MALLOC
from cifarkit.cli import SPINS


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, SPINS), ({"GOMP_SPINCOUNT": "9"}, "9"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_soon_sleep_while_they_wait(variables: dict[str, str], expected: str) -> None:
    known = environment(**variables)
    for name in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} - variables.keys():
        known.pop(name, None)
    told = (
        "import os, sys, cifarkit.cli as cli\n"
        "cli.run = lambda arguments: print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", told], env=known, capture_output=True, text=True)
    assert done.stdout.split() == [expected, "False"], done.stderr


@pytest.mark.skipif(
    sys.platform != "linux" or os.path.exists("/dev/nvidiactl"), reason="there malloc stays as it is"
)
@pytest.mark.parametrize(
    ("command", "variables", "starts"),
    [
        ("fit", {}, ["None", MALLOC]),
        ("fit", {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}, ["glibc.malloc.perturb=0"]),
        ("recipes", {}, ["None"]),
    ],
)
def test_trainings_start_once_more_with_a_malloc_of_their_own(
    command: str, variables: dict[str, str], starts: list[str], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "print(os.getpid(), os.environ.get('GLIBC_TUNABLES'), *sys.orig_argv[1:], file=open('starts', 'a'))\n"
    )
    known = environment(PYTHONPATH=str(tmp_path), **variables)
    if not variables:
        known.pop("GLIBC_TUNABLES", None)
    arguments = ["-m", "cifarkit", command, "--no-such-option"]
    done = subprocess.run(
        [sys.executable, *arguments], env=known, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "No such option" in done.stderr
    seen = [line.split() for line in (tmp_path / "starts").read_text().splitlines()]
    assert [malloc for _, malloc, *_ in seen] == starts
    assert all(rest == arguments for _, _, *rest in seen)
    assert len({process for process, *_ in seen}) == 1


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [("sys.exit(3)", 3, ""), ("sys.exit(0)", 0, ""), ("1 / 0", 1, "ZeroDivisionError: division by zero")],
)
def test_everything_is_finished_but_nothing_taken_apart(ending: str, code: int, said: str) -> None:
    program = f"""
import atexit, sys
import cifarkit.cli
from cifarkit.__main__ import main

class Network:
    def __del__(self):
        print("taken apart")

network = Network()

def command():
    atexit.register(print, "finished")
    print("answered")
    {ending}

cifarkit.cli.main = command
main()
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout.split("\n") == ["answered", "finished", ""]
    assert done.stderr.strip().endswith(said)


def test_what_stays_is_not_searched_for_garbage() -> None:
    program = """
import gc
import cifarkit.cli
from cifarkit.__main__ import main

def command():
    before = gc.get_stats()
    imported = [[] for _ in range(1_000_000)]
    print(*(now["collections"] - then["collections"] for now, then in zip(gc.get_stats(), before)))

cifarkit.cli.main = command
main()
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    young, _, old = map(int, done.stdout.split())
    assert young > 100, "cycles of a training's tensors are still found"
    assert old == 0


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_it_does_its_work_with_streams_that_were_closed(closed: str) -> None:
    command = f"{sys.executable} -m cifarkit recipes {closed}"
    done = subprocess.run(command, shell=True, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0
    assert "Error" not in done.stderr
