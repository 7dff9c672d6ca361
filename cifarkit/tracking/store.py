"""The store: reaching it, and putting things into it."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from cifarkit.errors import TrackingError, UsageError

# On a disk with less space than that nothing can be written.
FULL_BYTES = 2**16


def quiet_import() -> Any:
    """Import MLflow with bounded network calls and without its chatter."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for the answer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are told by whoever catches them, once
    return mlflow


def connect(uri: str | None, *, create: bool = True) -> Any:
    """A client of the tracking store.

    Args:
        uri: a server's or store's address; None takes ``MLFLOW_TRACKING_URI``, else MLflow's default,
            ``mlflow.db`` in the current folder.
        create: make a local one that does not exist yet.

    Raises:
        TrackingError: the store does not answer, cannot be written, or does not exist.
    """
    from filelock import FileLock

    mlflow = quiet_import()
    uri = resolve_uri(uri)
    database = Path(uri.removeprefix("sqlite:///"))
    if not create and uri.startswith("sqlite:///") and not database.exists():
        raise TrackingError(f"no finished fit yet: there is no store at {database}; run `cifarkit fit` first")
    try:
        if uri.startswith("sqlite:///"):
            # Two processes that create the tables at the same time would trip over each other.
            with FileLock(database.with_name(f".{database.name}.lock")):
                if not database.exists():
                    _create(mlflow, database)
                client = mlflow.MlflowClient(uri)
                client.search_experiments(max_results=1)
        else:
            client = mlflow.MlflowClient(uri)
            client.search_experiments(max_results=1)
    except Exception as error:  # MLflow lets requests', SQLAlchemy's and the system's errors through
        raise tracking_error(uri, error) from error
    return client


def check_writes(client: Any) -> None:
    """That a store takes what is written; asked by a tag for a run that is not there, which leaves nothing.

    Raises:
        TrackingError: it does not.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.set_tag("0" * 32, "cifarkit.doctor", "")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise tracking_error(client.tracking_uri, error) from error


def resolve_uri(uri: str | None) -> str:
    """The address given, else ``MLFLOW_TRACKING_URI``, else MLflow's default."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or str(quiet_import().get_tracking_uri())


def _create(mlflow: Any, database: Path) -> None:
    """Make a database with all its tables, whole or not at all: MLflow cannot open one with some of them."""
    fresh = database.with_name(f".{database.name}.new")
    for left in (fresh, fresh.with_name(f"{fresh.name}-journal")):
        left.unlink(missing_ok=True)
    mlflow.MlflowClient(f"sqlite:///{fresh}").search_experiments(max_results=1)
    fresh.replace(database)


def tracking_error(uri: str, error: BaseException) -> TrackingError:
    if uri.startswith("http"):
        return TrackingError(
            f"the tracking server at {uri} does not answer ({reason(error)}); start it with `mlflow server`, "
            "or record locally, without --tracking-uri and MLFLOW_TRACKING_URI"
        )
    return TrackingError(f"the tracking store {uri} cannot be used ({reason(error)})")


def reason(error: BaseException) -> str:
    """An error as part of a line."""
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return shorten(first, 140, placeholder=" …")


def experiment_id(client: Any, name: str) -> str:
    """The experiment's id; it is created when there is none of this name."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            # The kind makes the interface open on training runs instead of language-model traces.
            return str(
                client.create_experiment(name, tags={"mlflow.experimentKind": "custom_model_development"})
            )
        except Exception:  # another process was faster
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage == "deleted":
        raise TrackingError(f"the experiment {name!r} is deleted; restore it or choose another --experiment")
    return str(found.experiment_id)


def check_name(name: str) -> str:
    """An experiment or run name as given.

    Raises:
        UsageError: it is empty.
    """
    if not name.strip():
        raise UsageError("an experiment's name must not be empty")
    return name


def place(path: Path) -> str:
    """The folder of a run that a figure or a report belongs in."""
    return "figures" if path.suffix == ".png" else "reports"


def add_artifacts(client: Any, run_id: str, paths: Sequence[Path]) -> None:
    """Copy files into a run: pictures into ``figures/``, everything else into ``reports/``.

    Raises:
        TrackingError: the store does not take them.
    """
    try:
        for path in paths:
            client.log_artifact(run_id, str(path), place(path))
    except Exception as error:
        raise tracking_error(client.tracking_uri, error) from error


def fetch_artifact(client: Any, run_id: str, path: str, folder: Path) -> Path:
    """Copy one of a run's artifacts into ``folder``.

    Raises:
        TrackingError: the run has no such artifact, or the store does not hand it out.
    """
    try:
        return Path(client.download_artifacts(run_id, path, str(folder)))
    except Exception as error:
        if shutil.disk_usage(folder).free < FULL_BYTES:
            full = f"no space left in {folder} for {path}; TMPDIR names another place"
            raise TrackingError(full) from error
        raise TrackingError(f"run {run_id[:8]} holds no {path} ({reason(error)})") from error


def is_refusal(error: Exception) -> bool:
    """Whether trying again is useless: the store did answer, or what is to be sent cannot be."""
    code = getattr(error, "error_code", None)  # of MLflow's own errors, those that wrap others included
    if code is not None:
        return code not in {
            "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL_ERROR",
            "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "TEMPORARILY_UNAVAILABLE", "UNKNOWN",
        }  # fmt: skip
    answer = getattr(getattr(error, "response", None), "status_code", None)
    if answer is not None:
        return 400 <= answer < 500 and answer not in (408, 429)
    if isinstance(error, FileNotFoundError | NotADirectoryError | FileExistsError | PermissionError):
        return True
    return not isinstance(error, OSError)
