"""Commands at work in processes of their own, to watch and to interrupt."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

PATIENCE_SECONDS = 240
FORK_SERVER = Path(__file__).with_name("fork_server.py")


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what would change cifarkit's defaults."""
    unwanted = ("CIFARKIT_", "MLFLOW_", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "COLUMNS", "LINES")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
    # Two threads per process on a busy machine with two cores wait for each other more than they compute.
    return kept | {"COLUMNS": "100", "OMP_NUM_THREADS": "1"} | more


@dataclass(frozen=True)
class Process:
    """A command at work; its output is in ``stdout`` and ``stderr`` of its folder."""

    number: int
    folder: Path
    _ask: Callable[[dict[str, Any]], int | None]

    def wait(self) -> int:
        """Its return code; negative where a signal ended it."""
        self.until(lambda: self.poll() is not None)
        return self.poll() or 0

    def poll(self) -> int | None:
        """Its return code, None while it is at work."""
        return self._ask({"poll": self.number})

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.number, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.wait() in (-signal.SIGKILL, 0)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the process does."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)

    def until_it_says(self, text: str) -> None:
        self.until(lambda: text in self.said)

    @property
    def said(self) -> str:
        return _text(self.folder / "stderr")

    @property
    def answer(self) -> str:
        return _text(self.folder / "stdout").strip().splitlines()[-1]


class Start:
    """Starts a cifarkit command in a process of its own; to be entered.

    Args:
        empty_store: an MLflow database that holds nothing.
    """

    def __init__(self, empty_store: Path) -> None:
        self._empty_store = empty_store
        self._begun: list[Process] = []
        self._server = subprocess.Popen(
            [sys.executable, str(FORK_SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )

    def __enter__(self) -> Start:
        self._server.__enter__()
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.__exit__(kind, error, trace)

    def __call__(
        self,
        *arguments: object,
        folder: Path,
        new_store: bool = False,
        figures: bool = True,
        terminal: str | None = None,
        **variables: str,
    ) -> Process:
        """
        Args:
            new_store: in a folder without a store, have it make one, which takes seconds; else it finds an
                empty one.
            figures: whether a training ends with figures and a model, which take seconds.
            terminal: device for its stdin and stderr.
        """
        if not new_store and not (folder / "mlflow.db").exists():
            shutil.copy(self._empty_store, folder / "mlflow.db")
        order = {
            "arguments": [str(argument) for argument in arguments],
            "folder": str(folder),
            "variables": variables,
            "terminal": terminal,
            "figures": figures,
        }
        number = self._ask(order)
        assert number is not None
        self._begun.append(Process(number, folder, self._ask))
        return self._begun[-1]

    def end_all(self) -> None:
        """Kill what a test that failed has left at work, with the processes that load its images."""
        for process in self._begun:
            if process.poll() is None:
                os.killpg(process.number, signal.SIGKILL)
                process.wait()
        self._begun.clear()

    def _ask(self, order: dict[str, Any]) -> int | None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(order), file=self._server.stdin, flush=True)
        answer: int | None = json.loads(self._server.stdout.readline())
        return answer


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
