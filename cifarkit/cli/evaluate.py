"""`cifarkit eval`: scores of a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cifarkit.cli import options, subject
from cifarkit.console import Terminal, percent, plural
from cifarkit.results import ClassScore

if TYPE_CHECKING:
    from rich.table import Table


def evaluate(
    run: options.Run = None,
    checkpoint: options.CheckpointFile = None,
    split: options.Split = None,
    dataset: options.DatasetOverride = None,
    tta: Annotated[bool, options.option("--tta", "Average over mirrored and shifted views.")] = False,
    output: options.Output = Path("figures"),
    data_dir: options.DataDir = None,
    gpus: options.Gpus = None,
    experiment: options.Experiment = "cifarkit",
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure accuracy, loss, per-class scores and calibration. Stdout gets top-1."""
    terminal = Terminal(json=json, quiet=quiet)
    with subject.opened(
        terminal,
        run=run,
        checkpoint=checkpoint,
        experiment=experiment,
        tracking_uri=tracking_uri,
        data_dir=data_dir,
        split=split,
        dataset=dataset,
        output=output,
        gpus=gpus,
    ) as (network, out, hardware):
        from cifarkit.reports import report_evaluation

        with terminal.progress(f"predicting {network.label}") as update:
            predictions = network.predict(tta=tta, device=hardware.device, on_batch=update)
        scores = report_evaluation(network, predictions, out, tta=tta)
    terminal.say(
        f"{scores.dataset}, {scores.split} split, {scores.samples:,} images: "
        f"top-1 {percent(scores.top1)} ({percent(scores.top1_low)} to {percent(scores.top1_high)} with 95% "
        f"confidence), top-5 {percent(scores.top5)}, loss {scores.loss:.4f}, "
        f"calibration error {percent(scores.ece)}" + (", with test-time augmentation" if scores.tta else "")
    )
    terminal.show(_table(scores.per_class))
    if scores.test_looks is not None:
        looks = plural(scores.test_looks, "time")
        terminal.say(
            f"this test split was looked at {looks} in the experiment: the best of many is flattered"
        )
    terminal.say(f"figures and reports: {out.root}")
    terminal.answer(scores, f"{scores.top1:.4f}")


def _table(per_class: Sequence[ClassScore]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class")
    for name in ("images", "precision", "recall", "F1"):
        table.add_column(name, justify="right")
    for c in per_class:
        table.add_row(c.name, f"{c.support:,}", percent(c.precision), percent(c.recall), percent(c.f1))
    return table
