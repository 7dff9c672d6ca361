"""Training speed of the models, and of the course project's network as it was, in one run.

    python benchmarks/models.py [--batch-size 128] [--rounds 3] [--model custom-resnet] [--json FILE]

Every variant does the same work: forward, cross entropy, backward on random images of 3 x 32 x 32. The
variants take turns for several rounds, each time in a process of its own, so that a drifting machine
slows all of them, and the median rate of each is compared with that of the reference: fp32, NCHW,
replicate padding, PyTorch's own dropout. "As trained" adds what a training sets up in its process
(`reuse_freed_memory`). ``--model`` leaves out what is not called so.

The last column is the share of the rate at which this machine multiplies large fp32 matrices; forward
and backward are counted as three times the forward FLOPs. It may pass 100% in bf16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from cifarkit.models import build_model
from cifarkit.training.hardware import cores, has_native_bf16, processor_name, reuse_freed_memory
from cifarkit.training.summary import model_table


@dataclass(frozen=True)
class Variant:
    model: str
    channels_last: bool
    bf16: bool
    as_trained: bool = False
    plain: bool = False

    @property
    def name(self) -> str:
        precision = "bf16" if self.bf16 else "fp32"
        layout = "channels-last" if self.channels_last else "NCHW"
        return f"{self.model}, {precision}, {layout}" + (", as trained" if self.as_trained else "")


def rate(variant: Variant, batch_size: int, device: str) -> float:
    """Images per second over two steps, after one that is not counted."""
    if variant.as_trained:
        reuse_freed_memory()
    torch.manual_seed(0)
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    network = build_model(variant.model, (3, 32, 32), 10)
    if variant.plain:
        use_plain_dropout(network)
    network = network.to(device, memory_format=layout).train()
    images = torch.randn(batch_size, 3, 32, 32, device=device).contiguous(memory_format=layout)
    labels = torch.randint(0, 10, (batch_size,), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=variant.bf16):
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    started = time.perf_counter()
    step()
    step()
    return 2 * batch_size / (time.perf_counter() - started)


def use_plain_dropout(network: nn.Module) -> None:
    for block in network.modules():
        for name, layer in block.named_children():
            if isinstance(layer, nn.Dropout):
                setattr(block, name, nn.Dropout(layer.p))


def matrix_rate(device: str, side: int = 2048, times: int = 10) -> float:
    """FLOPs per second of fp32 matrix products."""
    a, b = torch.randn(2, side, side, device=device)
    (a @ b).sum().item()  # waits, on a GPU, until it is warm
    started = time.perf_counter()
    for _ in range(times):
        a @ b
    if device == "cuda":
        torch.cuda.synchronize()
    return times * 2 * side**3 / (time.perf_counter() - started)


def alone(call: Callable[..., float], *arguments: object) -> float:
    """The result of a call in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(call, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--model", default="", help="only the variants whose name begins so, and the reference"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reference = Variant("custom-resnet-replicate", channels_last=False, bf16=False, plain=True)
    variants = [
        reference,
        Variant("custom-resnet-replicate", channels_last=True, bf16=False),
        Variant("custom-resnet", channels_last=False, bf16=False),
        Variant("custom-resnet", channels_last=True, bf16=False),
        Variant("custom-resnet", channels_last=True, bf16=False, as_trained=True),
        Variant("resnet18", channels_last=True, bf16=False, as_trained=True),
        Variant("speednet", channels_last=True, bf16=False, as_trained=True),
        Variant("speednet-slim", channels_last=True, bf16=False, as_trained=True),
    ]
    if has_native_bf16(device):
        models = ("custom-resnet-replicate", "custom-resnet", "resnet18", "speednet", "speednet-slim")
        variants += [Variant(model, channels_last=True, bf16=True, as_trained=True) for model in models]
    variants = [each for each in variants if each is reference or each.model.startswith(arguments.model)]
    rates: dict[str, list[float]] = {variant.name: [] for variant in variants}
    products: list[float] = []
    for _ in range(arguments.rounds):
        for variant in variants:
            rates[variant.name].append(alone(rate, variant, arguments.batch_size, device))
        products.append(alone(matrix_rate, device))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{processor_name()}, {cores()} cores, torch {torch.__version__}, batch {arguments.batch_size}")
    peak = statistics.median(products)
    print(f"large fp32 matrix products: {peak / 1e9:,.0f} GFLOP/s")
    for variant in variants:
        median = medians[variant.name]
        work = 3 * model_table(variant.model, (3, 32, 32), 10)[1].flops
        print(
            f"{variant.name:<50} {median:>8.1f} images/s  {median / medians[reference.name]:>5.2f} x"
            f"  {100 * median * work / peak:>5.0f}%"
        )
    if arguments.json:
        record = {
            "hardware": f"{processor_name()}, {cores()} cores"
            if device == "cpu"
            else torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "batch_size": arguments.batch_size,
            "native_bf16": has_native_bf16(device),
            "matrix_flops_per_second": products,
            "images_per_second": rates,
        }
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
