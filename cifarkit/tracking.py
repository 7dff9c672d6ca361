"""MLflow: recording runs as they happen, and finding them again. The only home of mlflow.

MLflow is imported on the recorder's own thread, which also makes every call to the store: a slow or
dead server never holds up a training.
"""

from __future__ import annotations

import logging
import os
import platform
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from cifarkit import __version__
from cifarkit.errors import CifarkitError, RunNotFound, Stopped, TrackingError, UsageError
from cifarkit.results import EpochRow

DEFAULT_EXPERIMENT = "cifarkit"
RECORDED_VERSIONS = ("torch", "torchvision", "pytorch-lightning", "albumentations", "mlflow", "numpy")
KIND = "cifarkit.kind"
PROCESS = "cifarkit.process"
GIVE_UP_AFTER = 3
RETRY_SECONDS = 60


def _quiet_import() -> Any:
    """Import MLflow with bounded network calls and without its chatter."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for the answer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def connect(uri: str | None) -> Any:
    """A client of the tracking store, created if it is a local one that does not exist yet.

    Args:
        uri: a server's or store's address; None takes ``MLFLOW_TRACKING_URI``, else MLflow's default,
            ``mlflow.db`` in the current folder.

    Raises:
        TrackingError: the store does not answer, or cannot be written.
    """
    from filelock import FileLock

    mlflow = _quiet_import()
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or mlflow.get_tracking_uri()
    try:
        if uri.startswith("sqlite:///"):
            database = Path(uri.removeprefix("sqlite:///"))
            # Two processes that create the tables at the same time would trip over each other.
            with FileLock(database.with_name(f".{database.name}.lock")):
                client = mlflow.MlflowClient(uri)
                client.search_experiments(max_results=1)
        else:
            client = mlflow.MlflowClient(uri)
            client.search_experiments(max_results=1)
    except Exception as error:  # MLflow lets requests', SQLAlchemy's and the system's errors through
        raise _tracking_error(uri, error) from error
    return client


def _tracking_error(uri: str, error: BaseException) -> TrackingError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if uri.startswith("http"):
        return TrackingError(
            f"the tracking server at {uri} does not answer ({reason[:120]}); start it with "
            "`mlflow server`, or leave --tracking-uri away to record locally"
        )
    return TrackingError(f"the tracking store {uri} cannot be used ({reason[:160]})")


class RunRecorder:
    """Writes one run, in order, on a thread of its own; an `Observer` of training.

    Args:
        uri: see `connect`.
        experiment: name; created when new.
        run_name: None lets MLflow invent one.
    """

    def __init__(
        self,
        uri: str | None,
        experiment: str,
        run_name: str | None = None,
    ) -> None:
        self.uri, self.experiment, self.run_name = uri, check_name(experiment), run_name
        self.problems: list[str] = []
        self._failures, self._failed_at = 0, 0.0
        self._monitor: Any = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._connected: Future[Any] = self._pool.submit(connect, uri)
        self._opened: Future[str] | None = None

    def start(self, tags: dict[str, str], *, resume: str | None = None) -> str:
        """Create the run; until then the store holds nothing of it.

        Args:
            tags: of a new run.
            resume: id of a run to set to RUNNING and go on with, instead.

        Returns:
            The run's id.

        Raises:
            TrackingError: the store does not answer.
        """
        self._connected.result()
        self._opened = self._pool.submit(self._open, tags, resume)
        return self.run_id

    @property
    def client(self) -> Any:
        """Raises: TrackingError."""
        return self._connected.result()

    @property
    def run_id(self) -> str:
        """The run's id; `start` comes first."""
        assert self._opened is not None
        return self._opened.result()

    @property
    def opened(self) -> bool:
        """Whether there is a run in the store."""
        opened = self._opened
        return opened is not None and opened.done() and opened.exception() is None

    def _open(self, tags: dict[str, str], resume: str | None) -> str:
        client = self.client
        try:
            if resume:
                client.update_run(resume, status="RUNNING")
                client.set_tag(resume, PROCESS, _this_process())
                run_id = resume
            else:
                tags = {
                    "mlflow.source.name": "cifarkit",
                    "mlflow.source.type": "LOCAL",
                    PROCESS: _this_process(),
                } | tags
                run_id = client.create_run(
                    experiment_id(client, self.experiment), run_name=self.run_name, tags=tags
                ).info.run_id
        except CifarkitError:
            raise
        except Exception as error:
            raise _tracking_error(self.uri or "", error) from error
        with suppress(Exception):  # statistics about the machine are not worth a run
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._monitor = SystemMetricsMonitor(
                run_id,
                sampling_interval=5,
                resume_logging=bool(resume),
                tracking_uri=client.tracking_uri,
            )
            self._monitor.start()
        return str(run_id)

    def _later(self, what: str, call: Callable[[Any, str], object], *, last: bool = False) -> None:
        """Queue a call to the store; its failure is noted, not raised.

        After a few failures in a row the store counts as gone for a minute, in which nothing is waited for
        but the ``last`` call, which says how the run ended.
        """

        def run() -> None:
            gone = time.monotonic() - self._failed_at < RETRY_SECONDS
            if self._failures >= GIVE_UP_AFTER and gone and not last:
                self.problems.append(f"{what}: not tried")
                return
            try:
                call(self.client, self.run_id)
                self._failures = 0
            except Exception as error:
                self._failures, self._failed_at = self._failures + 1, time.monotonic()
                reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
                self.problems.append(f"{what}: {reason}")

        self._pool.submit(run)

    def log_params(self, params: dict[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [Param(key, str(value)) for key, value in params.items()]
        self._later("params", lambda client, run: client.log_batch(run, params=entries))

    def set_tags(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        entries = [RunTag(key, value) for key, value in tags.items()]
        self._later("tags", lambda client, run: client.log_batch(run, tags=entries))

    def log_metrics(self, metrics: dict[str, float | None], step: int = 0) -> None:
        self._later("metrics", lambda client, run: log_metrics(client, run, metrics, step))

    def on_step(self, epoch: int, step: int, steps: int, images_per_second: float) -> None:
        """Steps are not recorded; epochs are."""

    def on_validation(self, epoch: int) -> None:
        """Nothing to record yet."""

    def on_epoch(self, row: EpochRow, best: bool, lrs: Sequence[Sequence[float]]) -> None:
        self.log_metrics(
            {
                "train/loss": row.train_loss,
                "train/acc": row.train_acc,
                "val/loss": row.val_loss,
                "val/acc": row.val_acc,
                "lr": row.lr,
                "images_per_second": row.images_per_second,
                "epoch_seconds": row.epoch_seconds,
            },
            step=row.epoch,
        )

    def log_artifact(self, path: Path, folder: str, *, delete: bool = False) -> None:
        def copy(client: Any, run: str) -> None:
            client.log_artifact(run, str(path), folder)
            if delete:
                path.unlink()

        self._later(path.name, copy)

    def log_reports(self, paths: Sequence[Path]) -> None:
        """Figures and reports, each into its folder."""
        for path in paths:
            self.log_artifact(path, place(path))

    def log_folder(self, path: Path, folder: str) -> None:
        self._later(path.name, lambda client, run: client.log_artifacts(run, str(path), folder))

    def log_text(self, text: str, name: str) -> None:
        self._later(name, lambda client, run: client.log_text(run, text, name))

    def flush(self) -> None:
        """Wait until everything queued so far has been written or has failed."""
        self._pool.submit(lambda: None).result()

    def close(self, status: str) -> None:
        """Write what is queued and end the run, if it was started.

        Args:
            status: ``FINISHED``, ``FAILED`` or ``KILLED``.
        """
        if self._opened is None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            return
        if self._monitor is not None:
            with suppress(Exception):
                self._monitor.finish()
        self._later("status", lambda client, run: client.set_terminated(run, status), last=True)
        self._pool.shutdown(wait=True)


@contextmanager
def recording(recorder: RunRecorder) -> Iterator[None]:
    """Ends the run with the status that tells how the block ended, whatever happens in it."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (Stopped, KeyboardInterrupt):
        status = "KILLED"
        raise
    except BaseException as error:
        if recorder.opened:
            recorder.set_tags({"cifarkit.error": str(error)[:400] or type(error).__name__})
        raise
    finally:
        recorder.close(status)


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
        raise _tracking_error(client.tracking_uri, error) from error


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


def log_metrics(client: Any, run_id: str, metrics: dict[str, float | None], step: int = 0) -> None:
    """Metrics that are not None, all at one step."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    entries = [Metric(key, float(value), now, step) for key, value in metrics.items() if value is not None]
    client.log_batch(run_id, metrics=entries)


def find_run(client: Any, reference: str, experiment: str, *, unfinished: bool = False) -> Any:
    """The run that ``--run`` names.

    Args:
        reference: a run id, a unique prefix of one, ``last`` (the latest finished fit) or ``best`` (the
            highest validation accuracy of a finished fit).
        experiment: where ``last``, ``best`` and prefixes are looked for.
        unfinished: ``last`` is the latest fit that ended early and can be gone on with.

    Raises:
        RunNotFound: none, or several.
    """
    if not reference.strip():
        raise UsageError("--run needs a run id, a prefix of one, 'last' or 'best'")
    found = client.get_experiment_by_name(check_name(experiment))
    if len(reference) == 32:
        with suppress(Exception):
            return client.get_run(reference)
    runs: list[Any] = []
    token = None
    while found is not None:
        page = client.search_runs(
            [found.experiment_id],
            filter_string=f"tags.`{KIND}` = 'fit'",
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            break
    if reference == "last" and unfinished:
        for run in runs:
            if run.info.status != "FINISHED" and not is_alive(run) and _has_checkpoint(client, run):
                return run
        raise RunNotFound(f"no interrupted fit in the experiment {experiment!r}: nothing to go on with")
    if reference in ("last", "best"):
        fits = [run for run in runs if run.info.status == "FINISHED"]
        if not fits:
            raise RunNotFound(
                f"no finished fit in the experiment {experiment!r} yet; run `cifarkit fit` first"
            )
        if reference == "last":
            return max(fits, key=lambda run: run.info.end_time or 0)
        return max(fits, key=lambda run: run.data.metrics.get("best_val_acc", -1.0))
    matches = [run for run in runs if run.info.run_id.startswith(reference)]
    if len(matches) == 1:
        return matches[0]
    latest = ", ".join(run.info.run_id[:8] for run in runs[:3]) or "none"
    what = f"{len(matches)} runs start with" if matches else "no run has the id"
    raise RunNotFound(f"{what} {reference!r} in the experiment {experiment!r}; the latest are: {latest}")


def is_alive(run: Any) -> bool:
    """Whether the process that writes a run may still be at work; on another host nobody can tell."""
    host, _, process = run.data.tags.get(PROCESS, "").partition("/")
    if run.info.status != "RUNNING" or not process:
        return False
    return bool(host != platform.node() or process == _process(int(process.partition("@")[0])))


def _this_process() -> str:
    return f"{platform.node()}/{_process(os.getpid())}"


def _process(pid: int) -> str | None:
    """A process by number and second of its start, because numbers come back; None when it is gone."""
    try:
        return f"{pid}@{psutil.Process(pid).create_time():.0f}"
    except psutil.Error:
        return None


def _has_checkpoint(client: Any, run: Any) -> bool:
    files = client.list_artifacts(run.info.run_id, "checkpoints")
    return "checkpoints/last.ckpt" in [str(file.path) for file in files]


def fetch_artifact(client: Any, run_id: str, path: str, folder: Path) -> Path:
    """Copy one of a run's artifacts into ``folder``.

    Raises:
        TrackingError: the run has no such artifact, or the store does not hand it out.
    """
    try:
        return Path(client.download_artifacts(run_id, path, str(folder)))
    except Exception as error:
        raise TrackingError(
            f"run {run_id[:8]} holds no {path} ({str(error).splitlines()[0][:120]})"
        ) from error


def save_model(network: Any, preprocessing: Any, path: Path) -> None:
    """Write an MLflow model that takes raw images and returns class probabilities.

    Input: uint8 (N, H, W, C), as decoded from a file; output: float32 (N, classes). The program is
    stored as a torch.export archive, which runs no Python of ours when it is loaded.
    """
    import numpy as np
    import torch

    mlflow = _quiet_import()
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
            pixels = images.permute(0, 3, 1, 2).float() / 255
            probabilities: torch.Tensor = self.network((pixels - self.mean) / self.std).softmax(1)
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


def environment_tags() -> dict[str, str]:
    """Tags every run carries: the command line, versions, git commit, host and processor count."""
    tags = {
        "cifarkit.command": shlex.join(["cifarkit", *sys.argv[1:]]),
        "cifarkit.version": __version__,
        "host": platform.node(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": str(os.cpu_count()),
    }
    for package in RECORDED_VERSIONS:
        with suppress(PackageNotFoundError):
            tags[f"version.{package}"] = version(package)
    commit = _git_commit()
    if commit:
        tags["mlflow.source.git.commit"] = commit
    return tags


def _git_commit() -> str | None:
    """The commit of the folder the command runs in, with a mark when tracked files have changed."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")


def check_name(name: str) -> str:
    """An experiment or run name as given.

    Raises:
        UsageError: it is empty.
    """
    if not name.strip():
        raise UsageError("an experiment's name must not be empty")
    return name
