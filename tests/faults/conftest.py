from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_harness import Process, environment

SERVER = Path(__file__).with_name("fork_server.py")


@pytest.fixture(scope="session")
def start(empty_store: Path) -> Iterator[Callable[..., Process]]:
    """Starts a cifarkit command in a process of its own.

    ``new_store``: in a folder without a store, have it make one, which takes seconds; else it finds one that
    holds nothing.
    """
    with subprocess.Popen(
        [sys.executable, str(SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

        def ask(order: dict[str, Any]) -> int:
            print(json.dumps(order), file=server.stdin, flush=True)
            return int(server.stdout.readline())

        def begin(*arguments: object, folder: Path, new_store: bool = False, **variables: str) -> Process:
            if not new_store and not (folder / "mlflow.db").exists():
                shutil.copy(empty_store, folder / "mlflow.db")
            order = {
                "arguments": [str(argument) for argument in arguments],
                "folder": str(folder),
                "variables": variables,
            }
            return Process(ask(order), folder, lambda number: ask({"wait": number}))

        yield begin
        server.stdin.close()
