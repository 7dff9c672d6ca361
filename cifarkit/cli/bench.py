"""`cifarkit bench`: how fast this machine trains, part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cifarkit.cli import options
from cifarkit.cli.choices import resolve
from cifarkit.cli.fit import check_target, plan
from cifarkit.console import Terminal, duration, percent
from cifarkit.results import BenchResult, BenchRow

TargetAcc = Annotated[
    float | None,
    options.option("--target-acc", "Also train until this validation accuracy, a fraction, and time it."),
]
Seconds = Annotated[float, options.option("--seconds", "Length of each measurement.", min=0.1)]
Workers = Annotated[int, options.option("--workers", "Worker processes of the loader's measurement.", min=1)]


def bench(
    dataset: options.Dataset = "cifar10",
    recipe: options.Recipe = None,
    target_acc: TargetAcc = None,
    model: options.Model = None,
    policy: options.Policy = None,
    batch_size: options.BatchSize = None,
    optimizer: options.Optimizer = None,
    seconds: Seconds = 2.0,
    workers: Workers = 2,
    seed: options.Seed = 0,
    gpus: options.Gpus = None,
    precision: options.Precision = None,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    output: options.Output = Path("figures"),
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure how fast this machine trains, part by part. Stdout gets the path of the report."""
    terminal = Terminal(json=json, quiet=quiet)
    check_target(target_acc)
    source, chosen = resolve(
        dataset,
        recipe,
        image_size,
        model=model,
        policy=policy,
        optimizer=optimizer,
        batch_size=batch_size,
        precision=precision,
    )
    with terminal.busy("loading torch, Lightning and MLflow"):
        from cifarkit.data.loading import default_data_dir
        from cifarkit.sessions.bench import run_bench

    result, report = run_bench(
        source,
        chosen,
        data_dir or default_data_dir(),
        terminal,
        own_batch_size=batch_size is not None,
        target=None if target_acc is None else (target_acc, plan(terminal, chosen, source.name, target_acc)),
        seconds=seconds,
        workers=workers,
        seed=seed,
        gpus=gpus,
        output=output,
    )
    _show(terminal, result)
    terminal.answer(result, str(report))


def _show(terminal: Terminal, result: BenchResult) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(result.hardware)
    table.add_column("measured", justify="right")
    table.add_column("share", justify="right")
    table.add_column("images/s, logarithmic")
    fastest = max((row.value for row in result.rows if row.unit == "images/s"), default=1.0)
    for row in result.rows:
        share = "" if row.share is None else f"{100 * row.share:.1f}%"
        table.add_row(row.name, f"{_number(row)} {row.unit}", share, _bar(row, fastest))
    terminal.show(table)
    terminal.say(
        "share: of the matrix product rate (steps), of a step's, an epoch's or the cores' time (overheads); "
        "where it is negative, the overhead is lost in the measurement's noise"
    )
    if result.target:
        reached = "reached" if result.target.target_reached else "not reached"
        terminal.say(
            f"{percent(result.target.target_acc or 1.0)} {reached} in {duration(result.target.train_seconds)}"
        )
    terminal.say(f"figure: {result.figure}")


def _number(row: BenchRow) -> str:
    return f"{row.value:,.0f}" if row.value >= 100 else f"{row.value:,.2f}"


def _bar(row: BenchRow, fastest: float) -> str:
    """As long as the logarithm of a rate, from one image a second up."""
    import math

    if row.unit != "images/s" or row.value <= 1 or fastest <= 1:
        return ""
    return "█" * max(1, round(24 * math.log(row.value) / math.log(fastest)))
