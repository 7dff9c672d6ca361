"""Finding runs again, and telling which are still at work."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from cifarkit.errors import CifarkitError, DivergedError, RunNotFound, UsageError
from cifarkit.results import RunRow
from cifarkit.tracking.processes import VANISHED_SECONDS, describe, is_process, on_this_host
from cifarkit.tracking.store import check_name, tracking_error

# Tags: what kind of run it is, what was asked for, of how many seeds and of which run of several seeds it is
# one, why it failed, the process that writes it and when that was last seen at work, in seconds since 1970.
KIND = "cifarkit.kind"
PLAN = "cifarkit.plan"
RUNS = "cifarkit.runs"
PARENT = "mlflow.parentRunId"
ERROR = "cifarkit.error"
PROCESS = "cifarkit.process"
HEARTBEAT = "cifarkit.heartbeat"

# By run id, its status and the moment of its end in milliseconds.
Ends = dict[str, tuple[str, int | None]]

# Metrics: how often a training, and questions asked of it later, have measured on the test split.
LOOKS = "test_looks"
ASKED = "test_looks_asked"


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
        kinds = "or 'last'" if unfinished else "'last' or 'best'"
        raise UsageError(f"a run is named by its id, a prefix of one, {kinds}")
    found = client.get_experiment_by_name(check_name(experiment))
    if len(reference) == 32:
        with suppress(Exception):
            return client.get_run(reference)
    if found is None and (others := other_experiments(client)):
        raise RunNotFound(
            f"there is no experiment {experiment!r}, only {others}: name one of them with --experiment, or "
            "run `cifarkit fit` first"
        )
    runs = _fits(client, found.experiment_id) if found is not None else []
    if reference == "last" and unfinished:
        for run in runs:
            # One of several seeds goes on with the others.
            over = run.info.status == "FINISHED" or _would_diverge(run) or PARENT in run.data.tags
            if not over and not is_alive(run) and can_go_on(client, run):
                return run
        latest = next((run for run in runs if PARENT not in run.data.tags), None)
        why = "nothing to go on with"
        if latest is not None and latest.info.status == "FINISHED":
            name = latest.info.run_id[:8]
            why = f"the latest, run {name}, is finished"
            if RUNS not in latest.data.tags:
                why += f"; `--resume {name}` with a higher --target-acc and --max-epochs goes on with it"
        raise RunNotFound(f"no interrupted fit in the experiment {experiment!r}: {why}")
    if reference in ("last", "best"):
        fits = [run for run in runs if run.info.status == "FINISHED"]
        if not fits:
            raise RunNotFound(
                f"no finished fit in the experiment {experiment!r} yet; run `cifarkit fit` first"
            )
        if reference == "last":
            return max(fits, key=lambda run: run.info.end_time or 0)
        # Of equals the earliest: a run of several seeds is asked itself, not the one of its seeds.
        return max(reversed(fits), key=lambda run: run.data.metrics.get("best_val_acc", -1.0))
    matches = [run for run in runs if run.info.run_id.startswith(reference)]
    if len(matches) == 1:
        return matches[0]
    latest = ", ".join(run.info.run_id[:8] for run in runs[:3]) or "none"
    what = f"{len(matches)} runs start with" if matches else "no run has the id"
    raise RunNotFound(f"{what} {reference!r} in the experiment {experiment!r}; the latest are: {latest}")


def find_children(client: Any, run: Any) -> list[Any]:
    """The runs of the seeds of which a run is made, the earliest first."""
    fits = _fits(client, run.info.experiment_id)
    return [each for each in reversed(fits) if each.data.tags.get(PARENT) == run.info.run_id]


def _would_diverge(run: Any) -> bool:
    """As it did before."""
    return str(run.data.tags.get(ERROR, "")).startswith(DivergedError.sign)


def list_fits(client: Any, experiment: str, limit: int, ends: Ends | None = None) -> list[RunRow]:
    """The fits of an experiment, the latest first; those whose process is gone are ended before.

    The runs of several seeds follow the one that they are of, the first seed first.

    Args:
        ends: see `end_vanished`.

    Raises:
        RunNotFound: there is no such experiment, but others.
        TrackingError: the store does not answer.
    """
    try:
        found = client.get_experiment_by_name(check_name(experiment))
        if found is None and (others := other_experiments(client)):
            raise RunNotFound(f"there is no experiment {experiment!r}, only {others}")
        if found is None:
            return []
        end_vanished(client, found.experiment_id, ends)
        fits = [_row(run) for run in _fits(client, found.experiment_id)]
        return _seeds_below(fits)[:limit]
    except CifarkitError:
        raise
    except Exception as error:
        raise tracking_error(client.tracking_uri, error) from error


def _seeds_below(latest_first: Sequence[RunRow]) -> list[RunRow]:
    seeds: dict[str | None, list[RunRow]] = defaultdict(list)
    known = {row.run_id for row in latest_first}
    for row in reversed(latest_first):
        seeds[row.parent_id if row.parent_id in known else None].append(row)
    return [row for top in reversed(seeds[None]) for row in (top, *seeds[top.run_id])]


def other_experiments(client: Any) -> str:
    """The names of the latest experiments, as a sentence lists them; empty where there are none."""
    every = client.search_experiments(max_results=7, order_by=["last_update_time DESC"])
    names = [each.name for each in every if each.experiment_id != "0"]  # MLflow's own
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def count_look(client: Any, run: Any, dataset: str) -> int | None:
    """Note that a run is measured on the test split of a data set once more.

    Returns:
        How often that has happened in its experiment with this data set; None where the store cannot tell.
    """
    try:
        name = _asked_of(run, dataset)
        asked = len(client.get_metric_history(run.info.run_id, name)) + 1
        client.log_metric(run.info.run_id, name, asked, step=asked)
        looks = 0
        for each in _fits(client, run.info.experiment_id):
            name = _asked_of(each, dataset)
            if name == ASKED:
                looks += int(each.data.metrics.get(LOOKS, 0))
            if name in each.data.metrics:
                # By its history, because of two processes at once one may overwrite the other's number.
                looks += len(client.get_metric_history(each.info.run_id, name))
        return looks
    except Exception:  # the answer itself does not depend on it
        return None


def _asked_of(run: Any, dataset: str) -> str:
    """The metric that counts how often a run was asked about a data set: another than its own goes by a hash,
    because not every letter of a path is allowed there."""
    if dataset == run.data.tags.get("dataset"):
        return ASKED
    return f"{ASKED}_{hashlib.sha256(dataset.encode()).hexdigest()[:8]}"


def _fits(client: Any, experiment: str) -> list[Any]:
    """All fits of an experiment, by its id, the latest first."""
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment],
            filter_string=f"tags.`{KIND}` = 'fit'",
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            return runs


def _row(run: Any) -> RunRow:
    tags, metrics = run.data.tags, run.data.metrics
    measured = metrics.get("accuracy_mean", metrics.get("best_val_acc"))
    return RunRow(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        reason=tags.get(ERROR),
        dataset=tags.get("dataset"),
        recipe=run.data.params.get("recipe"),
        seeds=int(tags.get(RUNS, 1)),
        parent_id=tags.get(PARENT),
        val_acc=metrics.get("val/acc") if measured is None else measured,
        val_sampled=measured is None and "val/acc" in metrics,
        val_split=tags.get("val_split"),
        train_seconds=metrics.get("train_seconds_mean", metrics.get("train_seconds")),
        started_milliseconds=run.info.start_time,
    )


def is_alive(run: Any) -> bool:
    """Whether the process that writes a run may still be at work.

    On this host its process is looked for; elsewhere its heartbeat tells.
    """
    mark = run.data.tags.get(PROCESS)
    if run.info.status != "RUNNING" or not mark:
        return False
    if on_this_host(mark):
        return is_process(mark)
    beat = run.data.tags.get(HEARTBEAT)
    return beat is None or time.time() - float(beat) < VANISHED_SECONDS


def end_vanished(client: Any, experiment: str, ends: Ends | None = None) -> list[str]:
    """Give the runs of an experiment a true end whose process is gone without one.

    Args:
        ends: what runs noted of their end that the store has not heard yet; FAILED is for those that did not.

    Returns:
        The ids of the runs that have ended from now on.
    """
    ended = []
    running = client.search_runs([experiment], filter_string="attributes.status = 'RUNNING'")
    for run in running:
        if PROCESS in run.data.tags and not is_alive(run):
            run_id = run.info.run_id
            beat = run.data.tags.get(HEARTBEAT)
            # The first beat is that of its start, in whole seconds.
            last_seen = max(run.info.start_time, int(1000 * float(beat))) if beat else None
            status, milliseconds = (ends or {}).get(run_id, ("FAILED", last_seen))
            if run_id not in (ends or {}):
                client.set_tag(run_id, ERROR, f"its process ({describe(run.data.tags[PROCESS])}) is gone")
            client.set_terminated(run_id, status, milliseconds)
            ended.append(run_id)
    return ended


def can_go_on(client: Any, run: Any) -> bool:
    """Whether a run tells what it was to do, or holds a checkpoint that does."""
    if PLAN in run.data.tags:
        return True
    files = client.list_artifacts(run.info.run_id, "checkpoints")
    return "checkpoints/last.ckpt" in [str(file.path) for file in files]
