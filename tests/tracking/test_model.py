"""The exported model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cifarkit import tracking
from cifarkit.models import build_model
from cifarkit.pipeline import Preprocessing

# MLflow 3.17 on SQLAlchemy 2.1: both theirs, and raised on the recorder's thread.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # MLflow's own
@pytest.mark.filterwarnings("ignore:.*given buffer is not writable:UserWarning")  # torch 2.11's own reader
@pytest.mark.parametrize(("model", "image_shape"), [("small-cnn", (1, 8, 8)), ("speednet-slim", (3, 16, 16))])
def test_a_saved_model_predicts_from_raw_images(
    tmp_path: Path, model: str, image_shape: tuple[int, int, int]
) -> None:
    import mlflow.pyfunc

    torch.manual_seed(0)
    network = build_model(model, image_shape, 5).eval()
    channels = image_shape[0]
    preprocessing = Preprocessing(
        (0.3,) * channels, (0.4,) * channels, image_shape, tuple("abcde"), image_shape[1]
    )
    tracking.save_model(network, preprocessing, tmp_path / "model")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    random = np.random.default_rng(0)
    for count in (1, 7):
        raw = random.integers(0, 256, (count, *image_shape[1:], channels), dtype=np.uint8)
        with torch.no_grad():
            expected = network(preprocessing(torch.from_numpy(raw).permute(0, 3, 1, 2))).softmax(1)
        given = loaded.predict(raw)
        assert given.shape == (count, 5)
        np.testing.assert_allclose(given, expected.numpy(), atol=1e-5)
    assert loaded.metadata.metadata["classes"] == list("abcde")
