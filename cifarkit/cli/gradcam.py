"""`cifarkit gradcam`: where the network looked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cifarkit.analysis import METHODS
from cifarkit.cli import options, subject
from cifarkit.console import Terminal, percent, plural
from cifarkit.errors import DataError, UnknownName, UsageError


def gradcam(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Image files to explain.", show_default="misclassified images")
    ] = None,
    run: options.Run = None,
    checkpoint: options.CheckpointFile = None,
    index: Annotated[
        list[int] | None,
        options.option("--index", "Explain this image of the split; may be repeated.", min=0),
    ] = None,
    correct: Annotated[
        bool, options.option("--correct", "Explain correctly classified images, the surest first.")
    ] = False,
    method: Annotated[
        str,
        options.option(
            "--method",
            "gradcam, gradcam++, hirescam, layercam, xgradcam, eigencam, eigengradcam, scorecam or "
            "ablationcam.",
        ),
    ] = "gradcam",
    layer: Annotated[
        str | None,
        options.option("--layer", "A layer by name.", show_default="the last activation of about 8x8"),
    ] = None,
    limit: Annotated[
        int, options.option("--limit", "How many images to explain where none are named.", min=1, max=100)
    ] = 20,
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
    """Draw class activation maps over misclassified images. Stdout gets the figure's path."""
    from cifarkit.data.folder import read_image  # brings numpy, which --help need not wait for

    if sum(map(bool, (files, index, correct))) > 1:
        raise UsageError("choose one of image files, --index and --correct")
    if files and (split or dataset):
        raise UsageError("image files belong to no data set: leave --split and --dataset out")
    if method not in METHODS:
        raise UnknownName("method", method, METHODS)
    for file in files or ():
        if not file.exists():
            raise DataError(f"{file}: no such file")
        read_image(file, size=32)  # before torch is loaded, which takes seconds
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
        files=bool(files),
    ) as (network, out, hardware):
        from cifarkit.reports import choose_images, report_cams
        from cifarkit.subjects import check_layer

        check_layer(network, layer)
        with terminal.progress(f"choosing images of {network.label}") as update:
            chosen = choose_images(
                network,
                files=files or (),
                indices=index or (),
                correct=correct,
                limit=limit,
                device=hardware.device,
                on_batch=update,
            )
        if not chosen.sources:
            nothing = "classified correctly" if correct else "misclassified; --correct explains the others"
            terminal.warn(f"nothing is {nothing}")
        with terminal.busy(f"drawing {method} maps of {plural(len(chosen.sources), 'image')}"):
            result = report_cams(network, out, chosen, method=method, layer=layer, device=hardware.device)
    flagged = sum(bool(row.flags) for row in result.images)
    if flagged:
        terminal.warn(f"{flagged} of {len(result.images)} images have maps that say nothing; they are marked")
    for row in result.images if files else ():
        terminal.say(f"{row.source}: {row.pred_class} ({percent(row.confidence)})")
    terminal.say(f"{method} at layer {result.layer}, map {result.map_size[0]}x{result.map_size[1]}")
    terminal.answer(result, result.figure)
