"""How fast this machine trains, part by part, against what its arithmetic and memory allow."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarkit.augment.policies import find_policy
from cifarkit.optim import build_optimizer
from cifarkit.pipeline import resize, train_loader
from cifarkit.recipes import Plan, Recipe, scaled_side
from cifarkit.replay import Replayed
from cifarkit.results import BenchRow, EpochRow
from cifarkit.training.callbacks import STEP_REPORT_SECONDS, Observer
from cifarkit.training.data import Data, build_network
from cifarkit.training.fit import fit
from cifarkit.training.hardware import Hardware, reuse_freed_memory
from cifarkit.training.summary import count_flops

ROUNDS = 3
WARM_UPS = {"cpu": 1, "cuda": 3}  # after three a GPU replays its passes
MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}
COPIED_BYTES = {"cpu": 2**28, "cuda": 2**31}
STEPS_PER_EPOCH = 8  # of the trainings that overheads are taken from
OBSERVED_REPORTS = 10


def measure_limits(hardware: Hardware, seconds: float) -> list[BenchRow]:
    """What the machine can do: the rate of large matrix products, and of copying memory."""
    device = torch.device(hardware.device)
    side, count = MATRIX_SIDE[device.type], COPIED_BYTES[device.type]
    kind = torch.bfloat16 if hardware.precision == "bf16" else torch.float32
    a, b = torch.randn(2, side, side, device=device, dtype=kind)
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _seconds(lambda: torch.mm(a, b), seconds, device)
    copy = _seconds(lambda: target.copy_(source), seconds, device)
    return [
        BenchRow("matrix product", 2 * side**3 / product / 1e9, "GFLOP/s"),
        # Read once and written once.
        BenchRow("memory copy", 2 * count / copy / 1e9, "GB/s"),
    ]


def measure_augmentation(recipe: Recipe, data: Data, hardware: Hardware, seconds: float) -> list[BenchRow]:
    """Images per second of both augmentation backends, each as a training would use it."""
    rows = []
    for name, workers in (("batched", None), ("albumentations", 0)):
        rate = _loader_rate(recipe, data, torch.device(hardware.device), workers, seconds)
        rows.append(BenchRow(f"augmentation, {name}", rate, "images/s"))
    return rows


def measure_loader(
    recipe: Recipe, data: Data, hardware: Hardware, workers: int, seconds: float
) -> list[BenchRow]:
    """Images per second that worker processes deliver."""
    rate = _loader_rate(recipe, data, torch.device(hardware.device), workers, seconds)
    return [BenchRow(f"loader, {workers} worker{'s' if workers > 1 else ''}", rate, "images/s")]


def measure_steps(
    recipe: Recipe, data: Data, hardware: Hardware, flops_per_second: float, seconds: float
) -> list[BenchRow]:
    """Images per second of whole optimiser steps at every image size of the recipe.

    ``share`` is that of ``flops_per_second`` which the network's convolutions and products used; backward
    is counted as twice the forward pass.
    """
    reuse_freed_memory()
    device = torch.device(hardware.device)
    shape, classes = data.preprocessing.image_shape, len(data.preprocessing.classes)
    network = build_network(recipe, data).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    assert recipe.lr is not None
    # Hardly any rate: many steps on one batch of noise would make numbers that take longer to compute with.
    optimizer = _optimizer(network, replace(recipe, lr=recipe.lr * 1e-3), hardware)
    images = torch.randn(recipe.batch_size, *shape, device=device)
    labels = torch.randint(0, classes, (recipe.batch_size,), device=device)
    step = _stepper(network, optimizer, hardware)
    rows = []
    for side in sorted({scaled_side(shape[1], scale) for scale in recipe.image_scale}):
        smaller = resize(images, side)
        rate = recipe.batch_size / _seconds(lambda: step(smaller, labels), seconds, device)  # noqa: B023
        flops = count_flops(recipe.model, (shape[0], side, side), classes)
        rows.append(BenchRow(f"step at {side} pixels", rate, "images/s", 3 * flops * rate / flops_per_second))
    return rows


def _optimizer(network: nn.Module, recipe: Recipe, hardware: Hardware) -> torch.optim.Optimizer:
    assert recipe.lr is not None
    return build_optimizer(
        recipe.optimizer,
        network,
        recipe.lr,
        recipe.weight_decay,
        recipe.batch_size,
        bf16=hardware.precision == "bf16",
    )


def _stepper(
    network: nn.Module, optimizer: torch.optim.Optimizer, hardware: Hardware
) -> Callable[[Tensor, Tensor], None]:
    """A step of training on images and labels, as bare as can be."""
    trained = [p for p in network.parameters() if p.requires_grad]

    def passes(images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        bf16 = hardware.precision == "bf16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(network(images), labels)
        return torch.autograd.grad(loss, trained)

    either = Replayed(passes) if hardware.device == "cuda" else passes

    def step(images: Tensor, labels: Tensor) -> None:
        for parameter, gradient in zip(trained, either(images, labels), strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure_overheads(
    recipe: Recipe,
    data: Data,
    hardware: Hardware,
    folder: Path,
    observed: Callable[[Path], AbstractContextManager[Sequence[Observer]]],
) -> list[BenchRow]:
    """What Lightning's loop, checkpoints, tracking and progress add to a training's time.

    A bare loop and `fit` without observers take turns at the same steps, and their medians are compared;
    ``share`` is of the bare loop's time for a step, or for a whole epoch. What observers do happens on other
    threads: it is their processor time that counts, taken while nothing else runs; ``share`` is of all cores
    that train.

    Args:
        observed: the observers of one training, given the folder of its checkpoints.
    """
    some = data.train.take(range(min(len(data.train), STEPS_PER_EPOCH * recipe.batch_size)))
    small = replace(data, train=some, val=data.val.take(range(1)))
    # The smallest images: the shorter a step, the more an overhead shows.
    recipe = replace(recipe, epochs=3, image_scale=recipe.image_scale[:1], keep_hardest=(1.0,))
    steps = len(some) // recipe.batch_size
    bare: list[float] = []
    alone: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        bare += (epoch / steps for epoch in _bare_epochs(recipe, small, hardware))
        rows = fit(Plan(recipe), small, hardware, folder / "checkpoints").rows
        alone += _steps_and_rests(rows, recipe.batch_size, steps)
    with observed(folder / "checkpoints") as observers:
        watching, each_epoch = _observing(observers, rows, steps)
    step = statistics.median(bare)
    step_alone, rest = map(statistics.median, zip(*alone, strict=True))
    epoch = step * (len(data.train) // recipe.batch_size)
    cores = torch.get_num_threads()
    return [
        BenchRow("Lightning's loop", 1e3 * (step_alone - step), "ms/step", (step_alone - step) / step),
        BenchRow("checkpoints", 1e3 * rest, "ms/epoch", rest / epoch),
        BenchRow("tracking and progress", 1e3 * watching, "ms/s", watching / cores),
        BenchRow("tracking", 1e3 * each_epoch, "ms/epoch", each_epoch / cores / epoch),
    ]


def _steps_and_rests(rows: Sequence[EpochRow], batch_size: int, steps: int) -> list[tuple[float, float]]:
    """Of each epoch but the first, which warms up: seconds of a step, and of what comes after the steps."""
    spent = []
    for before, row in pairwise(rows):
        step = batch_size / row.images_per_second
        spent.append((step, row.train_seconds - before.train_seconds - steps * step))
    return spent


def _observing(observers: Sequence[Observer], rows: Sequence[EpochRow], steps: int) -> tuple[float, float]:
    """Processor seconds that observers take in a second of training, and beyond that for an epoch's end."""

    def spent(during: Callable[[], None]) -> tuple[float, float]:
        processor, clock = time.process_time(), time.perf_counter()
        during()
        return time.process_time() - processor, time.perf_counter() - clock

    def watch() -> None:
        for step in range(OBSERVED_REPORTS):
            for observer in observers:
                observer.on_step(1, 1 + step % steps, steps, 1000.0)
            time.sleep(STEP_REPORT_SECONDS)

    def end_epochs() -> None:
        for row in rows:
            for observer in observers:
                observer.on_validation(row.epoch)
                observer.on_epoch(row, True)
            time.sleep(STEP_REPORT_SECONDS)

    time.sleep(STEP_REPORT_SECONDS)  # for what they do once, at the beginning
    processor, clock = spent(watch)
    rate = processor / clock
    processor, clock = spent(end_epochs)
    return rate, max(0.0, processor - rate * clock) / len(rows)


def _bare_epochs(recipe: Recipe, data: Data, hardware: Hardware) -> list[float]:
    device = torch.device(hardware.device)
    network = build_network(recipe, data).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    assert recipe.lr is not None
    optimizer = _optimizer(network, recipe, hardware)
    loader = _loader(recipe, data, device, None)
    step = _stepper(network, optimizer, hardware)
    side = scaled_side(data.preprocessing.image_shape[1], recipe.image_scale[0])
    seconds = []
    for _ in range(recipe.epochs):
        begin = time.perf_counter()
        for batch in loader:
            images, labels = (part.to(device) for part in batch)
            step(resize(images, side), labels)
        _finish(device)
        seconds.append(time.perf_counter() - begin)
    return seconds[1:]


def _loader(recipe: Recipe, data: Data, device: torch.device, workers: int | None) -> Any:
    return train_loader(
        data.train,
        find_policy(recipe.policy),
        data.preprocessing,
        batch_size=recipe.batch_size,
        seed=0,
        device=device,
        workers=workers,
    )


def _loader_rate(
    recipe: Recipe, data: Data, device: torch.device, workers: int | None, seconds: float
) -> float:
    """Images per second, once worker processes have started and what they fetch ahead has been used."""
    batches = chain.from_iterable(repeat(_loader(recipe, data, device, workers)))
    for _ in range(1 + 2 * (workers or 0)):
        next(batches)
    begin, images = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        batch, _ = next(batches)
        images += len(batch)
    _finish(device)
    return images / (time.perf_counter() - begin)


def _seconds(call: Callable[[], object], at_least: float, device: torch.device) -> float:
    """The median time of a call over several rounds, which together take about ``at_least`` seconds."""
    for _ in range(WARM_UPS[device.type]):
        call()
    _finish(device)
    begin = time.perf_counter()
    call()
    _finish(device)
    calls = max(1, round(at_least / ROUNDS / max(1e-6, time.perf_counter() - begin)))
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        _finish(device)
        times.append((time.perf_counter() - begin) / calls)
    return statistics.median(times)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
