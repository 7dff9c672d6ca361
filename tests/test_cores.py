from __future__ import annotations

import io
import os
from collections.abc import Iterator

import pytest

from cifarkit import cores


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT"):
        # Set first, so that it is as it was afterwards even where it was not there.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    cores.others.cache_clear()
    yield
    cores.others.cache_clear()


def loaded(monkeypatch: pytest.MonkeyPatch, load: float, running: int) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    text = f"{load} 0.00 0.00 {running}/300 4711\n"
    monkeypatch.setattr(cores, "open", lambda *_, **__: io.StringIO(text), raising=False)


@pytest.mark.parametrize(
    ("load", "running", "expected"),
    [(1.3, 3, 1.3), (1.3, 1, 0.0), (0.4, 3, 0.0), (0.0, 1, 0.0)],
    ids=["busy", "over", "little", "idle"],
)
def test_others(load: float, running: int, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded(monkeypatch, load, running)
    assert cores.others() == expected
    cores.share()
    assert os.environ.get("OMP_WAIT_POLICY") == ("passive" if expected else None)


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "getloadavg", nothing)
    monkeypatch.setattr(cores, "open", nothing, raising=False)
    assert cores.others() == 0.0


@pytest.mark.parametrize(
    ("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "9"), ("OMP_NUM_THREADS", "1")]
)
def test_the_environment_has_precedence(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded(monkeypatch, 2.0, 3)
    monkeypatch.setenv(name, value)
    cores.share()
    assert os.environ.get("OMP_WAIT_POLICY") == (value if name == "OMP_WAIT_POLICY" else None)


@pytest.mark.parametrize(
    ("load", "asleep", "expected"), [(5.0, False, True), (4.5, False, False), (5.0, True, False)]
)
def test_others_that_came_later(
    load: float, asleep: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(monkeypatch, load, 6)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    if asleep:
        monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert cores.crowded() == expected
