"""Where a run comes from."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from cifarkit import __version__

# Tag: what was typed.
COMMAND = "cifarkit.command"

RECORDED_VERSIONS = ("torch", "torchvision", "pytorch-lightning", "albumentations", "mlflow", "numpy")


def environment_tags() -> dict[str, str]:
    """Tags every run carries: the command line, versions, git commit, host and processor count."""
    tags = {
        COMMAND: command_line(),
        "cifarkit.version": __version__,
        "host": platform.node(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": str(os.cpu_count()),
    }
    tags |= {f"version.{package}": number for package, number in versions().items()}
    commit = _git_commit()
    if commit:
        tags["mlflow.source.git.commit"] = commit
    return tags


def command_line() -> str:
    """What was typed, as a shell takes it, without passwords in addresses."""
    return shlex.join(["cifarkit", *(re.sub(r"://[^/]*@", "://***@", word) for word in sys.argv[1:])])


def versions() -> dict[str, str]:
    """Of the packages that results may depend on, as far as they are installed."""
    found = {}
    for package in RECORDED_VERSIONS:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _git_commit() -> str | None:
    """The commit of the folder the command runs in, with a mark when tracked files have changed."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")
