from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cifarkit.augment.ops import Policy

from .cases import CASES


@pytest.fixture(params=CASES.values(), ids=CASES)
def policy(request: pytest.FixtureRequest) -> Policy:
    chosen: Policy = request.param
    return chosen


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Small tensors are slower on several threads, far slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
