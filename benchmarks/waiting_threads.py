"""How PyTorch's threads should wait for each other, alone and beside a process that is always busy.

    python benchmarks/waiting_threads.py --rounds 6
    python benchmarks/waiting_threads.py --rounds 2 --beside 1

Every number comes from a process of its own, because the threads are told when PyTorch is loaded; the
ways take turns. Prints the median milliseconds of a training step and all numbers as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

WAYS: dict[str, dict[str, str]] = {
    "as PyTorch is": {},
    **{f"GOMP_SPINCOUNT={count}": {"GOMP_SPINCOUNT": str(count)} for count in (30000, 10000, 3000, 1000)},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}
# Model, image shape, images per step, steps.
WORK = {
    "small-cnn": ("small-cnn", (1, 8, 8), 64, 100),
    "speednet-slim at 16 pixels": ("speednet-slim", (3, 16, 16), 500, 20),
    "speednet-slim at 32 pixels": ("speednet-slim", (3, 32, 32), 500, 6),
}


def measure(work: str) -> float:
    """Mean seconds of a training step, in this process."""
    import torch
    from torch.nn.functional import cross_entropy

    from cifarkit.models import build_model
    from cifarkit.training.hardware import reuse_freed_memory

    reuse_freed_memory()
    model, shape, batch, steps = WORK[work]
    torch.manual_seed(0)
    network = build_model(model, shape, 10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-6)
    images = torch.randn(batch, *shape).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    for step in range(steps + 3):
        if step == 3:
            began = time.perf_counter()
        optimizer.zero_grad()
        cross_entropy(network(images), labels).backward()
        optimizer.step()
    return (time.perf_counter() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--beside", type=int, default=0, help="how many busy processes run at the same time")
    parser.add_argument("--way", action="append", choices=WAYS, help="only these ways")
    parser.add_argument("--work", action="append", choices=WORK, help="only this work")
    parser.add_argument("--measure", choices=WORK, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(measure(arguments.measure))
        return
    # In sessions of their own, as from another terminal: Linux shares the cores among sessions first.
    command = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(command, start_new_session=True) for _ in range(arguments.beside)]
    found: dict[str, dict[str, list[float]]] = {}
    try:
        for work in arguments.work or WORK:
            ways = found[work] = {way: [] for way in arguments.way or WAYS}
            for _ in range(arguments.rounds):
                for way, times in ways.items():
                    command = [sys.executable, __file__, "--measure", work]
                    done = subprocess.run(
                        command, env=os.environ | WAYS[way], stdout=subprocess.PIPE, text=True, check=True
                    )
                    times.append(round(1000 * float(done.stdout), 1))
            for way, times in ways.items():
                print(f"{work:28} {way:25} {statistics.median(times):8.1f} ms", file=sys.stderr, flush=True)
    finally:
        for process in busy:
            process.kill()
    print(json.dumps({"beside": arguments.beside, "milliseconds": found}, indent=1))


if __name__ == "__main__":
    main()
