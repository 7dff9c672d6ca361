"""What the README shows works as shown."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_harness import Outcome
from real_process import environment

from cifarkit.cli import app, reference
from cifarkit.data.datasets import DATASETS, find_dataset
from cifarkit.data.loading import load_splits
from cifarkit.models import MODELS, build_model
from cifarkit.recipes import RECIPES, Plan, find_recipe
from cifarkit.training.data import Data
from cifarkit.training.fit import fit
from cifarkit.training.hardware import choose_hardware

Cli = Callable[..., Outcome]
README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def entries() -> list[str]:
    """The examples of new entries, which come after the other programs."""
    return [block for block in blocks("python") if re.search(r"^[A-Z]+\[", block, flags=re.MULTILINE)]


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's entries, in the tables for the length of a test."""
    for table in (DATASETS, MODELS, RECIPES):
        for name in ("stripes", "linear", "resnet-sgd"):
            monkeypatch.delitem(table, name, raising=False)
    for block in entries():
        exec(compile(block, str(README), "exec"), {"__name__": "mine"})
    yield
    for table, name in ((DATASETS, "stripes"), (MODELS, "linear"), (RECIPES, "resnet-sgd")):
        del table[name]


@pytest.mark.usefixtures("examples")
def test_examples_of_new_entries_train(tmp_path: Path) -> None:
    stripes = find_dataset("stripes")
    data = Data.of(stripes, load_splits(stripes, tmp_path))
    recipe = find_recipe("digits").override(model="linear", epochs=1)
    result = fit(Plan(recipe), data, choose_hardware(0), tmp_path)
    assert result.best_val_acc > 0.5
    assert build_model(find_recipe("resnet-sgd").model, (3, 32, 32), 10)


@pytest.mark.usefixtures("examples", "without_figures")
@pytest.mark.filterwarnings("default")
def test_the_command_shown_with_them_works(cli: Cli) -> None:
    shown = re.search(r"`python mine.py (fit .*)`", README.read_text(encoding="utf-8"))
    assert shown
    cli(*shown[1].split(), "--epochs", "1").succeeded()


def test_examples_work_in_a_file_of_ones_own(tmp_path: Path) -> None:
    assert len(entries()) == 3
    (tmp_path / "mine.py").write_text("\n".join([*entries(), "from cifarkit.cli import main", "main()"]))
    command = [sys.executable, "mine.py", "recipes"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*RECIPES, "resnet-sgd"]


def test_every_command_shown_exists_with_its_options() -> None:
    import typer

    commands = dict(reference._commands(typer.main.get_command(app)))
    shown = [line for block in blocks("sh") for line in block.splitlines() if "cifarkit " in line]
    assert len(shown) >= 12
    for line in shown:
        words = re.split(r"cifarkit ", line, maxsplit=1)[1].partition("#")[0].replace(")", " ").split()
        name = " ".join(words[:2]) if words[0] in ("data", "runs") else words[0]
        assert name in commands, line
        known = {option for parameter in commands[name].params for option in parameter.opts}
        used = {word.strip('"') for word in words if word.startswith("--")}
        assert used <= known, line


def test_reference_is_current() -> None:
    assert reference.main(["--check", str(README)]) == 0


def test_pictures_shown_are_there() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README.read_text(encoding="utf-8"))
    assert len(pictures) >= 6
    assert [picture for picture in pictures if not (README.parent / picture).is_file()] == []


def test_files_named_are_there() -> None:
    text = README.read_text(encoding="utf-8")
    tests, code = re.findall(r"`([a-z_/]*test_\w+\.py)`", text), re.findall(r"`(cifarkit/[\w/]+\.py)`", text)
    assert tests
    assert code
    root = README.parent
    named = [*(root / "tests" / name for name in tests), *(root / name for name in code)]
    assert [str(path) for path in named if not path.is_file()] == []
