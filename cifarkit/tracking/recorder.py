"""Recording a run as it happens."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, Timeout

from cifarkit.errors import CifarkitError, Stopped, UsageError, is_impatient
from cifarkit.results import EpochRow
from cifarkit.tracking.journal import Entry, Journal, lock_folder, noted_ends, run_folder
from cifarkit.tracking.processes import VANISHED_SECONDS, this_process
from cifarkit.tracking.runs import ERROR, HEARTBEAT, LOOKS, PROCESS, end_vanished, is_alive
from cifarkit.tracking.store import (
    check_name,
    connect,
    experiment_id,
    is_refusal,
    place,
    reason,
    tracking_error,
)

HEARTBEAT_SECONDS = 30
WATCH_SECONDS = 5
# So long nothing is sent to a store that did not answer.
RETRY_SECONDS = 30
# Processes that load images outlive a training that was killed, and its lock with them, by some seconds.
TAKE_OVER_SECONDS = 10
# Who stops while a run is being created waits so long to give it an end.
OPENING_SECONDS = 5
# Of a store that does not answer, so many entries are tried when the run ends.
LAST_TRIES = 2
# When the end takes so long, it says why.
SLOW_SECONDS = 10
WAITING = (
    "waiting for the tracking store to take the rest; Ctrl-C leaves at once, and `cifarkit runs sync` sends "
    "what is missing later"
)


class RunRecorder:
    """Writes one run, in order, on a thread of its own; an `Observer` of training.

    What the store does not take stays in the run's `Journal` and is tried again: while the run goes on, when
    it ends, and later by `sync`.

    Args:
        uri: see `connect`.
        experiment: name; created when new.
        run_name: None lets MLflow invent one.

    Attributes:
        problems: what the store refused, and why.
    """

    def __init__(
        self,
        uri: str | None,
        experiment: str,
        run_name: str | None = None,
    ) -> None:
        self.uri, self.experiment, self.run_name = uri, check_name(experiment), run_name
        self.problems: list[str] = []
        self.journal: Journal
        self._silent_until = 0.0
        self._recorded: set[int] = set()
        self._watching: threading.Thread | None = None
        self._closing = threading.Event()
        self._ended = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._connected: Future[Any] = self._pool.submit(connect, uri)
        self._opened: Future[str] | None = None
        self._lock: BaseFileLock

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

    @property
    def folder(self) -> Path:
        """Where the run's files are until the store has them; `start` comes first."""
        assert self.run_id
        return self.journal.folder

    @property
    def unsent(self) -> int:
        """How many entries the store has not taken."""
        return len(self.journal.pending) if self.opened else 0

    def _open(self, tags: dict[str, str], resume: str | None) -> str:
        client = self.client
        try:
            if resume:
                experiment = client.get_run(resume).info.experiment_id
            else:
                experiment = experiment_id(client, self.experiment)
            with suppress(Exception):  # other runs' business
                end_vanished(client, experiment, noted_ends())
            mark = {PROCESS: this_process(), HEARTBEAT: f"{time.time():.0f}"}
            if resume:
                folder = run_folder(resume)
                run = self._take_over(client, resume, folder)
                client.update_run(resume, status="RUNNING")
                for key, value in mark.items():
                    client.set_tag(resume, key, value)
                with suppress(Exception):
                    client.delete_tag(resume, ERROR)
                self._recorded = {metric.step for metric in client.get_metric_history(resume, "val/acc")}
            else:
                source = {"mlflow.source.name": "cifarkit", "mlflow.source.type": "LOCAL"}
                run = client.create_run(experiment, run_name=self.run_name, tags=source | mark | tags)
                folder = run_folder(run.info.run_id)
                self._lock = lock_folder(folder)
                self._lock.acquire()
        except CifarkitError:
            raise
        except Exception as error:
            raise tracking_error(client.tracking_uri, error) from error
        run_id = str(run.info.run_id)
        self.journal = Journal(folder)
        self._forget_what_is_over()
        self.journal.open(run_id, client.tracking_uri, this_process())
        self._watching = threading.Thread(target=self._watch, args=[run], name="watching", daemon=True)
        self._watching.start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return run_id

    def _take_over(self, client: Any, run_id: str, folder: Path) -> Any:
        """The run as the store has it.

        Raises: UsageError where another process is at work on it.
        """
        self._lock = lock_folder(folder)
        try:
            self._lock.acquire(timeout=TAKE_OVER_SECONDS)
            run = client.get_run(run_id)
            busy = is_alive(run) and run.data.tags[PROCESS] != this_process()
        except Timeout:
            busy = True
        if busy:
            self._lock.release()
            raise UsageError(f"run {run_id[:8]} is being trained by another process")
        return run

    def _forget_what_is_over(self) -> None:
        """Of what a run that goes on had not sent: its end is none any more, its epochs are told already."""
        for entry in list(self.journal.pending):
            if entry.kind == "status":
                self.journal.sent(entry)
            elif entry.kind == "metrics" and "val/acc" in entry.content["values"]:
                self._recorded.add(entry.content["step"])

    def _watch(self, run: Any) -> None:
        """Record what MLflow measures of the machine; the step is the run's age in seconds.

        MLflow's own thread sends it past the journal, and gives up at the first request that fails.
        """
        with suppress(Exception):  # statistics about the machine are not worth a run
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            monitor = SystemMetricsMonitor(run.info.run_id, WATCH_SECONDS, tracking_uri=self.uri)
            monitor.collect_metrics()  # the first share of the processors' time is that since now
            wait = 1.0  # so that short runs have some, too
            while not self._closing.wait(wait):
                wait = monitor.sampling_interval
                for each in monitor.monitors:
                    each.clear_metrics()
                monitor.collect_metrics()
                values = {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
                self.log_metrics(values, step=(_milliseconds() - run.info.start_time) // 1000)

    def _beat(self) -> None:
        """Show from time to time that the process is there, without waiting for what is being sent."""
        seen = time.monotonic()
        while not self._closing.wait(HEARTBEAT_SECONDS):
            self.journal.touch()
            with suppress(Exception):  # the store is away, or the recorder was closed meanwhile
                self._pool.submit(self._send)
                self.client.set_tag(self.run_id, HEARTBEAT, f"{time.time():.0f}")
                if time.monotonic() - seen > VANISHED_SECONDS:
                    self._pool.submit(self._run_again)
                seen = time.monotonic()

    def _run_again(self) -> None:
        """Other hosts may have taken a long silence for the end."""
        with suppress(Exception):
            run = self.client.get_run(self.run_id)
            if run.info.status != "RUNNING" and run.data.tags.get(PROCESS) == this_process():
                self.client.update_run(self.run_id, status="RUNNING")
                self.client.delete_tag(self.run_id, ERROR)

    # -- sending, on the recorder's thread --------------------------------------------------------

    def _send(self) -> None:
        """Send what is pending, in order, up to the first thing that a store which does not answer leaves."""
        if time.monotonic() < self._silent_until:
            return
        run_id = self._opened.result() if self._opened else ""
        refused = 0
        while not self._closing.is_set() and len(self.journal.pending) > refused:
            entry = self.journal.pending[refused]
            error = self._try(entry, run_id)
            if error is None:
                continue
            if not is_refusal(error):
                self._silent_until = time.monotonic() + RETRY_SECONDS
                return
            refused += 1

    def _try(self, entry: Entry, run_id: str) -> Exception | None:
        try:
            entry.send(self.client, run_id, self.journal.folder)
        except Exception as error:
            note = f"{entry}: {reason(error)}"
            if note not in self.problems:
                self.problems.append(note)
            return error
        self.journal.sent(entry)
        return None

    def _send_last(self) -> None:
        """Try everything once more; how the run ended, and why, is tried whatever becomes of the rest."""
        run_id = self._opened.result() if self._opened else ""
        silent = 0
        for entry in list(self.journal.pending):
            if silent >= LAST_TRIES and entry.kind not in ("tags", "status"):
                continue
            error = self._try(entry, run_id)
            silent = silent + 1 if error is not None and not is_refusal(error) else 0

    def _later(self, kind: str, **content: Any) -> None:
        assert self.run_id
        self.journal.add(kind, **content)
        self._pool.submit(self._send)

    # -- what can be recorded ---------------------------------------------------------------------

    def log_params(self, params: dict[str, Any]) -> None:
        self._later("params", values={key: str(value) for key, value in params.items()})

    def log_dataset(self, name: str, fingerprint: str, context: str) -> None:
        """What MLflow lists under the run's data sets; ``context``: ``training`` or ``validation``."""
        self._later("data set", name=name, fingerprint=fingerprint, context=context)

    def set_tags(self, tags: dict[str, str]) -> None:
        self._later("tags", values=tags)

    def log_metrics(self, metrics: dict[str, float | None], step: int = 0) -> None:
        """Metrics that are not None, all at one step."""
        values = {key: float(value) for key, value in metrics.items() if value is not None}
        self._later("metrics", values=values, step=step, milliseconds=_milliseconds())

    def on_step(self, epoch: int, step: int, steps: int, images_per_second: float) -> None:
        """Steps are not recorded; epochs are."""

    def on_validation(self, epoch: int) -> None:
        """Nothing to record yet."""

    def on_stop(self, epoch: int, step: int, steps: int) -> None:
        """The status tells."""

    def on_epoch(self, row: EpochRow, best: bool) -> None:
        if row.epoch in self._recorded:  # by a process that died before its checkpoint was there
            return
        self.log_metrics(
            {
                "train/loss": row.train_loss,
                "train/acc": row.train_acc,
                "val/loss": row.val_loss,
                "val/acc": row.val_acc,
                "best_val_acc": row.val_acc if best and not row.val_sampled else None,
                "lr": row.lr,
                "images_per_second": row.images_per_second,
                "epoch_seconds": row.epoch_seconds,
                LOOKS: row.epoch if row.val_split == "test" else None,
            },
            step=row.epoch,
        )

    def log_artifact(self, path: Path, folder: str, *, delete: bool = False) -> None:
        self._later("artifact", path=self._relative(path), place=folder, delete=delete)

    def log_reports(self, paths: Sequence[Path]) -> None:
        """Figures and reports, each into its folder."""
        for path in paths:
            self.log_artifact(path, place(path))

    def log_folder(self, path: Path, folder: str) -> None:
        self._later("artifacts", path=self._relative(path), place=folder)

    def log_text(self, text: str, name: str) -> None:
        self._later("text", text=text, name=name)

    def _relative(self, path: Path) -> str:
        # The run's folder may be moved; files elsewhere stay where they are.
        path = path.absolute()
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    def flush(self) -> None:
        """Wait until everything queued so far has been written or has failed."""
        self._pool.submit(lambda: None).result()

    def note_end(self, status: str) -> None:
        """Put into the journal how the run ended, unless it is there: that waits for no store."""
        if self.opened and not self._ended:
            self.journal.add("status", status=status, milliseconds=_milliseconds())
            self._ended = True

    def close(self, status: str) -> None:
        """Write what is queued and end the run, if it was started.

        The run's folder goes when the store has everything, and stays otherwise.

        Args:
            status: ``FINISHED``, ``FAILED`` or ``KILLED``.
        """
        if self._opened is not None:
            wait([self._opened], OPENING_SECONDS)
        self.note_end(status)
        self._closing.set()
        if not self.opened:
            self._pool.shutdown(wait=False, cancel_futures=True)
            return
        if self._watching is not None:
            self._watching.join()
        self._pool.submit(self._send_last)
        self._pool.shutdown(wait=True)
        if not self.journal.pending:
            self.journal.remove()
        self._lock.release()


def _milliseconds() -> int:
    return int(time.time() * 1000)


@contextmanager
def recording(recorder: RunRecorder, alert: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Ends the run with the status that tells how the block ended, whatever happens in it.

    Args:
        alert: is told where it is what the store did not take.
    """
    status, impatient = "FAILED", False
    slow = threading.Timer(SLOW_SECONDS, alert, [WAITING])
    slow.daemon = True
    try:
        yield
        Stopped.heed()
        status = "FINISHED"
    except (Stopped, KeyboardInterrupt) as stop:
        status, impatient = "KILLED", is_impatient(stop)
        raise
    except BaseException as error:
        if Stopped.requested is not None:
            status = "KILLED"
        elif recorder.opened:
            recorder.set_tags({ERROR: str(error)[:400] or type(error).__name__})
        raise
    finally:
        try:  # nothing before it: a second Ctrl-C may come at any moment
            slow.start()
            if not impatient:
                recorder.close(status)
        finally:  # whoever loses patience, here or before, leaves a true status still
            slow.cancel()
            recorder.note_end(status)
            if recorder.unsent:
                alert(_where_it_is(recorder))


def _where_it_is(recorder: RunRecorder) -> str:
    why = f" ({recorder.problems[0]})" if recorder.problems else ""
    home = recorder.folder.parent.parent
    go_there = "" if home == Path.cwd() else f"cd {home} && "
    return (
        f"MLflow did not take everything{why}; it is kept in "
        f"{os.path.relpath(recorder.folder)}: `{go_there}cifarkit runs sync` sends it from there"
    )
