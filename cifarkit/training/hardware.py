"""Which device, how many, in which precision."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from dataclasses import dataclass

import torch

from cifarkit.errors import UsageError


@dataclass(frozen=True)
class Hardware:
    """What a training runs on.

    Attributes:
        device: ``cpu`` or ``cuda``.
        devices: processes on this machine (GPUs, or 1 on the CPU).
        nodes: machines.
        precision: ``fp32`` or ``bf16``.
    """

    device: str
    devices: int
    nodes: int
    precision: str

    @property
    def world_size(self) -> int:
        return self.devices * self.nodes

    def describe(self) -> str:
        """One line for people: the device, its number and the precision."""
        if self.device == "cuda":
            name = torch.cuda.get_device_name()
        else:
            name = f"{processor_name()}, {cores()} core{'s' * (cores() != 1)}"
        times = f"{self.world_size} x " if self.world_size > 1 else ""
        return f"{times}{name}, {self.precision}"


def cores() -> int:
    return torch.get_num_threads()


def processor_name() -> str:
    """The processor's own name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def has_native_bf16(device: str) -> bool:
    """Whether bf16 products run at full speed: on GPUs since Ampere, on CPUs with AVX512-BF16 or AMX.

    Elsewhere PyTorch computes bf16 by conversion, which on an AVX2 machine is a hundred times slower
    than fp32.
    """
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def reuse_freed_memory() -> None:
    """Tell glibc to keep large freed blocks instead of returning them to the system.

    Every step frees and allocates the same activations of some 100 MB; mapped anew each time, their
    pages are zeroed by the kernel first, which cost a fifth of a CPU training's time. Elsewhere than on
    glibc nothing happens.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3
    _call_glibc("mallopt", m_mmap_threshold, 2**30)
    _call_glibc("mallopt", m_trim_threshold, 2**31 - 1)


def return_freed_memory() -> None:
    """Tell glibc to return what it has kept for reuse.

    Where sizes change, as when the images of a training grow, it would come on top of what the new ones
    take. Elsewhere than on glibc nothing happens.
    """
    _call_glibc("malloc_trim", 0)


def _call_glibc(function: str, *arguments: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        getattr(ctypes.CDLL(None), function)(*arguments)


def choose_hardware(gpus: int | None, nodes: int = 1, precision: str = "auto") -> Hardware:
    """Resolve ``--gpus``, ``--nodes`` and ``--precision`` against what is here.

    Args:
        gpus: None takes the GPUs that are there, else the CPU; 0 asks for the CPU.

    Raises:
        UsageError: more GPUs than there are, or several nodes without GPUs.
    """
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = here if gpus is None else gpus
    if gpus < 0 or nodes < 1:
        raise UsageError("--gpus must be 0 or more and --nodes 1 or more")
    if gpus > here:
        usable = f"--gpus {here}" if here else "--gpus 0 (the CPU)"
        raise UsageError(
            f"--gpus {gpus} asked for, but this machine has {here or 'no GPU'}; {usable} would run here"
        )
    if nodes > 1 and gpus == 0:
        raise UsageError("--nodes needs GPUs on every node; this command would run on the CPU")
    device = "cuda" if gpus else "cpu"
    if precision == "auto":
        precision = "bf16" if has_native_bf16(device) else "fp32"
    return Hardware(device, max(1, gpus), nodes, precision)
