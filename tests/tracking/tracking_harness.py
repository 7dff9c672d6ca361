"""What the tests of recording record, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cifarkit import tracking
from cifarkit.results import EpochRow
from cifarkit.tracking import Journal, journal, processes
from cifarkit.tracking.journal import JOURNAL, UNSENT

EXPERIMENT = "trial"
FIT = {tracking.KIND: "fit", "dataset": "digits"}
HERE = processes._here()


def row(epoch: int, **changes: Any) -> EpochRow:
    numbers: dict[str, Any] = {
        "train_loss": 2.0 / epoch, "train_acc": 0.2 * epoch, "val_loss": 2.2 / epoch, "val_acc": 0.25 * epoch,
        "lr": 0.1 / epoch, "images_per_second": 100.0, "waiting_share": 0.1,
        "epoch_seconds": 2.0, "train_seconds": 2.0 * epoch,
    }  # fmt: skip
    return EpochRow(epoch=epoch, val_split="test", image_side=32, **(numbers | changes))


def runs_in(client: Any) -> list[Any]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments))


def left_by_us() -> list[Journal]:
    """What recorders of this process left, which production takes to be at work."""
    return [Journal(path.parent.absolute()) for path in sorted(UNSENT.glob(f"*/{JOURNAL}"))]


class Unreliable:
    """A store that does not answer while ``down``; what it is sent is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.down, self.tries = False, 0
        for kind, send in journal.KINDS.items():
            monkeypatch.setitem(journal.KINDS, kind, self._wrapped(send))

    def _wrapped(self, send: Callable[..., None]) -> Callable[..., None]:
        def sending(*args: Any, **kwargs: Any) -> None:
            self.tries += 1
            if self.down:
                raise ConnectionError("connection refused")
            send(*args, **kwargs)

        return sending
