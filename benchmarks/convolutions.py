"""What the convolutions and pools of `cifarkit.models` save in a training step.

    python benchmarks/convolutions.py [--rounds 7] [--json FILE]

Forward, cross entropy and backward on random images at every size to which `fast` lets them grow. Steps with
PyTorch's layers and with ours take turns in one process; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from cifarkit.models import build_model, conv, lean
from cifarkit.training.hardware import cores, processor_name, reuse_freed_memory

CASES = [
    *(("speednet-slim", 500, side) for side in (16, 20, 24, 28, 32)),
    *(("speednet-silu", 500, side) for side in (16, 24, 32)),
    ("custom-resnet", 128, 32),
]
# The channels from which on weight gradients are ours, and whether layers are taken together.
WAYS: dict[str, tuple[int, Callable[..., bool]]] = {
    "PyTorch's": (sys.maxsize, lambda x: False),
    "ours": (conv.MIN_CHANNELS_OUT, lean.pays),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    reuse_freed_memory()
    print(f"{processor_name()}, {cores()} cores, torch {torch.__version__}")
    record = []
    for model, batch_size, side in CASES:
        network = build_model(model, (3, 32, 32), 10).to(memory_format=torch.channels_last).train()
        images = torch.randn(batch_size, 3, side, side).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(0, 10, (batch_size,))
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(arguments.rounds + 1):
            for way, (conv.MIN_CHANNELS_OUT, lean.pays) in WAYS.items():
                started = time.perf_counter()
                F.cross_entropy(network(images), labels).backward()
                if number:
                    seconds[way].append(time.perf_counter() - started)
        medians = {way: statistics.median(times) for way, times in seconds.items()}
        theirs = medians["PyTorch's"]
        print(
            f"{model:<15} {side:>3} pixels, batch {batch_size}:"
            + "".join(f"  {way} {1e3 * median:>6,.0f} ms" for way, median in medians.items())
            + f"  {theirs / medians['ours']:.2f} x"
        )
        record.append({"model": model, "side": side, "batch_size": batch_size, "seconds": seconds})
    if arguments.json:
        hardware = f"{processor_name()}, {cores()} cores"
        whole = {"hardware": hardware, "torch": torch.__version__, "steps": record}
        arguments.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
