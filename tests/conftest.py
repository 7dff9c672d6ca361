from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cifarkit.data.datasets import DATASETS
from cifarkit.data.image_set import ImageSet


@pytest.fixture(autouse=True, scope="session")
def one_thread_for_small_tensors() -> Iterator[None]:
    """Small tensors are slower on several threads; tests that never load torch are not made to."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    return DATASETS["digits"].load(Path("unused"), "train")


@pytest.fixture(scope="session")
def unseen_digits() -> ImageSet:
    return DATASETS["digits"].load(Path("unused"), "test")
