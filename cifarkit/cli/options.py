"""Options that several commands share, each said once; all can come from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def option(flag: str, help: str, *more: str, env: str | None = None, **settings: Any) -> Any:
    """A Typer option that ``CIFARKIT_<FLAG>`` sets too."""
    name = flag.split("/")[0].removeprefix("--").replace("-", "_").upper()
    return typer.Option(flag, *more, help=help, envvar=env or f"CIFARKIT_{name}", **settings)


Json = Annotated[bool, option("--json", "Print the whole result as one JSON object on stdout.")]
Quiet = Annotated[bool, option("--quiet", "Say nothing on stderr but errors.", "-q")]
Debug = Annotated[bool, option("--debug", "Show the traceback of a failure.")]
DataDir = Annotated[
    Path | None,
    option("--data-dir", "Folder of the published data files.", show_default="./data", file_okay=False),
]
Dataset = Annotated[
    str, option("--dataset", "cifar10, cifar100, mnist, fashion-mnist, digits or folder:PATH.")
]
ImageSize = Annotated[
    int | None,
    option(
        "--image-size",
        "Side in pixels to which folder images are scaled and cropped.",
        min=8,
        max=512,
        show_default="32",
    ),
]
Seed = Annotated[int, option("--seed", "Seed of everything random.", min=0)]
Experiment = Annotated[str, option("--experiment", "MLflow experiment to record in or look in.")]
TrackingUri = Annotated[
    str | None,
    option(
        "--tracking-uri",
        "MLflow server or store.",
        env="MLFLOW_TRACKING_URI",
        show_default="sqlite:///mlflow.db",
    ),
]
Run = Annotated[
    str | None,
    option(
        "--run",
        "Run id or unique prefix, 'last' (latest finished fit) or 'best' (highest accuracy).",
        show_default="last",
    ),
]
CheckpointFile = Annotated[
    Path | None, option("--checkpoint", "A checkpoint file, instead of a run; needs no MLflow.")
]
Split = Annotated[str | None, option("--split", "train, val or test.", show_default="the validation split")]
Output = Annotated[Path, option("--output", "Folder for figures and reports.")]
Gpus = Annotated[
    int | None,
    option("--gpus", "GPUs to use; 0 is the CPU.", show_default="those that are there", min=0),
]
Precision = Annotated[
    str | None,
    option(
        "--precision", "fp32, bf16, or auto: bf16 where the hardware has it.", show_default="the recipe's"
    ),
]
Recipe = Annotated[str | None, option("--recipe", "A preset; see `recipes`.", show_default="the data set's")]
Model = Annotated[str | None, option("--model", "A network; see `summary`.", show_default="the recipe's")]
Policy = Annotated[
    str | None, option("--policy", "An augmentation policy; see `data preview`.", show_default="the recipe's")
]
BatchSize = Annotated[int | None, option("--batch-size", "Images per step.", show_default="the recipe's")]
Optimizer = Annotated[
    str | None, option("--optimizer", "adam, adamw, sgd or muon.", show_default="the recipe's")
]
DatasetOverride = Annotated[
    str | None,
    # Of its own, because CIFARKIT_DATASET says what is trained on.
    option(
        "--dataset",
        "Another data set with the same classes.",
        env="CIFARKIT_EVAL_DATASET",
        show_default="the one trained on",
    ),
]
RunName = Annotated[
    str | None, option("--run-name", "Name of the run.", show_default="made of recipe, data set and seed")
]
