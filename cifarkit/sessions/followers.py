"""The processes beside the first, one for each further GPU: they train along and say nothing."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from cifarkit.data.loading import Splits
from cifarkit.errors import DivergedError, Stopped, UsageError
from cifarkit.scratch import scratch
from cifarkit.sessions.request import FitRequest, Job
from cifarkit.training.data import Data
from cifarkit.training.fit import fit
from cifarkit.training.hardware import Hardware

# Variables in which Lightning, torchrun and Slurm tell a process that it is not the first.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
PLAN = "CIFARKIT_PLAN"


def is_follower(hardware: Hardware) -> bool:
    """Whether this process only trains along. Where a training takes one process only, its number says
    nothing: it may be one of several trainings that Slurm has started."""
    return hardware.world_size > 1 and any(os.environ.get(rank, "0") != "0" for rank in RANKS)


def check_started_here(job: Job, resume: Path | None) -> None:
    """That nobody but Lightning starts the other processes, where they have to know what `leave_plan` leaves.

    Raises:
        UsageError: somebody else does.
    """
    started_elsewhere = job.hardware.nodes > 1 or any(rank in os.environ for rank in RANKS)
    if started_elsewhere and (job.recipe.lr is None or resume):
        raise UsageError(
            "over several nodes, and where torchrun or Slurm starts the processes, give --lr a number and "
            "start without --resume"
        )


def leave_plan(job: Job, folder: Path, resume: Path | None) -> None:
    """Lightning starts the other processes of this machine with the same command line and environment:
    leave what has been resolved since where they find it."""
    path = folder / "plan.json"
    plan = job.request.record() | {"resume": str(resume) if resume else None}
    path.write_text(json.dumps(plan), encoding="utf-8")
    os.environ[PLAN] = str(path)


def follow(request: FitRequest, splits: Splits | None) -> NoReturn:
    """The part of the processes beside the first: train along and say nothing.

    They leave with 0 where the training is stopped or diverges, too: the first tells that, and Lightning
    kills it, whatever it still has to record, when one of the others fails.

    Args:
        splits: as `fit.run_fit` takes them.
    """
    resume = None
    if PLAN in os.environ:
        plan = json.loads(Path(os.environ[PLAN]).read_text(encoding="utf-8"))
        resume = Path(plan["resume"]) if plan["resume"] else None
        request = request.as_recorded(plan)
    hardware = request.hardware()
    with scratch() as folder, suppress(Stopped, KeyboardInterrupt, DivergedError):
        fit(
            request.on(hardware).plan,
            Data.of(request.source, splits or request.read()),
            hardware,
            Path(folder),
            resume=resume,
        )
    raise SystemExit(0)
