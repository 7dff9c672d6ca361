"""Sending later what a run left behind."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import Timeout

from cifarkit.errors import TrackingError
from cifarkit.tracking.journal import Entry, Journal, lock_folder
from cifarkit.tracking.runs import PROCESS
from cifarkit.tracking.store import connect, is_refusal, reason


def sync(journal: Journal) -> tuple[int, list[str]]:
    """Send what a run left behind, in order; its folder goes when the store has everything.

    Returns:
        How many entries the store took; what it did not take, and why, up to the first that it left
        unanswered.

    Raises:
        TrackingError: the store does not answer, or the run is at work again.
    """
    try:
        with lock_folder(journal.folder).acquire(timeout=0):
            journal.read()
            return _send(journal)
    except Timeout:
        raise TrackingError("it is being trained by another process") from None


def _send(journal: Journal) -> tuple[int, list[str]]:
    run_id = journal.header["run_id"]
    client = connect(journal.header["uri"])
    problems: list[str] = []
    sent = 0
    try:
        writer = client.get_run(run_id).data.tags.get(PROCESS)
    except Exception as error:
        gone = f"; if it is gone for good, remove {os.path.relpath(journal.folder)}"
        return 0, [f"the run: {reason(error)}{gone if is_refusal(error) else ''}"]
    if writer is not None and writer != journal.header["process"]:
        journal.remove()
        journal.pending.clear()
        return 0, ["it has gone on elsewhere since; what was left here is older, and is gone"]
    for entry in list(journal.pending):
        try:
            _check_place(entry, journal.folder)
            entry.send(client, run_id, journal.folder)
        except Exception as error:
            problems.append(f"{entry}: {reason(error)}")
            if not is_refusal(error):
                break
        else:
            journal.sent(entry)
            sent += 1
    if not journal.pending:
        journal.remove()
    return sent, problems


def _check_place(entry: Entry, folder: Path) -> None:
    """A journal may have come with a folder from somebody else, and would have any file sent, or removed.

    Raises:
        PermissionError: the entry is about a file outside of the folder in which its run was trained.
    """
    home = folder.parents[1].resolve()
    if "path" in entry.content and not (folder / entry.content["path"]).resolve().is_relative_to(home):
        raise PermissionError(f"it lies outside of {home}: send it from there by hand")
