"""``cifarkit``, and ``python -m cifarkit``."""

import atexit
import contextlib
import gc
import os
import signal
import sys
from typing import NoReturn

# Have glibc keep no small blocks for reuse: they lie between large ones that have been freed, which then do
# not join, and no large one fits again. CPU trainings took a quarter more memory (benchmarks/README.md).
MALLOC = "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"
STARTED_AGAIN = "CIFARKIT_STARTED_AGAIN"


def main() -> NoReturn:
    """`cifarkit.cli.main`; until that has been loaded, Ctrl-C ends the process without a word."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is to be ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Of the million objects that imports make, all stay. Looking through them again and again took a sixth of
    # the time to the first step; young objects are looked through as ever.
    gc.set_threshold(*gc.get_threshold()[:2], 1000)
    if sys.argv[1:2] == ["fit"]:
        _keep_large_blocks_together()
    code = 1
    # First, to be called last. Taking PyTorch apart, object by object, would take two seconds.
    atexit.register(lambda: leave(code))
    from cifarkit.cli import leave
    from cifarkit.cli import main as run

    try:
        run()
    except SystemExit as leaving:
        if isinstance(leaving.code, int):
            code = leaving.code
        raise


def _keep_large_blocks_together() -> None:
    """Start this program once more, in this process, with `MALLOC`, which glibc reads when a program starts.

    Not where GLIBC_TUNABLES is set, to whatever, and not where there is an NVIDIA GPU, whose steps are short
    enough to wait for small blocks. Programs that this one starts do not inherit it.
    """
    if os.environ.pop(STARTED_AGAIN, None):
        os.environ.pop("GLIBC_TUNABLES", None)
    elif (
        sys.platform == "linux"
        and sys.executable
        and "GLIBC_TUNABLES" not in os.environ
        and not os.path.exists("/dev/nvidiactl")
    ):
        again = os.environ | {"GLIBC_TUNABLES": MALLOC, STARTED_AGAIN: "1"}
        with contextlib.suppress(OSError):
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], again)


if __name__ == "__main__":
    main()
