"""A training over two processes, as over two GPUs: here they are two CPU processes that talk by gloo."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from cli_harness import Outcome, artifact_names, history
from real_process import PATIENCE_SECONDS, environment
from run_store import ARTIFACTS, Store

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

Cli = Callable[..., Outcome]

# Lightning starts the second process with the same command line, so it gets the same two devices.
TWO_DEVICES = """
import sys
from dataclasses import replace
from cifarkit import cli, pipeline
from cifarkit.sessions import request
from cifarkit.recipes import RECIPES
from cifarkit.training.hardware import Hardware

RECIPES["digits"] = replace(RECIPES["digits"], keep_hardest=(1.0, 0.5))

# Of 181 images one process has 91, which are a batch more than the other's 90.
pipeline.EVAL_BATCH["cpu"] = 90
request.choose_hardware = lambda gpus, nodes, precision: Hardware("cpu", 2, nodes, "fp32")
sys.exit(cli.run(sys.argv[1:]))
"""


def run_on_two(line: str, folder: Path) -> Outcome:
    script = folder / "two_devices.py"
    script.write_text(TWO_DEVICES)
    done = subprocess.run(
        [sys.executable, str(script), *line.split()],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_two_processes_train_one_network(cli: Cli, tmp_path: Path) -> None:
    # The range test's rate is known to the first process only, until it tells the second.
    outcome = run_on_two("fit --dataset digits --epochs 2 --lr auto --val-size 181", tmp_path)
    assert outcome.code == 0, outcome.err
    store = Store(tmp_path)
    assert (outcome.line, store.statuses) == (store.run_ids[0], ["FINISHED"])
    client: Any = mlflow.MlflowClient(store.uri)
    found = client.get_run(outcome.line)
    assert found.data.params["world_size"] == "2"
    assert [step for step, _ in history(client, outcome.line, "val/acc")] == [1, 2]
    assert ARTIFACTS | {"figures/lr_range_test.png"} <= artifact_names(client, outcome.line)
    # Each of the two knows the losses of the images that the other was shown.
    checkpoint = client.download_artifacts(outcome.line, "checkpoints/last.ckpt", str(tmp_path))
    losses = torch.load(checkpoint, weights_only=True)["losses"]
    assert losses.isfinite().sum() >= (1437 - 181) // 64 * 64
    # Every held-out image was counted once, by one of the two.
    scores = cli("eval", "--json").succeeded().data
    assert scores["top1"] == pytest.approx(found.data.metrics["best_val_acc"])


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    run_on_two("fit --dataset digits --epochs 1 --batch-size 49", tmp_path).failed(
        2, "2 devices cannot share batches of 49"
    )
    assert Store(tmp_path).statuses == []
