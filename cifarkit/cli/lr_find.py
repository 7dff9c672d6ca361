"""`cifarkit lr-find`: an exponential learning-rate range test."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from cifarkit.cli import options
from cifarkit.cli.choices import resolve
from cifarkit.console import Terminal

Rule = Annotated[str, options.option("--rule", "Which suggestion to take: valley, steepest or minimum/10.")]


def lr_find(
    dataset: options.Dataset = "cifar10",
    recipe: options.Recipe = None,
    model: options.Model = None,
    policy: options.Policy = None,
    optimizer: options.Optimizer = None,
    batch_size: options.BatchSize = None,
    min_lr: Annotated[float, options.option("--min-lr", "First learning rate.")] = 1e-7,
    max_lr: Annotated[
        float | None,
        options.option("--max-lr", "Last learning rate.", show_default="0.1, or 10 for muon and sgd"),
    ] = None,
    steps: Annotated[int, options.option("--steps", "How many steps to take between the two rates.")] = 100,
    rule: Rule = "valley",
    seed: options.Seed = 0,
    gpus: options.Gpus = None,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    output: options.Output = Path("figures"),
    experiment: options.Experiment = "cifarkit",
    run_name: options.RunName = None,
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Run a learning-rate range test and compare its rules. Stdout gets the suggested rate."""
    from cifarkit.data.loading import default_data_dir, load_splits
    from cifarkit.training.lr_rules import check_range, check_rule, choose, default_max_lr

    terminal = Terminal(json=json, quiet=quiet)
    source, chosen = resolve(
        dataset,
        recipe,
        image_size,
        model=model,
        policy=policy,
        optimizer=optimizer,
        batch_size=batch_size,
    )
    max_lr = default_max_lr(chosen) if max_lr is None else max_lr
    check_range(min_lr, max_lr, steps)
    check_rule(rule)
    # Before the seconds that torch takes to load: most of what can be wrong is wrong here.
    with terminal.busy(f"{source.name} with recipe {chosen.name}: reading the images"):
        splits = load_splits(source, data_dir or default_data_dir(), seed=seed)
    chosen = chosen.fitted(splits.train, own_batch_size=batch_size is not None)
    with terminal.busy("loading torch"):
        from cifarkit import figures, tracking
        from cifarkit.reports import Folder
        from cifarkit.results import to_json
        from cifarkit.training.data import Data
        from cifarkit.training.hardware import choose_hardware
        from cifarkit.training.lr_find import find_lr

        name = run_name or f"lr-find-{Path(source.name).name}-{chosen.model}"
        recorder = tracking.RunRecorder(tracking_uri, experiment, name)
    with tracking.recording(recorder, terminal.alert):
        with terminal.busy("opening the MLflow run"):
            hardware = choose_hardware(gpus, precision=chosen.precision)
            data = Data.of(source, splits)
            run_id = recorder.start(
                tracking.environment_tags() | {tracking.KIND: "lr-find", "hardware": hardware.describe()}
            )
        recorder.log_params(
            chosen.settings()
            | {
                "dataset": data.name,
                "seed": seed,
                "min_lr": min_lr,
                "max_lr": max_lr,
                "steps": steps,
                "rule": rule,
            }
        )
        with terminal.progress(f"range test of {chosen.model} on {data.name}") as update:
            curve = find_lr(
                chosen,
                data,
                hardware,
                seed=seed,
                lr_min=min_lr,
                lr_max=max_lr,
                steps=steps,
                rule=rule,
                on_step=lambda step, lr, loss: update(step, steps),
            )
        out = Folder(output / run_id[:8])
        path = out.figure("lr_range_test", figures.lr_range_test(curve))
        curve = dataclasses.replace(curve, figure=str(path))
        out.report("lr_range_test.json", to_json(curve))
        recorder.log_reports(out.written)
        suggestion = choose(curve.rules, rule)
        recorder.log_metrics({"suggested_lr": suggestion})
    for name, lr in curve.rules.items():
        terminal.say(f"{name:>12}: " + (f"{lr:.3g}" if lr else "none") + (" <-" if name == rule else ""))
    terminal.say(f"{'diverged, so stopped early' if curve.diverged else 'did not diverge'}; figure: {path}")
    terminal.answer(curve, f"{suggestion:.6g}")
