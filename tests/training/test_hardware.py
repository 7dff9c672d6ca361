from __future__ import annotations

import pytest
import torch

from cifarkit.errors import UsageError
from cifarkit.training import hardware
from cifarkit.training.hardware import Hardware, choose_hardware


def pretend(monkeypatch: pytest.MonkeyPatch, gpus: int, *, bf16: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(hardware, "has_native_bf16", lambda device: bf16)


def test_the_default_is_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0)
    assert choose_hardware(None) == Hardware("cpu", 1, 1, "fp32")
    pretend(monkeypatch, 2)
    assert choose_hardware(None) == Hardware("cuda", 2, 1, "fp32")


def test_0_gpus_is_the_cpu_whatever_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 2)
    assert choose_hardware(0) == Hardware("cpu", 1, 1, "fp32")


def test_fewer_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 4)
    assert choose_hardware(3).devices == 3


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0)
    with pytest.raises(UsageError, match=r"--gpus 1 asked for, .* no GPU; --gpus 0 \(the CPU\) would run"):
        choose_hardware(1)


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 2)
    with pytest.raises(UsageError, match=r"--gpus 3 .* 2.*; --gpus 2 would run here"):
        choose_hardware(3)


def test_several_nodes_need_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0)
    with pytest.raises(UsageError, match="--nodes needs GPUs"):
        choose_hardware(None, nodes=2)


@pytest.mark.parametrize(("gpus", "nodes"), [(-1, 1), (0, 0), (None, -1)])
def test_counts_below_their_least(monkeypatch: pytest.MonkeyPatch, gpus: int | None, nodes: int) -> None:
    pretend(monkeypatch, 0)
    with pytest.raises(UsageError, match="--gpus must be 0 or more and --nodes 1 or more"):
        choose_hardware(gpus, nodes)


def test_the_world_is_devices_times_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 4)
    assert choose_hardware(4, nodes=2).world_size == 8


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_follows_the_hardware(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    pretend(monkeypatch, 0, bf16=native)
    assert choose_hardware(0).precision == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("native", [True, False])
def test_a_precision_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch, precision: str, native: bool) -> None:
    pretend(monkeypatch, 0, bf16=native)
    assert choose_hardware(0, precision=precision).precision == precision


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"),
    [(False, False, False), (True, False, True), (False, True, True)],
)
def test_cpus_need_bf16_instructions(
    monkeypatch: pytest.MonkeyPatch, avx512: bool, amx: bool, expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert hardware.has_native_bf16("cpu") is expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_need_to_be_amperes(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert hardware.has_native_bf16("cuda") is expected


def test_one_line_describes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "processor_name", lambda: "Some CPU")
    monkeypatch.setattr(hardware, "cores", lambda: 8)
    assert Hardware("cpu", 1, 1, "bf16").describe() == "Some CPU, 8 cores, bf16"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    assert Hardware("cuda", 1, 1, "fp32").describe() == "Some GPU, fp32"
    assert Hardware("cuda", 4, 2, "fp32").describe() == "8 x Some GPU, fp32"
