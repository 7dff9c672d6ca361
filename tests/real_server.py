"""A real MLflow server on this machine, which tests can stop, freeze and start again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

# A server can take a minute to start on a busy machine of two cores.
START_SECONDS = 180
# urllib's own opener keeps the proxies that were set when it was first used, by any test.
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@dataclass
class Server:
    """``mlflow server`` with a database and artifacts of its own in ``folder``."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        database, artifacts = f"sqlite:///{self.folder}/mlflow.db", str(self.folder / "artifacts")
        place = ("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1")
        store = ("--backend-store-uri", database, "--artifacts-destination", artifacts)
        unwanted = ("CIFARKIT_", "MLFLOW_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *store, *place],
                cwd=self.folder,
                env=kept | {"OMP_NUM_THREADS": "1", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            said = (self.folder / "server.log").read_text
            assert self.process.poll() is None, said()
            assert time.monotonic() < deadline, said()
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            with direct.open(f"{self.address}/health", timeout=20) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def signal(self, number: signal.Signals) -> None:
        """To the server and its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """At once, as when its machine fails."""
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
