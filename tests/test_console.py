"""What is told of how far things are; tests/cli shows it on real terminals."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console as RichConsole

from cifarkit import console
from cifarkit.console import EpochTable, Terminal
from cifarkit.results import EpochRow


def row(epoch: int) -> EpochRow:
    return EpochRow(epoch, 1.0, 0.5, 1.0, 0.5, "test", 32, 0.1, 1000.0, 0.0, 10.0, 10.0 * epoch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(console.time, "perf_counter", lambda: now[0])
    return now


def work(begin: float, end: float) -> float:
    """Of four epochs, of which the later two are twice and four times as much work as the others."""
    done = [0.0, 1.0, 2.0, 4.0, 8.0]
    return float(np.interp(end, range(5), done) - np.interp(begin, range(5), done))


def table() -> EpochTable:
    return EpochTable(Terminal(), work, [4], val_split="test", batch_size=10)


def test_the_first_steps_tell_how_long_the_training_takes(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """20 of 100 steps took 4 seconds after a slow start, and the whole training is 8 such epochs.

    One second is too short to tell.
    """
    with table() as epochs:
        for step, seconds in ((10, 9.0), (20, 10.0), (30, 13.0), (50, 99.0)):
            clock[0] = seconds
            epochs.on_step(1, step, 100, 500.0)
    assert capsys.readouterr().err.count("about 2:40 of training on this machine") == 1


def test_the_last_step_of_an_epoch_tells_nothing(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """The validation after it belongs to the work that would be done, and has not begun."""
    with table() as epochs:
        for step, seconds in ((1, 9.0), (3, 13.0)):
            clock[0] = seconds
            epochs.on_step(1, step, 3, 500.0)
    assert "of training on this machine" not in capsys.readouterr().err


def test_steps_of_different_epochs_tell_nothing(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """Epochs may be shorter than the time between two reports."""
    with table() as epochs:
        for epoch, step in ((1, 10), (2, 5), (3, 20), (3, 40)):
            clock[0] += 9
            epochs.on_step(epoch, step, 100, 500.0)
            if step != 20:
                epochs.on_epoch(row(epoch), False)
    said = capsys.readouterr().err
    assert "of training on this machine" not in said
    assert said.splitlines()[1].split()[-2:] == ["0:10", "1:10"]  # an epoch's time, and seven times that


def test_off_a_terminal_what_takes_long_is_heard_of_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Terminal().progress("fetching", "bytes") as update:
        for step in range(1, 1001):
            clock[0] += 0.07
            update(step, 1000 if step < 500 else None)
    assert capsys.readouterr().err.splitlines() == [
        "fetching ...",
        "fetching: 429 of 1,000 bytes",
        "fetching: 858 bytes",
    ]


def test_a_model_that_waits_for_long_is_told_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    epochs = EpochTable(Terminal(), work, [4], val_split="test", batch_size=10, workers=True)
    with epochs:
        for epoch, share in enumerate((0.2, 0.5, 0.6), start=1):
            epochs.on_epoch(replace(row(epoch), waiting_share=share), best=True)
    told = [line for line in capsys.readouterr().err.splitlines() if "waited" in line]
    assert len(told) == 1
    assert "50% of the time the model waited for images; raise --workers, or leave it out" in told[0]


def test_what_was_measured_on_a_sample_is_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    with table() as epochs:
        epochs.on_epoch(replace(row(1), val_sampled=True), best=True)
        epochs.on_epoch(row(2), best=False)
    first, second = capsys.readouterr().err.splitlines()[1:]
    assert first.split()[4] == "~50.0%"
    assert second.split()[4] == "50.00%"


@pytest.mark.parametrize(
    ("width", "names"),
    [
        (80, "epoch train loss train acc test loss test acc lr images/s time left"),
        (79, "epoch train loss train acc test loss test acc time left"),
        (62, "epoch train loss train acc test loss test acc time left"),
        (61, "epoch train acc test acc time left"),
        (40, "epoch test acc time left"),
    ],
)
def test_epochs_fit_into_the_terminal(width: int, names: str) -> None:
    terminal = Terminal.unseen()
    terminal.console = RichConsole(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    epochs = EpochTable(terminal, work, [4], val_split="test", batch_size=10)
    with epochs:
        for epoch in (1, 2):
            epochs.on_epoch(
                replace(row(epoch), images_per_second=12345.0, epoch_seconds=7261.0, val_sampled=True), True
            )
        shown = terminal.console.render_lines(epochs._render(everything=True))
    first = "".join(segment.text for segment in shown[0])
    assert " ".join(first.split()) == names
    assert "…" not in "".join(segment.text for line in shown for segment in line)
