"""Running cifarkit as a person or a script would, and looking at what it leaves behind."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import termios
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import TypeAdapter
from real_process import PATIENCE_SECONDS, Start, environment
from run_store import Store

from cifarkit.results import to_dict

BIN = Path(sys.executable).parent
COMMAND = (sys.executable, "-m", "cifarkit")


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on stdout."""
        assert self.out.endswith("\n"), self.out
        assert self.out.count("\n") == 1, self.out
        return self.out.strip()

    @property
    def data(self) -> Any:
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    def succeeded(self) -> Outcome:
        assert self.code == 0, self.err
        assert "\x1b" not in self.err + self.out
        assert "Traceback" not in self.err
        assert "Warning" not in self.err, self.err
        return self

    def failed(self, code: int, *parts: str) -> Outcome:
        """With this exit code and one line that holds all the parts, as the last thing on stderr."""
        assert self.code == code, self.err
        assert len(self.errors) == 1, self.err
        assert self.err.splitlines()[-1] == self.errors[0]
        assert "Traceback" not in self.err
        assert "--debug shows where" not in self.errors[0]
        missing = [part for part in parts if part.lower() not in self.errors[0].lower()]
        assert not missing, self.errors[0]
        return self

    def validated(self, record: type) -> dict[str, Any]:
        """The JSON on stdout: of this record's types, without a field too many or too few."""
        assert to_dict(TypeAdapter(record).validate_json(self.out, strict=True)) == self.data
        return self.data


def run(
    arguments: Sequence[str], folder: Path, *, patience: float = PATIENCE_SECONDS, **variables: str
) -> Outcome:
    """One command in a process of its own, with pipes for stdout and stderr."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patience,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def shell(script: str, folder: Path, **variables: str) -> Outcome:
    """A script in which ``cifarkit`` is this environment's."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=folder,
        env=environment(PATH=path, **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Screen(Outcome):
    """What a command came to on a terminal; ``err`` is everything the terminal was sent.

    Attributes:
        settings_kept: the terminal's modes are as they were.
    """

    settings_kept: bool = True

    def left_the_terminal_as_it_was(self) -> None:
        assert self.settings_kept
        assert self.err.rfind("\x1b[?25h") >= self.err.rfind("\x1b[?25l")  # the cursor shown after hidden
        assert self.err.endswith("\n")


def run_on_terminal(
    start: Start,
    arguments: Sequence[str],
    folder: Path,
    *,
    signal_after: tuple[str, signal.Signals] | None = None,
    **variables: str,
) -> Screen:
    """One command whose stderr and stdin are a terminal.

    Args:
        start: see `conftest.start`.
        signal_after: send this signal once this pattern has been on the screen.
    """
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    terminal = {"TERM": "xterm-256color"} | variables
    process = start(*arguments, folder=folder, terminal=os.ttyname(slave), **terminal)
    shown = b""
    code = None
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while time.monotonic() < deadline:
            # The slave stays open here, so that its modes can be read at the end: no EOF ends this loop.
            if select.select([master], [], [], 0.1)[0]:
                shown += os.read(master, 65536)
            elif (code := process.poll()) is not None:
                break
            if signal_after and re.search(signal_after[0].encode(), shown):
                process.signal(signal_after[1])
                signal_after = None
        after = termios.tcgetattr(slave)
    finally:
        if code is None:
            process.kill()
        os.close(master)
        os.close(slave)
    screen = shown.decode().replace("\r\n", "\n")
    assert code is not None, screen
    return Screen(code, (folder / "stdout").read_text(), screen, settings_kept=before == after)


def run_until(
    arguments: Sequence[str],
    folder: Path,
    found: Callable[[str], bool],
    number: signal.Signals,
    **variables: str,
) -> Outcome:
    """One command that gets a signal after the first line on stderr that ``found`` knows."""
    with (folder / "stdout").open("w+") as out:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=folder,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )
        seen = ""
        sent = False
        watchdog = threading.Timer(PATIENCE_SECONDS, process.kill)
        watchdog.start()
        assert process.stderr is not None
        try:
            for line in process.stderr:
                seen += line
                if not sent and found(line):
                    process.send_signal(number)
                    sent = True
            process.wait()
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
            process.stderr.close()
        out.seek(0)
        return Outcome(process.returncode, out.read(), seen)


@dataclass(frozen=True)
class Trained(Store):
    """A store with one finished fit on digits."""

    run_id: str

    def copy(self, folder: Path) -> Trained:
        """The same run under another id, as MLflow remembers where the artifacts of an id are."""
        run_id = uuid.uuid4().hex
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        copied = Trained(folder, run_id)
        connection = sqlite3.connect(folder / "mlflow.db")
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        for table in tables:
            columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            for column in columns & {"run_uuid", "artifact_uri", "artifact_location"}:
                for old, new in ((str(self.folder), str(folder)), (self.run_id, run_id)):
                    connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (old, new))
        connection.commit()
        connection.close()
        moved = folder / "mlruns" / "1" / self.run_id
        moved.rename(moved.with_name(run_id))
        for report in (copied.run_folder / "reports").iterdir():
            report.write_text(
                report.read_text(encoding="utf-8").replace(self.run_id, run_id), encoding="utf-8"
            )
        return copied

    @property
    def run_folder(self) -> Path:
        """Where the run's artifacts are."""
        return self.artifacts(self.run_id)

    @property
    def checkpoint(self) -> Path:
        return self.run_folder / "checkpoints" / "best.ckpt"

    def report(self, name: str) -> Any:
        return json.loads((self.run_folder / "reports" / name).read_text(encoding="utf-8"))


def history(client: Any, run_id: str, key: str) -> list[tuple[int, float]]:
    """(step, value) of one metric, as recorded."""
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)]


def artifact_names(client: Any, run_id: str, folder: str | None = None) -> set[str]:
    """Every file of a run by its path."""
    names: set[str] = set()
    for entry in client.list_artifacts(run_id, folder):
        names |= artifact_names(client, run_id, entry.path) if entry.is_dir else {entry.path}
    return names


def is_picture(path: Path) -> bool:
    """Whether this is a whole PNG of a size worth looking at."""
    with Image.open(path) as image:
        image.load()
        return image.format == "PNG" and min(image.size) >= 100


def leftovers(folder: Path) -> list[str]:
    """Files that something began to write and did not finish."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix in (".tmp", ".part") or (path.suffix == ".png" and not is_picture(path))
    ]


def colour_folder(root: Path, classes: Mapping[str, tuple[int, int, int]], images: int, side: int) -> Path:
    """Class folders of noisy one-colour PNG images, easy to tell apart."""
    draws = np.random.default_rng(0)
    for name, colour in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(images):
            pixels = np.clip(np.array(colour) + draws.integers(-30, 31, (side, side, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:02}.png")
    return root


COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
