"""Time to a target accuracy over several seeds, each a whole `cifarkit fit` with tracking on.

    python benchmarks/time_to_target.py --seeds 1 2 3 --json FILE [-- FIT OPTIONS]

    python benchmarks/time_to_target.py --seeds 1 2 3 -- --target-acc 0.9

Prints a row per seed and their mean; the file holds every epoch of every seed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import psutil

from cifarkit.training.hardware import processor_name


def run(seed: int, options: list[str]) -> dict[str, object]:
    """One fit as a process of its own: its JSON, exit code, and the whole command's time."""
    command = [sys.executable, "-m", "cifarkit", "fit", "--json", "--seed", str(seed), *options]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode not in (0, 3):
        sys.exit(f"seed {seed} failed with exit code {done.returncode}")
    return {"exit_code": done.returncode, "command_seconds": seconds, **json.loads(done.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path)
    own, options = sys.argv[1:], []
    if "--" in own:
        own, options = own[: own.index("--")], own[own.index("--") + 1 :]
    arguments = parser.parse_args(own)
    fits = []
    for seed in arguments.seeds:
        fit = run(seed, options)
        fits.append(fit)
        print(
            f"seed {seed}: best {fit['best_val_acc']:.4f} ({fit['val_split']}), to target "
            f"{fit['time_to_target_seconds'] or float('nan'):.0f} s, training {fit['train_seconds']:.0f} s, "
            f"command {fit['command_seconds']:.0f} s, {fit['peak_memory_bytes'] / 2**30:.2f} GiB",
            flush=True,
        )
        record = {
            "date": date.today().isoformat(),
            "hardware": f"{processor_name()}, {os.cpu_count()} cores, "
            f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
            "options": shlex.join(options),
            "versions": {name: version(name) for name in ("torch", "pytorch-lightning", "cifarkit")},
            "fits": fits,
        }
        if arguments.json:
            arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    accuracies = [float(str(fit["best_val_acc"])) for fit in fits]
    spread = statistics.stdev(accuracies) if len(fits) > 1 else 0.0
    seconds = statistics.mean(float(str(fit["train_seconds"])) for fit in fits)
    reached = sum(bool(fit["target_reached"]) for fit in fits)
    print(
        f"accuracy {statistics.mean(accuracies):.4f} ± {spread:.4f} over {len(fits)} seeds, "
        f"training {seconds:.0f} s; {reached} reached the target"
    )


if __name__ == "__main__":
    main()
