"""Training speed of the models, and of the course project's network as it was, in one run.

    python benchmarks/models.py [--batch-size 128] [--rounds 3] [--json FILE]

Every variant does the same work: forward, cross entropy, backward on random images of 3 x 32 x 32. The
variants take turns for several rounds, so that a drifting machine slows all of them, and the median
rate of each is compared with that of the reference: fp32, NCHW, replicate padding.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from cifarkit.models import build_model
from cifarkit.training.hardware import cores, has_native_bf16, processor_name


@dataclass(frozen=True)
class Variant:
    model: str
    channels_last: bool
    bf16: bool

    @property
    def name(self) -> str:
        precision = "bf16" if self.bf16 else "fp32"
        return f"{self.model}, {precision}, {'channels-last' if self.channels_last else 'NCHW'}"


def rate(variant: Variant, batch_size: int, device: str) -> float:
    """Images per second over two steps, after one that is not counted."""
    torch.manual_seed(0)
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    network = build_model(variant.model, (3, 32, 32), 10).to(device, memory_format=layout).train()
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reference = Variant("custom-resnet-replicate", channels_last=False, bf16=False)
    variants = [
        reference,
        Variant("custom-resnet-replicate", channels_last=True, bf16=False),
        Variant("custom-resnet", channels_last=False, bf16=False),
        Variant("custom-resnet", channels_last=True, bf16=False),
        Variant("resnet18", channels_last=True, bf16=False),
        Variant("speednet", channels_last=True, bf16=False),
        Variant("speednet-slim", channels_last=True, bf16=False),
    ]
    if has_native_bf16(device):
        models = ("custom-resnet-replicate", "custom-resnet", "resnet18", "speednet", "speednet-slim")
        variants += [Variant(model, channels_last=True, bf16=True) for model in models]
    rates: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for _ in range(arguments.rounds):
        for variant in variants:
            rates[variant.name].append(rate(variant, arguments.batch_size, device))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{processor_name()}, {cores()} cores, torch {torch.__version__}, batch {arguments.batch_size}")
    for name, median in medians.items():
        print(f"{name:<48} {median:>8.1f} images/s  {median / medians[reference.name]:>5.2f} x")
    if arguments.json:
        record = {
            "hardware": f"{processor_name()}, {cores()} cores"
            if device == "cpu"
            else torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "batch_size": arguments.batch_size,
            "native_bf16": has_native_bf16(device),
            "images_per_second": rates,
        }
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
