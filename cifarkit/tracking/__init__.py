"""MLflow: recording runs as they happen, and finding them again. The only home of mlflow.

MLflow is imported on the recorder's own thread, which also makes every call to the store: a slow or
dead server never holds up a training.
"""

from __future__ import annotations

from cifarkit.tracking.delivery import sync
from cifarkit.tracking.environment import COMMAND, command_line, environment_tags, versions
from cifarkit.tracking.journal import Journal, left_behind, noted_ends
from cifarkit.tracking.model import save_model
from cifarkit.tracking.recorder import RunRecorder, recording
from cifarkit.tracking.runs import (
    ERROR,
    KIND,
    PARENT,
    PLAN,
    PROCESS,
    RUNS,
    count_look,
    end_vanished,
    find_children,
    find_run,
    is_alive,
    list_fits,
)
from cifarkit.tracking.store import (
    add_artifacts,
    check_writes,
    connect,
    experiment_id,
    fetch_artifact,
    place,
    reason,
    resolve_uri,
)

__all__ = [
    "COMMAND",
    "ERROR",
    "KIND",
    "PARENT",
    "PLAN",
    "PROCESS",
    "RUNS",
    "Journal",
    "RunRecorder",
    "add_artifacts",
    "check_writes",
    "command_line",
    "connect",
    "count_look",
    "end_vanished",
    "environment_tags",
    "experiment_id",
    "fetch_artifact",
    "find_children",
    "find_run",
    "is_alive",
    "left_behind",
    "list_fits",
    "noted_ends",
    "place",
    "reason",
    "recording",
    "resolve_uri",
    "save_model",
    "sync",
    "versions",
]
