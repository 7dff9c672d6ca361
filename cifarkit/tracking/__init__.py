"""MLflow: recording runs as they happen, and finding them again. The only home of mlflow.

MLflow is imported on the recorder's own thread, which also makes every call to the store: a slow or
dead server never holds up a training.
"""

from __future__ import annotations

from cifarkit.tracking.environment import environment_tags
from cifarkit.tracking.model import save_model
from cifarkit.tracking.recorder import RunRecorder, recording
from cifarkit.tracking.runs import KIND, PROCESS, find_run
from cifarkit.tracking.store import add_artifacts, connect, experiment_id, fetch_artifact, place

__all__ = [
    "KIND",
    "PROCESS",
    "RunRecorder",
    "add_artifacts",
    "connect",
    "environment_tags",
    "experiment_id",
    "fetch_artifact",
    "find_run",
    "place",
    "recording",
    "save_model",
]
