"""Which processes are still there."""

from __future__ import annotations

import os
import platform

import psutil

# Without a heartbeat for so long, a process on another host counts as gone.
VANISHED_SECONDS = 300


def this_process() -> str:
    """A mark by which `is_process` knows this process again: host, number and second of its start."""
    return f"{platform.node()}/{_process(os.getpid())}"


def on_this_host(mark: str) -> bool:
    return mark.partition("/")[0] == platform.node()


def is_process(mark: str) -> bool:
    """Whether the process of this mark may still be at work; on another host nobody can tell."""
    if not mark or not on_this_host(mark):
        return bool(mark)
    process = mark.partition("/")[2]
    return process == _process(int(process.partition("@")[0]))


def _process(pid: int) -> str | None:
    """A process by number and second of its start, because numbers come back; None when it is gone."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{pid}@{process.create_time():.0f}"
    except psutil.Error:
        return None
