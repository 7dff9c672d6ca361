"""The conversation: help, version, first words, live screens, plain pipes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from cli_harness import BIN, COMMAND, Outcome, Screen, run, shell
from real_process import environment
from run_store import Store

import cifarkit
from cifarkit.cli import app
from cifarkit.recipes import RECIPES

pytestmark = pytest.mark.filterwarnings("default")

Cli = Callable[..., Outcome]
OnTerminal = Callable[..., Screen]
HEAVY = ("torch", "torchvision", "mlflow", "pytorch_lightning", "matplotlib", "albumentations")


def commands(group: Any, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for name, command in group.commands.items():
        inner = commands(command, (*prefix, name)) if hasattr(command, "commands") else {}
        found |= inner or {(*prefix, name): command}
    return found


COMMANDS = commands(typer.main.get_command(app))


# -- help -----------------------------------------------------------------------------------------


def test_help_lists_the_commands(cli: Cli) -> None:
    outcome = cli("--help")
    assert outcome.code == 0
    for name in ("data", "summary", "recipes", "lr-find", "fit", "eval", "misclassified", "gradcam"):
        assert re.search(rf"\b{name}\b", outcome.out)
    data = cli("data", "--help")
    assert data.code == 0
    for name in ("download", "verify", "stats", "preview"):
        assert name in data.out


@pytest.mark.parametrize("arguments", [[], ["data"]])
def test_no_command_shows_the_help(arguments: list[str], cli: Cli) -> None:
    outcome = cli(*arguments)
    assert outcome.code in (0, 2)
    assert "Commands" in outcome.out + outcome.err
    assert outcome.err.count("Commands") + outcome.out.count("Commands") == 1
    assert all(line.removeprefix("error: ").strip() for line in outcome.errors)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_names_every_option_its_variable_and_default(
    command: tuple[str, ...], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    outcome = cli(*command, "--help")
    assert outcome.code == 0
    text = " ".join(outcome.out.replace("│", " ").split())
    for parameter in COMMANDS[command].params:
        if parameter.param_type_name != "option" or parameter.name == "help":
            continue
        assert parameter.opts[0] in text
        assert f"env var: {parameter.envvar}" in text
        shown = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
        if shown not in (None, False):
            assert f"default: ({shown})" in text or f"default: {shown}" in text, parameter.name


def test_short_help(cli: Cli) -> None:
    assert cli("fit", "-h").out == cli("fit", "--help").out


def test_version(cli: Cli) -> None:
    assert cli("--version").succeeded().line == cifarkit.__version__


def test_the_installed_command(tmp_path: Path) -> None:
    done = subprocess.run([BIN / "cifarkit", "--version"], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{cifarkit.__version__}\n", "")


# -- what comes first -----------------------------------------------------------------------------


@pytest.fixture
def watched(tmp_path: Path) -> dict[str, str]:
    """Variables that make an import of a heavy library say so on stderr and end the process with 99."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name in {HEAVY}:\n"
        "            os.write(2, f'importing {name}'.encode())\n"
        "            os._exit(99)\n"
        "sys.meta_path.insert(0, Watch())\n"
    )
    inherited = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path / "watch"), *([inherited] if inherited else [])])}


@pytest.mark.parametrize(
    "line",
    [
        "fit --dataset digits",
        "lr-find --dataset digits",
        "eval",
        "misclassified",
        "gradcam",
        "summary small-cnn",
        "data preview digits",
    ],
)
def test_something_is_said_before_anything_heavy_is_loaded(
    line: str, watched: dict[str, str], tmp_path: Path
) -> None:
    outcome = run(line.split(), tmp_path, **watched)
    assert outcome.code == 99
    *said, last = outcome.err.split("\n")
    assert said
    assert all(line.endswith(" ...") for line in said)
    assert last.startswith("importing ")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--help", 0),
        ("fit --help", 0),
        ("--version", 0),
        ("recipes", 0),
        ("fit --dataset nosuch", 2),
        ("fit --dataset digits --target-acc 90", 2),
        ("data verify cifar10", 1),
    ],
)
def test_what_needs_nothing_heavy_loads_nothing_heavy(
    line: str, code: int, watched: dict[str, str], tmp_path: Path
) -> None:
    assert run(line.split(), tmp_path, **watched).code == code


# -- pipes ----------------------------------------------------------------------------------------


def test_a_reader_that_leaves_early(tmp_path: Path) -> None:
    outcome = shell("cifarkit recipes | head -1", tmp_path)
    assert (outcome.code, outcome.line) == (0, next(iter(RECIPES)))
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("line", ["recipes", "data stats digits", "--help"])
def test_a_reader_that_never_was(line: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, *line.split()],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert done.returncode != 0
    for trace in ("Traceback", "Exception", "BrokenPipe", "unexpected"):
        assert trace not in done.stderr


# -- a terminal -----------------------------------------------------------------------------------


def test_fit_on_a_terminal_is_live(on_terminal: OnTerminal, tmp_path: Path) -> None:
    screen = on_terminal(["fit", "--dataset", "digits", "--epochs", "2"], tmp_path)
    assert screen.code == 0, screen.err
    assert screen.line == Store(tmp_path).run_ids[0]
    assert "\x1b[?25l" in screen.err
    assert "\x1b[1m" in screen.err
    # Epochs of a tenth of a second: which of them the screen catches is chance.
    assert re.search(r"epoch [12]/2", screen.err), screen.err
    for text in ("train loss", "test acc", "★", "best test accuracy"):
        assert text in screen.err, text
    screen.left_the_terminal_as_it_was()


@pytest.mark.parametrize("line", ["recipes", "fit --dataset nosuch", "--help"])
def test_no_color_means_no_control_codes(line: str, on_terminal: OnTerminal, tmp_path: Path) -> None:
    screen = on_terminal(line.split(), tmp_path, NO_COLOR="1")
    assert "\x1b" not in screen.err + screen.out


def test_nothing_forces_control_codes_into_a_pipe(tmp_path: Path) -> None:
    outcome = run(
        ["data", "verify", "digits"], tmp_path, FORCE_COLOR="1", TTY_COMPATIBLE="1", CLICOLOR_FORCE="1"
    )
    assert outcome.succeeded().err != ""


def test_a_terminal_that_can_only_print_gets_plain_lines(on_terminal: OnTerminal, tmp_path: Path) -> None:
    screen = on_terminal(["data", "verify", "digits"], tmp_path, TERM="dumb")
    assert screen.succeeded().err.count("\n") >= 1


def test_quiet_on_a_terminal(on_terminal: OnTerminal, tmp_path: Path) -> None:
    screen = on_terminal(["data", "verify", "digits", "--quiet"], tmp_path)
    assert (screen.code, screen.err, screen.line) == (0, "", "ok")
