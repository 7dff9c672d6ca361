"""`cifarkit lr-find`: an exponential learning-rate range test."""

from __future__ import annotations

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
    from cifarkit.training.lr_rules import check_range, check_rule, default_max_lr

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
        from cifarkit.sessions.lr_find import run_lr_find

    curve = run_lr_find(
        source,
        splits,
        chosen,
        terminal,
        tracking_uri=tracking_uri,
        experiment=experiment,
        run_name=run_name or f"lr-find-{Path(source.name).name}-{chosen.model}",
        output=output,
        gpus=gpus,
        seed=seed,
        min_lr=min_lr,
        max_lr=max_lr,
        steps=steps,
        rule=rule,
    )
    for name, lr in curve.rules.items():
        terminal.say(f"{name:>12}: " + (f"{lr:.3g}" if lr else "none") + (" <-" if name == rule else ""))
    ended = "diverged, so stopped early" if curve.diverged else "did not diverge"
    terminal.say(f"{ended}; figure: {curve.figure}")
    terminal.answer(curve, f"{curve.suggestion:.6g}")
