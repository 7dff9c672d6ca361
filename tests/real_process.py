"""Commands at work in processes of their own, to watch and to interrupt."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 240


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
        code = self._ask({"wait": self.number})
        assert code is not None
        return code

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


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
