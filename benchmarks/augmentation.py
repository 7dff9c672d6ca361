"""How many images per second the two augmentation backends make on one core.

Times are the process's own (CPU seconds of the one thread that runs), so that other work on the machine
disturbs them little; the backends take turns, and medians are reported.

    python benchmarks/augmentation.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cifarkit.augment.batched import Batched
from cifarkit.augment.per_image import PerImage
from cifarkit.augment.policies import POLICIES
from cifarkit.training.hardware import reuse_freed_memory

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
# Images (H, W, C) as in the data set a policy is made for; 32 x 32 in colour for the others.
SHAPES = {"original-mnist": (28, 28, 1), "shift": (8, 8, 1)}
BATCH = 1000
# Enough single images for a stable rate, few enough to repeat often.
SINGLES = 300


def cpu_seconds(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def measure(policy_name: str, repeats: int) -> dict[str, float]:
    """Images per CPU second of both backends, and their ratio."""
    shape = SHAPES.get(policy_name, (32, 32, 3))
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *shape), dtype=np.uint8)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    indices = torch.arange(BATCH)
    mean, std = MEAN[: shape[2]], STD[: shape[2]]
    batched = Batched(POLICIES[policy_name], mean, std, seed=0)
    per_image = PerImage(POLICIES[policy_name], mean, std, seed=0)

    def single(epoch: int) -> None:
        for index in range(SINGLES):
            per_image(images[index], index, epoch)

    batched(tensor, indices, 0)
    single(0)
    batched_rates, per_image_rates = [], []
    for epoch in range(repeats):
        batched_rates.append(BATCH / cpu_seconds(lambda epoch=epoch: batched(tensor, indices, epoch)))
        batched_rates.append(BATCH / cpu_seconds(lambda epoch=epoch: batched(tensor, indices, epoch)))
        per_image_rates.append(SINGLES / cpu_seconds(lambda epoch=epoch: single(epoch)))
    batched_rate, per_image_rate = statistics.median(batched_rates), statistics.median(per_image_rates)
    return {
        "batched_images_per_second": round(batched_rate),
        "per_image_images_per_second": round(per_image_rate),
        "ratio": round(batched_rate / per_image_rate, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Images per second and core of both augmentation backends.")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--repeats", type=int, default=15, help="timings of each backend (15)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reuse_freed_memory()  # as every training does
    rows = {}
    print(f"{'policy':18}{'batched':>12}{'per image':>12}{'ratio':>8}   images/s on one core")
    for name in POLICIES:
        rows[name] = row = measure(name, arguments.repeats)
        print("{:18}{:>12,}{:>12,}{:>8}".format(name, *row.values()))
    if arguments.json:
        machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
        record = {"batch": BATCH, **machine, "policies": rows}
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
