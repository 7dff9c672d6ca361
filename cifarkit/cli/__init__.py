"""The command line: one file per command, one place that turns errors into messages and exit codes."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import traceback
from types import FrameType
from typing import Any, NoReturn

import typer

from cifarkit import __version__
from cifarkit.cli.bench import bench
from cifarkit.cli.data import app as data
from cifarkit.cli.doctor import doctor
from cifarkit.cli.evaluate import evaluate
from cifarkit.cli.fit import fit
from cifarkit.cli.gradcam import gradcam
from cifarkit.cli.lr_find import lr_find
from cifarkit.cli.misclassified import misclassified
from cifarkit.cli.recipes import recipes
from cifarkit.cli.runs import app as runs
from cifarkit.cli.summary import summary
from cifarkit.errors import CifarkitError, Interrupted, Stopped, Terminated

# Typer carries a click of its own, or uses the installed one, depending on its version.
ClickUsageError: Any = typer.BadParameter.__bases__[0]
ClickException: Any = ClickUsageError.__bases__[0]

# How often PyTorch's threads look for each other before they sleep: a hundredth of the default. Alone that
# costs a CIFAR-10 step less than three percent. Beside another process, to which threads that spin leave no
# core, it makes a step three to fourteen times as fast (benchmarks/README.md).
SPINS = "3000"

app = typer.Typer(
    name="cifarkit",
    help="Train small image classifiers to a target accuracy: fast, tracked in MLflow, explained.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's help would take as long as all the rest of --help
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data, name="data")
app.command("lr-find")(lr_find)
app.command("fit")(fit)
app.command("eval")(evaluate)
app.command("misclassified")(misclassified)
app.command("gradcam")(gradcam)
app.command("summary")(summary)
app.command("recipes")(recipes)
app.command("bench")(bench)
app.add_typer(runs, name="runs")
app.command("doctor")(doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    # Not where it is to be ignored, or where another program has a use for it.
    if signal.getsignal(signal.SIGINT) in (signal.SIG_DFL, signal.default_int_handler):
        signal.signal(signal.SIGINT, _interrupted)
    sys.unraisablehook = _send_again
    # Python has None for what was closed before the start: what is said there is lost, and nothing else.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # Names of classes need not be ASCII where the terminal is.
        sys.stdout.reconfigure(errors="backslashreplace")
    if "OMP_WAIT_POLICY" not in os.environ:  # before PyTorch is loaded, which is when its threads are told
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    code = run(sys.argv[1:])
    if code in (Interrupted.exit_code, Terminated.exit_code):
        leave(code)  # nobody who asked to stop is made to wait for a thread that waits for a server
    sys.exit(code)


def leave(code: int) -> NoReturn:
    """End the process with this exit code at once: what has been said is written, no thread is waited for."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code. Every error ends here, as one line on stderr."""
    try:
        result = app(args=arguments, standalone_mode=False)
        Stopped.heed()
    except (CifarkitError, Stopped) as error:
        return _fail(str(error), error.exit_code, arguments)
    except ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)
            return 2
        if isinstance(error, ClickUsageError) and error.ctx:
            print(f"usage: {error.ctx.get_usage().removeprefix('Usage: ')}", file=sys.stderr)
        message = error.format_message()
        if type(error).__name__ == "MissingParameter":
            message += f" {error.param.help}"
        return _fail(message, 2, arguments)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", Interrupted.exit_code, arguments)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1 if leaving.code else 0
    except BrokenPipeError:
        # The reader of stdout has gone; what is left to say has nobody to hear it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}", 1, arguments)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        return _fail(f"unexpected {type(error).__name__}: {first} (--debug shows where)", 1, arguments)
    if result == Interrupted.exit_code:  # Typer turns Ctrl-C into this, and says nothing
        return _fail("interrupted", Interrupted.exit_code, arguments)
    return result if isinstance(result, int) else 0


def _fail(message: str, code: int, arguments: list[str]) -> int:
    if Stopped.requested is not None:  # whatever else failed is its consequence
        message, code = str(Stopped.requested), Stopped.requested.exit_code
    if "--debug" in arguments or os.environ.get("CIFARKIT_DEBUG", "").lower() in ("1", "true", "yes"):
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return code


def _terminated(number: int, frame: FrameType | None) -> None:
    Stopped.requested = Terminated("terminated")
    raise Stopped.requested


def _interrupted(number: int, frame: FrameType | None) -> None:
    Stopped.requested = Interrupted("interrupted")
    raise KeyboardInterrupt


def _send_again(lost: sys.UnraisableHookArgs) -> None:
    """Send a signal once more that came in a finalizer, where Python drops what its handler raises."""
    number = {KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}.get(lost.exc_type)
    if number is None or sys.is_finalizing():
        sys.__unraisablehook__(lost)
    else:
        # Not at once: this is still part of the finalizer.
        threading.Timer(0.05, os.kill, [os.getpid(), number]).start()
