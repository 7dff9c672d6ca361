"""What is to be written into a run, kept on disk until the store has taken it.

A run in progress has a folder of its own, ``.cifarkit/RUN_ID``. Every entry is a line of its journal before
anyone tries to send it, and a second line says that it was taken; so whatever happens to the process or to
the store, what is missing can be sent later, in the same order. Entries carry their own time stamps: sent
twice, they are in the store once.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from cifarkit.tracking.processes import VANISHED_SECONDS, is_process, on_this_host
from cifarkit.tracking.runs import ERROR, Ends

UNSENT = Path(".cifarkit")
JOURNAL = "journal.jsonl"
TEMPORARY = "cifarkit-"
# A journal of which everything is sent begins anew when it is longer.
LONG_BYTES = 2**20


@dataclass(frozen=True)
class Entry:
    """One thing to write.

    Attributes:
        number: counts the entries of a journal.
        kind: one of `KINDS`.
        content: arguments of that kind; numbers, texts and lists.
    """

    number: int
    kind: str
    content: dict[str, Any]

    def __str__(self) -> str:
        return Path(self.content["path"]).name if "path" in self.content else self.kind

    def send(self, client: Any, run_id: str, folder: Path) -> None:
        """Write it into the store; paths are relative to ``folder`` or absolute."""
        KINDS[self.kind](client, run_id, folder, **self.content)


class Journal:
    """The entries of one run that the store has not taken yet.

    Args:
        folder: of the run, where the journal and what it sends are kept.

    Attributes:
        header: ``run_id``, ``uri`` of its store, ``process`` that writes it (`this_process`).
        pending: in the order in which they were made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self.read()

    def read(self) -> None:
        """Take what is on the disk."""
        self.header: dict[str, str] = {}
        self.pending: list[Entry] = []
        self._count = 0
        for line in _lines(self.folder / JOURNAL):
            self._read_line(line)

    def _read_line(self, line: dict[str, Any]) -> None:
        if "run_id" in line:
            self.header = line
        elif "kind" in line:
            self._count = line["number"] + 1
            self.pending.append(Entry(line["number"], line["kind"], line["content"]))
        else:
            self.pending = [entry for entry in self.pending if entry.number != line["sent"]]

    def open(self, run_id: str, uri: str, process: str) -> None:
        """Begin a journal, or go on with the one in the folder."""
        self.header = {"run_id": run_id, "uri": uri, "process": process}
        self._write(self.header)

    def add(self, kind: str, **content: Any) -> None:
        """Note what is to be written; on a full disk it is only remembered. From any thread."""
        with self._lock:
            entry = Entry(self._count, kind, content)
            self._count += 1
            # In this order: killed in between, it would have neither.
            self._write({"number": entry.number, "kind": kind, "content": content})
            if content.get("delete"):
                self._drop_older(entry)
            self.pending.append(entry)

    def _drop_older(self, entry: Entry) -> None:
        """Files that wait to be replaced by this one: a store that is away must not fill the disk."""
        for older in list(self.pending):
            same = older.kind == entry.kind and older.content["place"] == entry.content["place"]
            if same and older.content["delete"] and str(older) == str(entry):
                self.pending.remove(older)
                self._write({"sent": older.number})
                if older.content["path"] != entry.content["path"]:
                    with suppress(OSError):
                        (self.folder / older.content["path"]).unlink()

    def sent(self, entry: Entry) -> None:
        with self._lock, suppress(ValueError):  # a newer one may have taken its place
            self.pending.remove(entry)
            self._write({"sent": entry.number})
            self._shorten()

    def _shorten(self) -> None:
        path, fresh = self.folder / JOURNAL, self.folder / ".fresh.jsonl"
        with suppress(OSError):
            if not self.pending and path.stat().st_size > LONG_BYTES:
                fresh.write_text(json.dumps(self.header), encoding="utf-8")
                fresh.replace(path)

    def _write(self, line: dict[str, Any]) -> None:
        # A line that a dying process left unfinished ends here, and is skipped when it is read.
        with suppress(OSError), (self.folder / JOURNAL).open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(line))

    def touch(self) -> None:
        """A sign of life for other hosts that see the folder."""
        with suppress(OSError):
            os.utime(self.folder / JOURNAL)

    def remove(self) -> None:
        """The folder is no longer needed."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # others are at work in it
            _lock_path(self.folder).unlink()
            self.folder.parent.rmdir()
            if self.folder.parents[1].name.startswith(TEMPORARY):
                self.folder.parents[1].rmdir()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with suppress(OSError):
        for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            with suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict):
                    yield line


def _lock_path(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def lock_folder(folder: Path) -> BaseFileLock:
    """The lock that whoever writes or sends a run's journal holds; it goes with the process."""
    return FileLock(_lock_path(folder), thread_local=False)


def run_folder(run_id: str) -> Path:
    """The folder of a run in progress, made if it is not there: ``.cifarkit/RUN_ID`` in the current folder,
    or one in a new temporary folder where that cannot be written."""
    for _ in range(10):
        with suppress(FileNotFoundError):  # another process removed the empty parent meanwhile
            try:
                (UNSENT / run_id).mkdir(parents=True, exist_ok=True)
            except FileNotFoundError:
                raise
            except OSError:
                break
            return (UNSENT / run_id).absolute()
    # As in the current folder, so that `left_behind` finds it from there.
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY)) / UNSENT / run_id
    folder.mkdir(parents=True)
    return folder


def left_behind() -> list[Journal]:
    """The journals in the current folder that nobody is at work on any more."""
    for lock in UNSENT.glob("*.lock"):  # of a process that was killed while it cleaned up
        folder = lock.with_suffix("").absolute()
        if not (folder / JOURNAL).exists():
            with suppress(Timeout), lock_folder(folder).acquire(timeout=0):
                Journal(folder).remove()
    journals = [Journal(path.parent.absolute()) for path in sorted(UNSENT.glob(f"*/{JOURNAL}"))]

    def abandoned(journal: Journal) -> bool:
        process = journal.header["process"]
        if not on_this_host(process):  # its heartbeat tells
            return time.time() - (journal.folder / JOURNAL).stat().st_mtime > VANISHED_SECONDS
        return not is_process(process)

    return [each for each in journals if each.header and abandoned(each)]


def noted_ends() -> Ends:
    """How runs of this folder ended that could not tell their store."""
    return {
        journal.header["run_id"]: (entry.content["status"], entry.content["milliseconds"])
        for journal in left_behind()
        for entry in journal.pending
        if entry.kind == "status"
    }


# -- kinds of entries -----------------------------------------------------------------------------


def _params(client: Any, run_id: str, folder: Path, values: dict[str, str]) -> None:
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(key, value) for key, value in values.items()])


def _tags(client: Any, run_id: str, folder: Path, values: dict[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in values.items()])


def _metrics(
    client: Any, run_id: str, folder: Path, values: dict[str, float], step: int, milliseconds: int
) -> None:
    from mlflow.entities import Metric

    client.log_batch(
        run_id, metrics=[Metric(key, value, milliseconds, step) for key, value in values.items()]
    )


def _dataset(client: Any, run_id: str, folder: Path, name: str, fingerprint: str, context: str) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(name, fingerprint, source_type="local", source=json.dumps({"name": name}))
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])


def _artifact(client: Any, run_id: str, folder: Path, path: str, place: str, delete: bool) -> None:
    try:
        client.log_artifact(run_id, str(folder / path), place)
    except FileNotFoundError:
        # Sent by a process that died before it could say so, or replaced meanwhile.
        if not delete or (folder / path).exists():
            raise
    if delete:
        (folder / path).unlink(missing_ok=True)


def _artifacts(client: Any, run_id: str, folder: Path, path: str, place: str) -> None:
    client.log_artifacts(run_id, str(folder / path), place)


def _text(client: Any, run_id: str, folder: Path, text: str, name: str) -> None:
    client.log_text(run_id, text, name)


def _status(client: Any, run_id: str, folder: Path, status: str, milliseconds: int) -> None:
    client.set_terminated(run_id, status, milliseconds)
    if status != "FAILED":
        with suppress(Exception):  # mostly there is none
            client.delete_tag(run_id, ERROR)


KINDS: dict[str, Callable[..., None]] = {
    "params": _params,
    "tags": _tags,
    "metrics": _metrics,
    "data set": _dataset,
    "artifact": _artifact,
    "artifacts": _artifacts,
    "text": _text,
    "status": _status,
}
