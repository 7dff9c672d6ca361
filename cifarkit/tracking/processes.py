"""Which processes are still there."""

from __future__ import annotations

import hashlib
import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

# Without a heartbeat for so long, a process on another host counts as gone.
VANISHED_SECONDS = 300


def this_process() -> str:
    """A mark by which `is_process` knows this process again: host, number and moment of its start."""
    return f"{_here()}/{_process(os.getpid())}"


def describe(mark: str) -> str:
    """A process's number and host, for people."""
    host, _, process = mark.partition("/")
    return f"{process.partition('@')[0]} on {host.partition('~')[0]}"


def on_this_host(mark: str) -> bool:
    """Whether its number can be looked up here."""
    return mark.partition("/")[0] == _here()


@cache
def _here() -> str:
    """The host's name, and a sign of the machine and of its processes' numbering: machines may share a name,
    and a container has its host's with numbers of its own."""
    sign = ""
    with suppress(OSError):
        sign += Path("/etc/machine-id").read_text(encoding="utf-8")
    with suppress(OSError):
        sign += os.readlink("/proc/self/ns/pid")
    return f"{platform.node()}~{hashlib.sha256(sign.encode()).hexdigest()[:8]}"


def is_process(mark: str) -> bool:
    """Whether the process of this mark may still be at work; on another host nobody can tell."""
    if not mark or not on_this_host(mark):
        return bool(mark)
    process = mark.partition("/")[2]
    return process == _process(int(process.partition("@")[0]))


def _process(pid: int) -> str | None:
    """A process by number and seconds from the machine's start to its own, because numbers come back; None
    when it is gone. (The time of day may be set while it runs.)"""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        booted = psutil.boot_time()  # first: psutil adds to it what it was at this call
        return f"{pid}@{process.create_time() - booted:.2f}"
    except psutil.Error:
        return None
