from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from cifarkit.replay import Replayed

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_the_third_call_of_a_kind_is_recorded(recorded: list[tuple[torch.Size, ...]]) -> None:
    doubled = Replayed(lambda x: (x * 2,))
    for count, size in enumerate((3, 3, 5, 3, 3, 5, 5)):
        (result,) = doubled(torch.full((size,), float(count)))
        assert result.tolist() == [2.0 * count] * size
    assert recorded == [((3,),), ((5,),)]


def test_types_are_recorded_apart(recorded: list[tuple[torch.Size, ...]]) -> None:
    same = Replayed(lambda x: (x.clone(),))
    for dtype in (torch.float32, torch.int64) * 3:
        assert same(torch.ones(2, dtype=dtype))[0].dtype is dtype
    assert len(recorded) == 2


def test_what_waits_for_the_gpu_is_not_recorded(recorded: list[tuple[torch.Size, ...]]) -> None:
    def waits(x: Tensor) -> tuple[Tensor]:
        warnings.warn("called a synchronizing CUDA operation (Triggered internally ...)", stacklevel=1)
        return (x + 1,)

    work = Replayed(waits)
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work(torch.zeros(1))
    with pytest.warns(UserWarning, match="synchronizing"):  # it runs as it is
        assert work(torch.zeros(1))[0].item() == 1
    assert not recorded


def test_other_warnings_are_heard(recorded: list[tuple[torch.Size, ...]]) -> None:
    def warns(x: Tensor) -> tuple[Tensor]:
        warnings.warn("something else", stacklevel=1)
        return (x,)

    work = Replayed(warns)
    for _ in range(2):
        with pytest.warns(UserWarning, match="something else"):
            work(torch.zeros(1))


def test_nothing_is_watched_any_longer_when_the_work_fails(
    recorded: list[tuple[torch.Size, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def fails(x: Tensor) -> tuple[Tensor]:
        raise ValueError("no")

    work = Replayed(fails)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            work(torch.zeros(1))
    assert modes == ["warn", 0]


@NEEDS_GPU
def test_a_gpu_computes_the_same() -> None:
    total = torch.zeros(4, device="cuda")

    def work(x: Tensor) -> tuple[Tensor, None]:
        total.add_(x)
        return torch.nn.functional.dropout(x, 0.0) @ x, None

    replayed = Replayed(work)
    for count in range(1, 7):
        result, nothing = replayed(torch.full((4,), float(count), device="cuda"))
        assert result.item() == 4 * count**2
        assert nothing is None
        assert total.tolist() == [count * (count + 1) / 2] * 4  # each call counts once


@NEEDS_GPU
@pytest.mark.filterwarnings("ignore:called a synchronizing")
def test_a_gpu_that_is_waited_for_records_nothing() -> None:
    replayed = Replayed(lambda x: (x * x.sum().item(),))
    for count in range(1, 5):
        assert replayed(torch.full((2,), float(count), device="cuda"))[0].tolist() == [2.0 * count**2] * 2
