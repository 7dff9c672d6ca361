"""A tracking server in the place of the local store; one that dies, freezes or fails in the middle of a run:
the training does not notice, and everything arrives in the end."""

from __future__ import annotations

import http.client
import http.server
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from real_process import Start
from real_server import Server
from run_store import ARTIFACTS, EPOCH_METRICS, Store

from cifarkit.recipes import find_recipe
from cifarkit.tracking import connect

EPOCHS = 8
FIT = ("fit", "--dataset", "digits", "--epochs", str(EPOCHS))
WITHOUT_FIGURES = {"checkpoints/best.ckpt", "checkpoints/last.ckpt", "summary.txt"}
IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    shutil.copy(empty_store, made.folder)
    made.start()
    connect(made.address)  # a new server's first answer takes longer than some tests wait for any
    yield made
    made.stop()


def assert_complete(server: Server, run_id: str, expected: set[str] = ARTIFACTS) -> None:
    """Every epoch once, every artifact, a true end."""
    store = Store(server.folder)
    assert store.runs[run_id] == "FINISHED"
    for key in EPOCH_METRICS:
        assert [step for step, _ in store.history(run_id, key)] == list(range(1, EPOCHS + 1)), key
    (kept,) = (server.folder / "artifacts").glob(f"*/{run_id}/artifacts")
    files = {path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file()}
    assert expected - files == set()


def test_a_server_holds_what_the_local_store_would(start: Start, server: Server, tmp_path: Path) -> None:
    at = ("--tracking-uri", server.address)
    process = start(*FIT, *at, folder=tmp_path, new_store=True)
    assert process.wait() == 0, process.said
    assert "warning" not in process.said
    run_id = process.answer
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "mlruns").exists()
    assert_complete(server, run_id)
    store = Store(server.folder)
    assert store.tag(run_id, "cifarkit.kind") == "fit"
    params = dict(store.rows("SELECT key, value FROM params WHERE run_uuid = ?", run_id))
    settings = find_recipe("digits").override(epochs=EPOCHS).settings()
    assert {key: params[key] for key in settings} == {key: str(value) for key, value in settings.items()}
    # What is asked afterwards comes from there and goes back there.
    process = start("eval", "--run", "last", "--split", "train", *at, folder=tmp_path, new_store=True)
    assert process.wait() == 0, process.said
    (kept,) = (server.folder / "artifacts").glob(f"*/{run_id}/artifacts")
    with Image.open(kept / "figures" / "confusion_matrix_train.png") as picture:
        picture.load()
    asked = json.loads((kept / "reports" / "evaluation_train.json").read_text())
    assert (asked["split"], f"{asked['top1']:.4f}") == ("train", process.answer)
    assert store.runs[run_id] == "FINISHED"
    process = start("eval", "--run", "nosuch", *at, folder=tmp_path, new_store=True)
    assert process.wait() == 1
    assert (
        f"no run has the id 'nosuch' in the experiment 'cifarkit'; the latest are: {run_id[:8]}"
        in process.said
    )


def test_a_server_that_dies_and_comes_back(start: Start, server: Server, tmp_path: Path) -> None:
    process = start(*FIT, folder=tmp_path, MLFLOW_TRACKING_URI=server.address, **IMPATIENT)
    process.until_it_says("\n    2 ")
    server.stop()
    assert process.wait() == 0, process.said
    run_id = process.answer
    assert "MLflow did not take everything" in process.said
    assert f".cifarkit/{run_id}" in process.said.replace("\n", "")
    early = start("runs", "sync", folder=tmp_path, **IMPATIENT)
    assert early.wait() == 1
    assert "does not answer" in early.said.replace("\n", " ")
    server.start()
    assert Store(server.folder).runs[run_id] == "RUNNING"
    late = start("runs", "sync", folder=tmp_path)
    assert late.wait() == 0, late.said
    assert late.answer == run_id
    assert_complete(server, run_id)
    assert not (tmp_path / ".cifarkit").exists()


def test_a_server_that_freezes_for_a_while(start: Start, server: Server, tmp_path: Path) -> None:
    at = {"MLFLOW_TRACKING_URI": server.address}
    process = start(*FIT, folder=tmp_path, figures=False, **at, **IMPATIENT)
    process.until_it_says("\n    2 ")
    server.signal(signal.SIGSTOP)
    process.until_it_says(f"\n    {EPOCHS} ")  # the training does not wait
    server.signal(signal.SIGCONT)
    assert process.wait() == 0, process.said
    assert_complete(server, process.answer, WITHOUT_FIGURES)
    assert not (tmp_path / ".cifarkit").exists()


def test_a_second_ctrl_c_does_not_wait_for_a_frozen_server(
    start: Start, server: Server, tmp_path: Path
) -> None:
    process = start(
        *FIT[:-1],
        "100",
        folder=tmp_path,
        MLFLOW_TRACKING_URI=server.address,
        MLFLOW_HTTP_REQUEST_TIMEOUT="60",
    )
    process.until_it_says("\n    2 ")
    server.signal(signal.SIGSTOP)
    try:
        process.until_it_says("\n    4 ")  # something waits for an answer now
        process.signal(signal.SIGINT)
        process.until_it_says("stopped after")
        process.signal(signal.SIGINT)
        began = time.monotonic()
        assert process.wait() == 130, process.said
        assert time.monotonic() - began < 5
    finally:
        server.signal(signal.SIGCONT)
    assert process.said.endswith("error: interrupted\n")
    assert start("runs", "sync", folder=tmp_path).wait() == 0
    (run_id,) = (run for run, status in Store(server.folder).runs.items() if status == "KILLED")
    assert f"--resume {run_id}" in process.said.replace("\n", " ")


class Failing(http.server.BaseHTTPRequestHandler):
    """Hands requests on to a server, or answers 500 to all of them."""

    target: Server
    failing = False
    failed = 0

    def _hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if Failing.failing:
            Failing.failed += 1
            status, content = 500, b'{"error_code": "INTERNAL_ERROR", "message": "no space left on device"}'
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.target.port, timeout=60)
            headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            status, content = answer.status, answer.read()
            connection.close()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _hand_on

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_a_server_that_answers_500(start: Start, server: Server, tmp_path: Path) -> None:
    Failing.target, Failing.failing, Failing.failed = server, False, 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        at = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{proxy.server_port}"}
        process = start(*FIT, folder=tmp_path, figures=False, **at, **IMPATIENT)
        process.until_it_says("\n    2 ")
        Failing.failing = True
        assert process.wait() == 0, process.said
        assert Failing.failed > 0
        assert "MLflow did not take everything" in process.said
        Failing.failing = False
        late = start("runs", "sync", folder=tmp_path)
        assert late.wait() == 0, late.said
        proxy.shutdown()
    assert late.answer == process.answer
    assert_complete(server, process.answer, WITHOUT_FIGURES)
