"""`cifarkit misclassified`: what the network got wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cifarkit.analysis import SORTS
from cifarkit.cli import options, subject
from cifarkit.console import Terminal
from cifarkit.errors import UnknownName, UsageError

Sort = Annotated[str, options.option("--sort", "confidence, loss or index.")]
TrueClass = Annotated[
    str | None, options.option("--true", "Only images of this class.", show_default="every class")
]
PredClass = Annotated[
    str | None, options.option("--pred", "Only images taken for this class.", show_default="every class")
]
Limit = Annotated[
    int, options.option("--limit", "How many to draw; the CSV and JSON hold all.", min=1, max=200)
]


def misclassified(
    run: options.Run = None,
    checkpoint: options.CheckpointFile = None,
    sort: Sort = "confidence",
    true: TrueClass = None,
    pred: PredClass = None,
    limit: Limit = 20,
    split: options.Split = None,
    dataset: options.DatasetOverride = None,
    output: options.Output = Path("figures"),
    data_dir: options.DataDir = None,
    gpus: options.Gpus = None,
    experiment: options.Experiment = "cifarkit",
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Draw misclassified images, list all as CSV and JSON. Stdout gets the figure's path."""
    if sort not in SORTS:
        raise UnknownName("sort order", sort, SORTS)
    if true is not None and true == pred:
        raise UsageError(f"an image of {true} that is taken for {true} is no mistake")
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
        from cifarkit.reports import report_mistakes
        from cifarkit.subjects import check_classes

        check_classes(network, true, pred)
        with terminal.progress(f"looking for mistakes in {network.label}") as update:
            predictions = network.predictions(device=hardware.device, on_batch=update)
        result = report_mistakes(
            network, predictions, out, sort=sort, true_class=true, pred_class=pred, limit=limit
        )
    terminal.say(
        f"{result.total_mistakes:,} of {result.samples:,} images of the {result.split} split are "
        f"misclassified; {len(result.mistakes):,} listed in {result.csv}, {result.shown} drawn"
    )
    terminal.answer(result, result.figure)
