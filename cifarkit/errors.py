"""Everything that can go wrong in a way a person can mend, with the exit code a script will see.

CifarkitError            1   failed; the message is one line
├── UsageError           2   the command was written wrongly
│   └── UnknownName      2   a name that is in no table; says which are
├── DataError            1   files missing, damaged, altered or of the wrong shape
├── CheckpointError      1   weights missing, damaged or of another model or data set
│   └── OtherVersion     1   a checkpoint that another version of cifarkit wrote
├── TrackingError        1   the MLflow store cannot be reached or written
├── RunNotFound          1   no run has this id
├── DivergedError        1   the loss became NaN, infinite or absurdly large
└── TargetNotReached     3   training ended below the target accuracy

Stopped                      the user or the system asked to stop; no Exception, as KeyboardInterrupt is none
├── Interrupted        130   Ctrl-C
└── Terminated         143   SIGTERM
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class CifarkitError(Exception):
    """Base of every error whose message is meant for the person at the terminal."""

    exit_code = 1


class UsageError(CifarkitError):
    exit_code = 2


class UnknownName(UsageError):
    """A name that is not in its table.

    Args:
        kind: what was looked for, such as ``"data set"``.
        name: the name as given.
        known: the valid names; the nearest ones are suggested first.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = list(known)
        near = difflib.get_close_matches(name.lower(), [k.lower() for k in known])
        near = [k for k in known if k.lower() in near]
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}valid: {', '.join(known) or 'none'}")


class DataError(CifarkitError):
    pass


class CheckpointError(CifarkitError):
    pass


class OtherVersion(CheckpointError):
    pass


class TrackingError(CifarkitError):
    pass


class RunNotFound(CifarkitError):
    pass


class DivergedError(CifarkitError):
    """
    Attributes:
        sign: how its message begins.
    """

    sign: ClassVar[str] = "the loss has diverged"


class TargetNotReached(CifarkitError):
    exit_code = 3


class Stopped(BaseException):
    """Raised where a signal came.

    Attributes:
        requested: that a signal came outside the training loop; compiled code of a library may turn the
            exception that its handler raises into another.
    """

    exit_code: int
    requested: ClassVar[Stopped | None] = None

    @staticmethod
    def heed() -> None:
        """To be called where any error is survived: it may be what has become of a signal.

        Raises:
            Stopped: a signal came.
        """
        if Stopped.requested is not None:
            raise Stopped.requested from None


def is_impatient(stop: BaseException) -> bool:
    """Whether this is a second request to stop, which came while the first was being followed."""
    earlier = stop.__cause__ or (None if stop.__suppress_context__ else stop.__context__)
    while earlier is not None and not isinstance(earlier, Stopped | KeyboardInterrupt):
        earlier = earlier.__cause__ or earlier.__context__
    return earlier is not None


class Interrupted(Stopped):
    exit_code = 130


class Terminated(Stopped):
    exit_code = 143
