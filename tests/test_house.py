from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cifarkit

HOUSE = Path(cifarkit.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))

# Rooms on one line stand on one floor and do not know each other.
FLOORS = (
    ("errors",),
    ("results", "replay", "scratch", "untrusted"),
    ("intervals",),
    ("data", "augment", "models", "optim"),
    ("pipeline", "recipes"),
    ("checkpoint",),
    ("training",),
    ("analysis",),
    ("figures", "tracking", "console"),
    ("subjects",),
    ("reports",),
    ("sessions",),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
OBSERVERS = ("figures", "tracking", "console")

HOMES = {
    "albumentations": ("augment/per_image.py",),
    "pytorch_lightning": ("training/",),
    "mlflow": ("tracking/",),
    "matplotlib": ("figures/",),
    "rich": ("console.py", "cli/"),
    "pytorch_grad_cam": ("analysis/gradcam.py",),
    "sklearn": ("data/digits.py", "analysis/"),
}


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def rooms_known_to(path: Path) -> set[str]:
    names = (name.split(".") for name in imports(path))
    rooms = {name[1] for name in names if name[0] == "cifarkit" and len(name) > 1}
    return rooms - {room_of(path), "__version__"}


def name_of(path: Path) -> str:
    return path.relative_to(HOUSE).as_posix()


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in FILES} - {"__init__"} == set(FLOOR_OF)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_from_floors_below(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert not rooms_known_to(path)
        return
    above = {other for other in rooms_known_to(path) if FLOOR_OF[other] >= FLOOR_OF[room]}
    assert not above


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) in OBSERVERS], ids=name_of)
def test_observers_know_only_records_and_errors(path: Path) -> None:
    assert rooms_known_to(path) <= {"errors", "results"}


@pytest.mark.parametrize("library", HOMES)
def test_a_heavy_library_has_one_home(library: str) -> None:
    users = [name_of(path) for path in FILES if any(n.split(".")[0] == library for n in imports(path))]
    assert users
    assert [user for user in users if not user.startswith(HOMES[library])] == []


def test_records_know_no_torch() -> None:
    assert not {n for n in imports(HOUSE / "results.py") if n.split(".")[0] in ("torch", "numpy", "cifarkit")}


def loaded_by(program: str, *libraries: str) -> list[str]:
    program += f"; import sys; print(*[m for m in {libraries} if m in sys.modules])"
    return subprocess.check_output([sys.executable, "-c", program], text=True).split()


def test_the_command_line_loads_nothing_heavy() -> None:
    heavy = (
        "torch",
        "torchvision",
        "mlflow",
        "matplotlib",
        "pytorch_lightning",
        "albumentations",
        "sklearn",
        "pytorch_grad_cam",
    )
    assert loaded_by("import cifarkit.cli", *heavy) == []


def test_what_few_trainings_need_is_loaded_late() -> None:
    program = "import cifarkit.augment.per_image; from cifarkit.models import fused; fused.available()"
    assert loaded_by(program, "albumentations", "triton") == []
