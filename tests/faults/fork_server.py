"""Starts cifarkit in processes of their own without the seconds that its imports take.

Reads one JSON object per line: ``{"arguments": [...], "folder": ..., "variables": {...}}`` forks a child in
which that command line runs, with stdout and stderr in files of the folder, and answers with its process
number; ``{"wait": NUMBER}`` answers with its return code, negative for a signal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, NoReturn

import mlflow.pytorch
import mlflow.store.tracking.sqlalchemy_store
import mlflow.system_metrics.system_metrics_monitor  # noqa: F401
import pytorch_grad_cam  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch
import torch.export.pt2_archive
from mlflow.utils.requirements_utils import warn_dependency_requirement_mismatches

import cifarkit.cli
import cifarkit.data.loading
import cifarkit.repeats
import cifarkit.session


def child(order: dict[str, Any]) -> NoReturn:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(order["folder"])
    os.environ.update(order["variables"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["cifarkit", *order["arguments"]]
    try:
        cifarkit.cli.main()
    except SystemExit as leaving:
        sys.stdout.flush()
        os._exit(leaving.code if isinstance(leaving.code, int) else 1)
    finally:
        os._exit(99)


def main() -> None:
    torch.set_num_threads(1)
    warn_dependency_requirement_mismatches(["torch"])  # looks through all packages, once in a process
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        number = os.fork()
        if number == 0:
            child(order)
        print(number, flush=True)


if __name__ == "__main__":
    main()
