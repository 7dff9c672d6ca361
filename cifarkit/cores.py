"""What to do where other processes use this machine's cores, too; known before any library is loaded."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache

# Of one core, in the mean of the last minute: less is what any desktop does.
WORTH_NOTICING = 0.7


@cache
def others() -> float:
    """How many cores others kept busy in the last minute before the first call, from the load average;
    0 where that is hardly any, where nothing else is running any more, or where the system does not tell."""
    load = _load()
    with suppress(OSError), open("/proc/loadavg", encoding="ascii") as file:
        if int(file.read().split()[3].partition("/")[0]) < 2:  # one is this process
            load = 0.0
    return load if load >= WORTH_NOTICING else 0.0


def share() -> None:
    """Where others are at work, let the threads of PyTorch sleep while they wait for each other.

    They spin by default, which is quickest where every thread has a core of its own: beside one busy process
    a step of `speednet-slim` on two cores took six times as long spinning, 1.7 times as long sleeping; alone,
    sleeping takes a tenth more (benchmarks/README.md). What the environment asks for has precedence. It has
    to be said before PyTorch is loaded.
    """
    if others() and os.environ.get("OMP_NUM_THREADS") != "1" and "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def crowded() -> bool:
    """Whether others have come since, while our threads, at most one for every core, spin."""
    spinning = not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
    return spinning and _load() >= (os.cpu_count() or 1) + WORTH_NOTICING


def _load() -> float:
    with suppress(OSError, AttributeError):
        return os.getloadavg()[0]
    return 0.0
