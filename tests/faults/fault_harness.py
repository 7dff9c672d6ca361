"""What a disturbed training is compared with."""

from __future__ import annotations

import torch
from run_store import Store

COMPARED = ("train/loss", "train/acc", "val/loss", "val/acc", "lr")


def assert_same_training(
    store: Store, run_id: str, reference: Store, reference_id: str, *, with_figures: bool = True
) -> None:
    """Bit for bit the same weights and metrics, nothing recorded twice, nothing missing."""
    for name in ("best", "last"):
        ours, theirs = store.weights(run_id, name), reference.weights(reference_id, name)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == [], name
    for key in COMPARED:
        assert store.history(run_id, key) == reference.history(reference_id, key), key
    assert store.runs[run_id] == "FINISHED"
    missing = reference.files(reference_id) - store.files(run_id)
    assert {name for name in missing if with_figures or name.startswith("checkpoints")} == set()
