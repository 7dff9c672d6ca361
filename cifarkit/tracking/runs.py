"""Finding runs again, and telling which are still at work."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from typing import Any

import psutil

from cifarkit.errors import RunNotFound, UsageError
from cifarkit.tracking.store import check_name

# Tags: what kind of run it is, and the process that writes it.
KIND = "cifarkit.kind"
PROCESS = "cifarkit.process"


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
        raise RunNotFound(
            f"no interrupted fit with a whole epoch in the experiment {experiment!r}: nothing to go on with"
        )
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


def this_process() -> str:
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
