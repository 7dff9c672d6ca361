"""Starts cifarkit in processes of their own without the seconds that its imports take.

Reads one JSON object per line and answers each with a number: ``{"arguments": [...], "folder": ...,
"variables": {...}, "terminal": ..., "figures": ...}`` forks a child in which that command line runs, and is
answered with its process number; ``{"poll": NUMBER}`` with its return code, negative for a signal, or null
while it is at work.

A child's stdout and stderr are files of the folder; or stdin and stderr the device ``terminal``. Without
``figures`` a training ends without figures and model.
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
import cifarkit.sessions.fit
import cifarkit.sessions.repeats


def child(order: dict[str, Any]) -> NoReturn:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(order["folder"])
    os.environ.update(order["variables"])
    appending = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    os.dup2(os.open("stdout", appending), 1)
    if order["terminal"]:
        terminal = os.open(order["terminal"], os.O_RDWR | os.O_NOCTTY)
        os.dup2(terminal, 0)
        os.dup2(terminal, 2)
    else:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open("stderr", appending), 2)
    if not order["figures"]:
        cifarkit.sessions.fit.report = cifarkit.sessions.repeats.report = lambda *arguments: None
    sys.argv = ["cifarkit", *order["arguments"]]
    try:
        cifarkit.cli.main()
    except SystemExit as leaving:
        sys.stdout.flush()
        os._exit(leaving.code if isinstance(leaving.code, int) else 1)
    finally:
        os._exit(99)


codes: dict[int, int | None] = {}


def answer(order: dict[str, Any]) -> int | None:
    if "poll" in order:
        number = order["poll"]
        if codes[number] is None and (ended := os.waitpid(number, os.WNOHANG))[0]:
            codes[number] = os.waitstatus_to_exitcode(ended[1])
        return codes[number]
    number = os.fork()
    if number == 0:
        child(order)
    codes[number] = None
    return number


def main() -> None:
    torch.set_num_threads(1)
    warn_dependency_requirement_mismatches(["torch"])  # looks through all packages, once in a process
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
