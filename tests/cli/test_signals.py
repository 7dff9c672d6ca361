"""Ctrl-C, SIGTERM, and going on afterwards."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from cli_harness import Outcome, Screen, Trained, artifact_names, history, run_until
from run_store import ARTIFACTS, EPOCH_METRICS, Store

from cifarkit.errors import Stopped, Terminated

pytestmark = pytest.mark.filterwarnings("default")

Cli = Callable[..., Outcome]
OnTerminal = Callable[..., Screen]
EPOCHS = 7


FIT = ["fit", "--dataset", "digits", "--epochs"]


def test_ctrl_c_and_going_on(cli: Cli, on_terminal: OnTerminal, tmp_path: Path) -> None:
    """A training on a terminal that is stopped within it."""
    (tmp_path / "scratch").mkdir()
    screen = on_terminal(
        [*FIT, str(EPOCHS)],
        tmp_path,
        signal_after=(f"epoch [3-6]/{EPOCHS}", signal.SIGINT),  # the screen may miss some
        TMPDIR=str(tmp_path / "scratch"),
    )
    store = Store(tmp_path)
    (run_id,) = store.run_ids
    assert screen.code == 130, screen.err
    assert screen.out == ""
    assert screen.err.endswith("error: interrupted\n")
    assert f"cifarkit fit --resume {run_id[:8]}" in screen.err.replace("\n", " ")
    assert "Traceback" not in screen.err
    assert list((tmp_path / "scratch").glob("cifarkit*")) == []
    assert store.statuses == ["KILLED"]
    screen.left_the_terminal_as_it_was()

    outcome = cli("fit", "--resume", "last", store=store).succeeded()
    assert outcome.line == run_id
    assert re.search(r"\ngoing on after epoch [2-6]( and \d+ steps? of epoch [3-7])?\n", outcome.err)
    assert store.statuses == ["FINISHED"]
    assert store.run_ids == [run_id]
    client: Any = mlflow.MlflowClient(store.uri)
    for key in EPOCH_METRICS:
        assert [step for step, _ in history(client, run_id, key)] == list(range(1, EPOCHS + 1)), key
    assert ARTIFACTS - artifact_names(client, run_id) == set()
    accuracies = [value for _, value in history(client, run_id, "val/acc")]
    assert client.get_run(run_id).data.metrics["best_val_acc"] == max(accuracies)
    scores = cli("eval", "--run", run_id, "--json", store=store).succeeded().data
    assert scores["top1"] == pytest.approx(max(accuracies))
    cli("fit", "--resume", run_id[:8], store=store).failed(2, "finished", f"{EPOCHS} of {EPOCHS} epochs")
    assert store.statuses == ["FINISHED"]


def test_sigterm_ends_the_training_with_a_true_status(on_terminal: OnTerminal, tmp_path: Path) -> None:
    """On a terminal without colours, after the first epoch."""
    screen = on_terminal(
        [*FIT, str(EPOCHS)], tmp_path, signal_after=("\n    1 ", signal.SIGTERM), NO_COLOR="1"
    )
    screen.failed(143, "terminated")
    assert screen.out == ""
    assert Store(tmp_path).statuses == ["KILLED"]
    assert "\x1b" not in screen.err
    assert re.search(r"^ +1 .*%.*\*$", screen.err, re.MULTILINE)
    screen.left_the_terminal_as_it_was()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_libraries_load(number: signal.Signals, code: int, tmp_path: Path) -> None:
    outcome = run_until([*FIT, "1"], tmp_path, lambda line: "loading torch" in line, number)
    outcome.failed(code, "interrupted" if code == 130 else "terminated")
    assert outcome.out == ""
    assert Store(tmp_path).statuses == []


def test_a_finished_run_is_not_resumed(cli: Cli, trained: Trained) -> None:
    cli("fit", "--resume", trained.run_id, store=trained).failed(2, "finished", "2 of 2 epochs")
    cli("fit", "--resume", "last", store=trained).failed(1, "no interrupted fit")
    assert trained.statuses == ["FINISHED"]


@pytest.mark.parametrize(
    ("flag", "value"), [("--epochs", "9"), ("--lr", "0.1"), ("--dataset", "digits"), ("--seed", "1")]
)
def test_a_resumed_run_keeps_what_shapes_it(flag: str, value: str, cli: Cli, trained: Trained) -> None:
    cli("fit", "--resume", trained.run_id, flag, value, store=trained).failed(2, flag, "resumed")


def test_resuming_what_is_not_there(cli: Cli, trained: Trained) -> None:
    cli("fit", "--resume", "nosuchrun", store=trained).failed(1, "nosuchrun", trained.run_id[:8])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_finalizer(number: signal.Signals, code: int) -> None:
    """Python drops what is raised there."""
    program = f"""
import os, sys, time
import cifarkit.cli

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), {number:d})
        time.sleep(0)

@cifarkit.cli.app.command("wait")
def wait():
    Finalized()
    time.sleep(60)

sys.argv[1:] = ["wait"]
cifarkit.cli.main()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert ended.returncode == code
    assert ended.stderr == f"error: {'interrupted' if code == 130 else 'terminated'}\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_a_library_survives(number: signal.Signals, code: int) -> None:
    program = f"""
import os, sys
import cifarkit.cli

@cifarkit.cli.app.command("work")
def work():
    try:
        os.kill(os.getpid(), {number:d})
    except BaseException:
        pass

sys.argv[1:] = ["work"]
cifarkit.cli.main()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert ended.returncode == code
    assert ended.stderr == f"error: {'interrupted' if code == 130 else 'terminated'}\n"


@pytest.mark.parametrize("work", ["reports.report_training", "reports.report_cams", "tracking.save_model"])
def test_a_signal_that_becomes_an_error_is_none_to_survive(
    work: str, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Compiled code turns the exception that came to it out of Python into one of its own."""

    def fail(*arguments: object, **options: object) -> None:
        Stopped.requested = Terminated("terminated")
        raise TypeError("empty_strided(): failed to unpack the object at pos 1")

    monkeypatch.setattr(Stopped, "requested", None)
    for other in ("reports.report_training", "reports.report_evaluation", "reports.report_cams"):
        monkeypatch.setattr(f"cifarkit.{other}", lambda *arguments, **options: None)
    monkeypatch.setattr(f"cifarkit.{work}", fail)
    outcome = cli(*FIT, "1").failed(143, "terminated")
    assert "warning: " not in outcome.err
    assert Store(tmp_path).statuses == ["KILLED"]


def test_ctrl_c_before_anything_is_loaded() -> None:
    program = """
import os, signal, sys
import cifarkit.__main__

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "cifarkit.cli":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
cifarkit.__main__.main()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")
