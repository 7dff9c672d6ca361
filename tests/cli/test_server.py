"""A real MLflow server in the place of the local store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from cli_harness import ARTIFACTS, EPOCH_METRICS, Outcome, artifact_names, history, is_picture
from real_server import Server

from cifarkit.recipes import find_recipe

pytestmark = pytest.mark.filterwarnings("default")

Cli = Callable[..., Outcome]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[str]:
    made = Server(tmp_path_factory.mktemp("server"))
    shutil.copy(empty_store, made.folder)
    made.start()
    yield made.address
    made.stop()


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
