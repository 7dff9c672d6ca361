"""A real MLflow server in the place of the local store."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from cli_harness import ARTIFACTS, EPOCH_METRICS, Outcome, artifact_names, environment, history, is_picture

from cifarkit.recipes import find_recipe

pytestmark = pytest.mark.filterwarnings("default")

Cli = Callable[..., Outcome]
# A server can take a minute to start on a busy machine of two cores.
START_SECONDS = 180
# urllib's own opener keeps the proxies that were set when it was first used, by any test.
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(address: str) -> bool:
    try:
        with direct.open(f"{address}/health", timeout=20) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = f"http://127.0.0.1:{port}"
    store = ("--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", "artifacts")
    place = ("--host", "127.0.0.1", "--port", port)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *store, *place, "--workers", "1"],
            cwd=folder,
            env=environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(address):
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_a_server_holds_what_the_local_store_would(cli: Cli, server: str, tmp_path: Path) -> None:
    at = ("--tracking-uri", server)
    fitted = cli("fit", "--dataset", "digits", "--epochs", "1", *at).succeeded()
    assert "warning" not in fitted.err
    run_id = fitted.line
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "mlruns").exists()

    client: Any = mlflow.MlflowClient(server)
    found = client.get_run(run_id)
    assert found.info.status == "FINISHED"
    settings = find_recipe("digits").override(epochs=1).settings()
    assert {key: found.data.params[key] for key in settings} == {k: str(v) for k, v in settings.items()}
    assert found.data.tags["cifarkit.kind"] == "fit"
    for key in EPOCH_METRICS:
        assert [step for step, _ in history(client, run_id, key)] == [1], key
    names = artifact_names(client, run_id)
    assert ARTIFACTS - names == set()

    scores = cli("eval", "--run", "last", "--json", *at).succeeded().data
    assert scores["run_id"] == run_id
    assert scores["top1"] == pytest.approx(found.data.metrics["best_val_acc"])
    figure = cli("gradcam", "--run", run_id[:8], "--limit", "2", "--split", "train", *at).succeeded().line
    assert is_picture(tmp_path / figure)
    explained = client.download_artifacts(run_id, "reports/gradcam_train.json", str(tmp_path))
    assert '"split": "train"' in Path(explained).read_text()
    assert client.get_run(run_id).info.status == "FINISHED"
    cli("eval", "--run", "nosuch", *at).failed(1, "nosuch", run_id[:8])
