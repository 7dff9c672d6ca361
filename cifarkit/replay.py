"""Work that a GPU repeats: a CUDA graph names its kernels once instead of one after the other, every time."""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Work = Callable[..., tuple[Any, ...]]  # of tensors to tensors, or None for some


class Replayed:
    """A function of tensors that a GPU replays: the same results, for a fraction of the host's time.

    The first two calls with inputs of some shapes and types run as they are, the third is recorded, which
    computes nothing, and from then on the record is replayed. Work that waits for the GPU cannot be recorded
    and goes on running as it is.

    Args:
        work: takes tensors on a GPU and returns tensors. What else it reads and writes lies at the same place
            each time, and it does the same whatever the values are.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._calls: Counter[object] = Counter()
        self._ways: dict[object, Work] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Any, ...]:
        """The results; the next call overwrites them."""
        key = tuple((each.shape, each.dtype) for each in inputs)
        self._calls[key] += 1
        if self._calls[key] == 1:  # libraries are set up, and much is compiled
            return self._work(*inputs)
        if self._calls[key] == 2:
            results, waited = _watched(self._work, inputs)
            if waited:
                self._ways[key] = self._work
            return results
        if key not in self._ways:
            self._ways[key] = record(self._work, inputs)
        return self._ways[key](*inputs)


@dataclass(frozen=True)
class _Record:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    results: tuple[Any, ...]

    def __call__(self, *inputs: Tensor) -> tuple[Any, ...]:
        torch._foreach_copy_(self.inputs, inputs)
        self.graph.replay()
        return self.results


def record(work: Work, inputs: tuple[Tensor, ...]) -> Work:
    """What replays the work, on other inputs of the same shapes and types."""
    held = tuple(each.clone() for each in inputs)
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the GPU meanwhile: checkpoints are written by one. Nobody may give up another
    # record, as the garbage collector would.
    collects = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = work(*held)
    finally:
        if collects:
            gc.enable()
    return _Record(graph, held, results)


def _watched(work: Work, inputs: tuple[Tensor, ...]) -> tuple[tuple[Any, ...], bool]:
    """The results of the work, and whether it waited for the GPU."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            results = work(*inputs)
        finally:
            torch.cuda.set_sync_debug_mode(before)
    waited = False
    for each in caught:
        message = str(each.message)
        if "called a synchronizing CUDA operation" in message:
            waited = True
        elif "Synchronization debug mode" not in message:  # which says of itself that it may miss something
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return results, waited
