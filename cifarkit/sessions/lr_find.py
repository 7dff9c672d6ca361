"""One `lr-find` from beginning to end: range test, figure, run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cifarkit import figures, reports, tracking
from cifarkit.console import Terminal
from cifarkit.data.datasets import Dataset
from cifarkit.data.loading import Splits
from cifarkit.recipes import Recipe
from cifarkit.results import LrCurve, to_json
from cifarkit.training.data import Data
from cifarkit.training.hardware import choose_hardware
from cifarkit.training.lr_find import find_lr
from cifarkit.training.lr_rules import choose


def run_lr_find(
    source: Dataset,
    splits: Splits,
    recipe: Recipe,
    terminal: Terminal,
    *,
    tracking_uri: str | None,
    experiment: str,
    run_name: str,
    output: Path,
    gpus: int | None,
    seed: int,
    min_lr: float,
    max_lr: float,
    steps: int,
    rule: str,
) -> LrCurve:
    """Test, draw, record; the run of a test from which the rule makes nothing shows what was seen.

    Args:
        output: figure and report go into a folder of the run's in this one.
        tracking_uri, experiment, run_name, gpus, min_lr, ...: as of the command.

    Raises:
        UsageError: there are no such GPUs.
        CifarkitError: the curve does not support the rule.
    """
    hardware = choose_hardware(gpus, precision=recipe.precision)
    data = Data.of(source, splits)
    asked = {"seed": seed, "min_lr": min_lr, "max_lr": max_lr, "steps": steps, "rule": rule}
    recorder = tracking.RunRecorder(tracking_uri, experiment, run_name)
    with tracking.recording(recorder, terminal.alert):
        with terminal.busy("opening the MLflow run"):
            tags = {tracking.KIND: "lr-find", "hardware": hardware.describe()}
            run_id = recorder.start(tracking.environment_tags() | tags)
        recorder.log_params(recipe.settings() | {"dataset": data.name} | asked)
        with terminal.progress(f"range test of {recipe.model} on {data.name}") as update:
            curve = find_lr(
                recipe,
                data,
                hardware,
                seed=seed,
                lr_min=min_lr,
                lr_max=max_lr,
                steps=steps,
                rule=rule,
                on_step=lambda step, lr, loss: update(step, steps),
            )
        out = reports.Folder(output / run_id[:8])
        path = out.figure("lr_range_test", figures.lr_range_test(curve))
        curve = replace(curve, figure=str(path))
        out.report("lr_range_test.json", to_json(curve))
        recorder.log_reports(out.written)
        if curve.suggestion is None:
            terminal.say(f"figure: {curve.figure}")
        recorder.log_metrics({"suggested_lr": choose(curve.rules, rule)})
    return curve
