"""`cifarkit summary`: a model's layers, parameters, bytes and FLOPs."""

from __future__ import annotations

from typing import Annotated

import typer

from cifarkit.cli import options
from cifarkit.console import Terminal
from cifarkit.models import MODELS, find_model


def summary(
    model: Annotated[str, typer.Argument(help="One of: " + ", ".join(MODELS))],
    depth: Annotated[int, options.option("--depth", "Levels of modules to show; -1 for all.", min=-1)] = -1,
    channels: Annotated[int, options.option("--channels", "Image channels.", min=1, max=3)] = 3,
    image_size: Annotated[
        int, options.option("--image-size", "Side of the images in pixels.", min=8, max=512)
    ] = 32,
    classes: Annotated[int, options.option("--classes", "Number of classes.", min=2)] = 10,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Print a model's layer table. Stdout gets the number of parameters."""
    description = find_model(model).description
    terminal = Terminal(json=json, quiet=quiet)
    with terminal.busy("building the model"):
        from cifarkit.training.summary import model_table

        text, table = model_table(model, (channels, image_size, image_size), classes, depth)
    terminal.say(f"{model}: {description}")
    terminal.say(text)
    terminal.say(f"{table.flops:,} FLOPs per image, forward")
    terminal.answer(table, str(table.parameters))
