"""One `bench` from beginning to end: measurements, figure, report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

from cifarkit import figures, reports, tracking
from cifarkit.console import EpochTable, Terminal
from cifarkit.data.datasets import Dataset
from cifarkit.data.loading import load_splits
from cifarkit.errors import UsageError
from cifarkit.recipes import PATIENCE, Plan, Recipe
from cifarkit.results import BenchResult, BenchRow, FitResult, to_json
from cifarkit.scratch import scratch
from cifarkit.sessions.fit import Uploader, work_of
from cifarkit.training import bench, lr_find
from cifarkit.training.callbacks import Observer
from cifarkit.training.data import Data
from cifarkit.training.fit import fit
from cifarkit.training.hardware import Hardware, choose_hardware
from cifarkit.training.lr_rules import choose

LR_WITHOUT_RANGE_TEST = 1e-3


def run_bench(
    source: Dataset,
    recipe: Recipe,
    data_dir: Path,
    terminal: Terminal,
    *,
    own_batch_size: bool,
    target: tuple[float, Recipe] | None,
    seconds: float,
    workers: int,
    seed: int,
    gpus: int | None,
    output: Path,
) -> tuple[BenchResult, Path]:
    """Measure augmentation, steps, loader, overheads and, with a target, a whole training to it.

    Returns:
        The result, and the path of its JSON report.

    Raises:
        CifarkitError: as data, recipe and training can raise.
    """
    hardware = choose_hardware(gpus, precision=recipe.precision)
    if hardware.world_size > 1:
        raise UsageError("bench works on one device; give --gpus 1")
    with terminal.busy(f"reading {source.name}"):
        data = Data.of(source, load_splits(source, data_dir, seed=seed))
    recipe = recipe.fitted(data.train, own_batch_size=own_batch_size)
    # Speed does not depend on the rate, so that nobody has to wait for a range test.
    recipe = replace(recipe, lr=recipe.lr or LR_WITHOUT_RANGE_TEST)
    with terminal.busy("measuring the machine"):
        rows = bench.measure_limits(hardware, seconds)
    with terminal.busy("measuring augmentation and loader"):
        rows += bench.measure_augmentation(recipe, data, hardware, seconds)
        rows += bench.measure_loader(recipe, data, hardware, workers, seconds)
    with terminal.busy("measuring steps"):
        rows += bench.measure_steps(recipe, data, hardware, rows[0].value * 1e9, seconds)
    with terminal.busy("measuring overheads"):
        rows += _overheads(recipe, data, hardware)
    reached = None
    if target:
        goal, planned = target
        with terminal.busy(f"training to {goal:g}"):
            if planned.lr is None:  # to a target it matters
                curve = lr_find.find_lr(planned, data, hardware, seed=seed)
                planned = replace(planned, lr=choose(curve.rules, curve.rule))
            planned = replace(planned, batch_size=recipe.batch_size)
            reached = _to_target(planned, data, hardware, goal, seed)
    out = reports.Folder(output)
    title = f"Recipe {recipe.name} on {data.train.short_name}: {hardware.describe()}"
    figure = out.figure("bench", figures.bench_bars(rows, title))
    result = BenchResult(
        date=date.today().isoformat(),
        hardware=hardware.describe(),
        versions=tracking.versions(),
        dataset=data.name,
        recipe=recipe.name,
        batch_size=recipe.batch_size,
        rows=tuple(rows),
        target=reached,
        figure=str(figure),
    )
    return result, out.report("bench.json", to_json(result))


def _overheads(recipe: Recipe, data: Data, hardware: Hardware) -> list[BenchRow]:
    """With everything that watches a `fit` on a terminal, recording into a store that goes away."""
    with scratch() as place:
        store, artifacts = f"sqlite:///{place}/mlflow.db", Path(place, "artifacts").as_uri()
        tracking.connect(store).create_experiment("bench", artifact_location=artifacts)

        @contextmanager
        def observed(checkpoints: Path) -> Iterator[Sequence[Observer]]:
            recorder = tracking.RunRecorder(store, "bench")
            with tracking.recording(recorder):
                recorder.start({})
                table = EpochTable(
                    Terminal.unseen(),
                    work_of(Plan(recipe), data),
                    [3],
                    val_split=data.val.split,
                    batch_size=recipe.batch_size,
                )
                with table:
                    yield [table, recorder, Uploader(recorder, checkpoints)]

        return bench.measure_overheads(recipe, data, hardware, Path(place), observed)


def _to_target(recipe: Recipe, data: Data, hardware: Hardware, target_acc: float, seed: int) -> FitResult:
    with scratch() as place:
        return fit(
            Plan(recipe, seed=seed, target_acc=target_acc, max_epochs=PATIENCE * recipe.epochs),
            data,
            hardware,
            Path(place),
        )
