"""What takes minutes: the real CIFAR-10 from data to accuracy, and the exported model behind a server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from cli_harness import Trained, run
from real_process import PATIENCE_SECONDS, environment

from cifarkit import results
from cifarkit.data.image_set import ImageSet

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

DATA = Path(os.environ.get("CIFARKIT_DATA_DIR", "data")).absolute()


@pytest.mark.skipif(not (DATA / "cifar-10-batches-py").is_dir(), reason="needs CIFAR-10")
def test_cifar10_comes_to_what_its_recipe_was_measured_at(tmp_path: Path) -> None:
    """Two seeds came to 88.31 and deviated by 0.11%."""
    line = ["fit", "--epochs", "4", "--seed", "991", "--data-dir", str(DATA), "--json"]
    outcome = run(line, tmp_path, patience=1800, OMP_NUM_THREADS=str(os.cpu_count()))
    result = outcome.succeeded().validated(results.FitResult)
    assert 0.875 < result["last_val_acc"] < 0.9
    assert run(["eval", "--data-dir", str(DATA), "--quiet"], tmp_path).line == f"{result['best_val_acc']:.4f}"


def test_a_server_predicts_what_the_model_predicts(
    trained: Trained, unseen_digits: ImageSet, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(trained.run_folder / "model")]
    # MLflow looks for the server's program on the path.
    variables = environment() | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    images = unseen_digits.images[:5]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)],
            cwd=tmp_path,
            env=variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"inputs": images.tolist()}).encode(),
            {"Content-Type": "application/json"},
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    said = json.load(answer)["predictions"]
                break
            except urllib.error.HTTPError:
                raise
            except urllib.error.URLError:  # it is not there yet
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, 9)
        server.wait()
    import mlflow

    model = mlflow.pyfunc.load_model(str(trained.run_folder / "model"))
    assert np.allclose(said, model.predict(images), atol=1e-5)
