"""On a GPU with ``--deterministic``: trainings are equal bit for bit, those that were stopped as well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fault_harness import assert_same_training
from PIL import Image
from real_process import environment
from run_store import Store

GPU = ("--gpus", "1")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


def noise(root: Path, images: int, side: int) -> Path:
    """Class folders of images with nothing to learn: what is wrong in the sixth digit stays wrong."""
    draws = np.random.default_rng(0)
    for name in ("one", "two", "three"):
        (root / name).mkdir(parents=True)
        for i in range(images):
            pixels = draws.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:04}.png")
    return root


def begin(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Not forked from a process that has loaded PyTorch, as other commands here are: CUDA refuses that."""
    folder.mkdir(exist_ok=True)
    with (folder / "stderr").open("a") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "cifarkit", "fit", *arguments, *GPU],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            text=True,
        )


# Epochs of 24 steps: of growing images, of the hardest, with records of passes that are replayed.
@pytest.mark.parametrize("model", ["speednet-slim", "custom-resnet"])
def test_stopped_trainings_end_as_if_nothing_had_happened(model: str, tmp_path: Path) -> None:
    images = noise(tmp_path / "images", 400, 32)
    fit = ("--dataset", f"folder:{images}", "--image-size", "32", "--recipe", "fast", "--model", model,
           "--epochs", "7", "--batch-size", "40", "--seed", "3", "--deterministic")  # fmt: skip
    whole = tmp_path / "whole"
    assert begin(whole, *fit).wait() == 0, (whole / "stderr").read_text()
    reference = Store(whole)
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        folder = tmp_path / number.name
        process = begin(folder, *fit)
        while "\n    3 " not in (folder / "stderr").read_text():
            assert process.poll() is None, (folder / "stderr").read_text()
            time.sleep(0.01)
        os.kill(process.pid, number)
        assert process.wait() in (-signal.SIGKILL, 130, 143)
        store = Store(folder)
        (run_id,) = store.runs
        assert begin(folder, "--resume", run_id).wait() == 0, (folder / "stderr").read_text()
        assert_same_training(store, run_id, reference, *reference.runs)
