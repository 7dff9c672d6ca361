from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarkit.models import fused

# batch, channels, height, width: one block and several, sides odd and even, channels short of a block.
SHAPES = [(2, 8, 4, 4), (3, 72, 9, 7), (5, 16, 3, 2)]
PROGRAMS = 3


def layer(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.weight.requires_grad = False
    nn.init.normal_(norm.bias, std=0.5)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


def run(x: Tensor, norm: nn.BatchNorm2d, pool: bool, dy: Tensor, *, reference: bool) -> list[Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    if reference:
        y = F.gelu(norm(F.max_pool2d(x, 2) if pool else x))
    else:
        y = fused.norm_gelu(x, norm, pool=pool)
        assert y.dtype == x.dtype
        assert y.is_contiguous(memory_format=torch.channels_last)
    y.backward(dy.to(y.dtype))
    assert x.grad is not None
    assert norm.bias.grad is not None
    assert norm.num_batches_tracked == 1
    statistics = [norm.running_mean, norm.running_var]
    return [t.detach().float() for t in (y, x.grad, norm.bias.grad, *statistics) if t is not None]


def compare(shape: tuple[int, ...], pool: bool, dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(0)
    batch, channels, height, width = shape
    # Coarse values, so that windows hold ties; a mean far from zero, and one channel without variance.
    x = (torch.randn(shape) * 4).round() / 4 + 2
    x[:, 0] = 0.25
    x = x.to(device, dtype, memory_format=torch.channels_last)
    size = (height // 2, width // 2) if pool else (height, width)
    dy = torch.randn(batch, channels, *size).to(device, dtype)
    dy[:, 0] = 0  # its gradients are rounding errors times 1e6
    norm, same = layer(channels).to(device), layer(channels).to(device)
    same.load_state_dict(norm.state_dict())
    ours = run(x, norm, pool, dy, reference=False)
    theirs = run(x.double(), same.double(), pool, dy, reference=True)
    rough = dtype == torch.bfloat16
    for name, a, b in zip(("y", "dx", "dbias", "mean", "var"), ours, theirs, strict=True):
        tolerance = 2e-2 if rough and name in ("y", "dx") else 1e-5
        scale = max(1.0, b.abs().max().item())
        case = f"{name} {shape} {'pooled' if pool else 'plain'} {dtype}"
        torch.testing.assert_close(
            a, b, rtol=tolerance, atol=tolerance * scale, msg=lambda m, case=case: f"{case}: {m}"
        )


def let_interpreter_count() -> None:
    """Triton 3.6's interpreter turns arrays of one element into integers in a way that NumPy 2.5 refuses."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor: type, scope: object) -> None:
        patch(tensor, scope)
        tensor.__index__ = lambda self: self.handle.data.item()  # type: ignore[attr-defined]

    interpreter._patch_lang_tensor = patched


def compare_all(device: str, shapes: list[tuple[int, int, int, int]]) -> None:
    for shape in shapes:
        for pool in (False, True):
            for dtype in (torch.float32, torch.bfloat16):
                compare(shape, pool, dtype, device)


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_equals_the_three_operations_in_the_interpreter() -> None:
    # Triton looks at the variable when it is imported, which other tests of this process must not see.
    done = subprocess.run(
        [sys.executable, __file__], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not fused.available(), reason="no NVIDIA GPU, or no Triton")
def test_equals_the_three_operations_on_a_gpu() -> None:
    compare_all("cuda", [*SHAPES, (500, 64, 31, 31), (64, 512, 8, 8)])


def test_takes_only_what_it_can_do() -> None:
    x = torch.zeros(2, 8, 4, 4)
    norm = layer(8)
    assert fused.supports(x, norm)
    assert not fused.supports(x.half(), norm)
    assert not fused.supports(x[:1], norm)
    assert not fused.supports(torch.zeros(2, 12, 4, 4), layer(12))
    assert not fused.supports(x, nn.BatchNorm2d(8))
    assert not fused.supports(x, norm.eval())


if __name__ == "__main__":
    torch.set_num_threads(1)
    let_interpreter_count()
    # Few programs, so that each has several blocks of rows.
    fused.SUM_PROGRAMS = fused.MAP_PROGRAMS = PROGRAMS
    compare_all("cpu", SHAPES)
