"""Recording a run as it happens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cifarkit.errors import CifarkitError, Stopped
from cifarkit.results import EpochRow
from cifarkit.tracking.runs import PROCESS, this_process
from cifarkit.tracking.store import check_name, connect, experiment_id, log_metrics, place, tracking_error

GIVE_UP_AFTER = 3
RETRY_SECONDS = 60


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
                client.set_tag(resume, PROCESS, this_process())
                run_id = resume
            else:
                tags = {
                    "mlflow.source.name": "cifarkit",
                    "mlflow.source.type": "LOCAL",
                    PROCESS: this_process(),
                } | tags
                run_id = client.create_run(
                    experiment_id(client, self.experiment), run_name=self.run_name, tags=tags
                ).info.run_id
        except CifarkitError:
            raise
        except Exception as error:
            raise tracking_error(self.uri or "", error) from error
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

    def log_dataset(self, name: str, fingerprint: str, context: str) -> None:
        """What MLflow lists under the run's data sets; ``context``: ``training`` or ``validation``."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name, fingerprint, source_type="local", source=json.dumps({"name": name}))
        used = DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
        self._later("data set", lambda client, run: client.log_inputs(run, [used]))

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
