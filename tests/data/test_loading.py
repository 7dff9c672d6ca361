from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cifarkit.data.datasets import DATASETS
from cifarkit.data.loading import default_data_dir, load_split, load_splits
from cifarkit.errors import UnknownName, UsageError

DIGITS = DATASETS["digits"]
NOWHERE = Path("nowhere")


def test_without_hold_out_validation_is_the_test_split_and_says_so():
    splits = load_splits(DIGITS, NOWHERE)
    assert splits.val.split == "test"
    assert splits.val.fingerprint == load_split(DIGITS, NOWHERE, "test").fingerprint


def test_hold_out_never_touches_the_test_split():
    splits = load_splits(DIGITS, NOWHERE, val_size=200, seed=3)
    assert (len(splits.train), len(splits.val), splits.val.split) == (1237, 200, "val")
    test = load_split(DIGITS, NOWHERE, "test", val_size=200, seed=3)
    assert test.split == "test"
    used = np.concatenate([splits.train.indices, splits.val.indices])
    assert not set(used) & set(test.indices)


def test_load_split_cuts_as_load_splits_does():
    splits = load_splits(DIGITS, NOWHERE, val_size=100, seed=5)
    for name in ("train", "val"):
        alone = load_split(DIGITS, NOWHERE, name, val_size=100, seed=5)
        assert alone.split == name
        assert alone.fingerprint == getattr(splits, name).fingerprint
    assert len(load_split(DIGITS, NOWHERE, "train")) == 1437


def test_validation_without_hold_out_is_refused():
    with pytest.raises(UsageError, match="held out"):
        load_split(DIGITS, NOWHERE, "val")
    with pytest.raises(UnknownName, match="split"):
        load_split(DIGITS, NOWHERE, "all")


def test_default_data_dir(monkeypatch):
    monkeypatch.setenv("CIFARKIT_DATA_DIR", "/somewhere")
    assert default_data_dir() == Path("/somewhere")
    monkeypatch.setenv("CIFARKIT_DATA_DIR", "")
    assert default_data_dir() == Path("data")
    monkeypatch.delenv("CIFARKIT_DATA_DIR")
    assert default_data_dir() == Path("data")
