"""The network as an MLflow model."""

from __future__ import annotations

import logging
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cifarkit.tracking.store import quiet_import


def save_model(network: Any, preprocessing: Any, path: Path) -> None:
    """Write an MLflow model that takes raw images and returns class probabilities.

    Input: uint8 (N, H, W, C), as decoded from a file; output: float32 (N, classes). The program is
    stored as a torch.export archive, which runs no Python of ours when it is loaded.
    """
    import numpy as np
    import torch

    mlflow = quiet_import()
    # What it says of a network that cannot be exported, or of a signal that comes, is told by who catches it.
    logging.getLogger("torch").setLevel(logging.CRITICAL)
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    channels, height, width = preprocessing.image_shape

    class Deployed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.mean: torch.Tensor
            self.std: torch.Tensor
            self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1))
            self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            pixels = (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
            if preprocessing.side != height:
                size = (preprocessing.side, preprocessing.side)
                pixels = torch.nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
            probabilities: torch.Tensor = self.network(pixels).softmax(1)
            return probabilities

    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.uint8), (-1, height, width, channels))]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, len(preprocessing.classes)))]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pytorch.save_model(
            Deployed().eval(),
            str(path),
            signature=signature,
            input_example=np.zeros((2, height, width, channels), np.uint8),
            serialization_format="pt2",
            pip_requirements=[f"torch=={version('torch').split('+')[0]}", f"numpy=={version('numpy')}"],
            metadata={"classes": list(preprocessing.classes)},
        )
