"""`cifarkit fit`: train, and record everything about it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import typer

from cifarkit.cli import options
from cifarkit.cli.choices import resolve
from cifarkit.console import Terminal, duration, percent, plural
from cifarkit.errors import TargetNotReached, UsageError
from cifarkit.recipes import PATIENCE, RECIPES, Plan, Recipe
from cifarkit.results import FitResult, FitRuns, Spread

Epochs = Annotated[
    int | None,
    options.option(
        "--epochs", "How many epochs to train.", show_default="the recipe's, or what the target needs"
    ),
]
TargetAcc = Annotated[
    float | None,
    options.option(
        "--target-acc",
        "Train for as long as this validation accuracy, a fraction, is expected to take and stop as soon as "
        "it is reached; exit code 3 if it never is.",
    ),
]
MaxEpochs = Annotated[
    int | None,
    options.option(
        "--max-epochs",
        "Train for at most this many epochs while the target is not reached.",
        show_default=f"{PATIENCE} times the planned epochs; with --epochs just those",
        min=1,
    ),
]
Lr = Annotated[
    str | None,
    options.option("--lr", "Peak learning rate, or 'auto' for a range test.", show_default="the recipe's"),
]
Workers = Annotated[
    int | None,
    options.option(
        "--workers",
        "Augment with albumentations in this many processes.",
        show_default="none: the data stays on the device when it fits",
        min=0,
    ),
]
Runs = Annotated[
    int,
    options.option(
        "--runs",
        "Train with this many seeds, from --seed on; tell mean and spread of accuracy and time. One MLflow "
        "run with a child for each.",
        min=1,
    ),
]
ValSize = Annotated[
    int,
    options.option(
        "--val-size",
        "Images held out of the training split for validation; 0 validates on the test split.",
        min=0,
    ),
]

FIXED_BY_RUN = (
    "dataset", "recipe", "epochs", "model", "policy", "batch_size", "lr", "optimizer", "seed", "precision",
    "val_size", "runs", "image_size", "run_name", "workers", "deterministic",
    "compile",
)  # fmt: skip

LOOK_AT_IT = "look at it with `mlflow ui`, ask it with `cifarkit eval`, `misclassified`, `gradcam`"


def fit(
    context: typer.Context,
    dataset: options.Dataset = "cifar10",
    recipe: options.Recipe = None,
    target_acc: TargetAcc = None,
    epochs: Epochs = None,
    max_epochs: MaxEpochs = None,
    model: options.Model = None,
    policy: options.Policy = None,
    batch_size: options.BatchSize = None,
    lr: Lr = None,
    optimizer: options.Optimizer = None,
    seed: options.Seed = 0,
    runs: Runs = 1,
    gpus: options.Gpus = None,
    nodes: Annotated[int, options.option("--nodes", "How many machines.", min=1)] = 1,
    precision: options.Precision = None,
    workers: Workers = None,
    val_size: ValSize = 0,
    deterministic: Annotated[
        bool, options.option("--deterministic", "Use only algorithms that repeat bit for bit.")
    ] = False,
    compile: Annotated[
        bool,
        options.option(
            "--compile",
            "Compile training steps with torch.compile, once for every image size: worth its minutes, if at "
            "all, in long trainings and many --runs on a GPU.",
        ),
    ] = False,
    resume: Annotated[
        str | None,
        options.option("--resume", "Go on with this run: an id, a prefix, or 'last' for the latest."),
    ] = None,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    experiment: options.Experiment = "cifarkit",
    run_name: options.RunName = None,
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train for a number of epochs or to a target accuracy. Stdout gets the run id."""
    # Brings numpy, which --help need not wait for.
    from cifarkit.data.loading import default_data_dir, load_splits

    terminal = Terminal(json=json, quiet=quiet)
    check_target(target_acc)
    splits = None
    data_dir = data_dir or default_data_dir()
    if resume is not None:
        check_resume(context)
        source, chosen = resolve("cifar10", None, None)  # in place of those of the run
    else:
        if max_epochs is not None and target_acc is None:
            raise UsageError("--max-epochs goes with --target-acc; without a target, --epochs is the length")
        if max_epochs is not None and epochs is not None and max_epochs < epochs:
            raise UsageError(f"--max-epochs {max_epochs} is less than --epochs {epochs}")
        source, chosen = resolve(
            dataset,
            recipe,
            image_size,
            target_acc=target_acc if lr is None else None,
            gpus=gpus,
            model=model,
            policy=policy,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch_size,
            precision=precision,
        )
        if lr is not None:
            chosen = replace(chosen, lr=parse_lr(lr))
        if target_acc is not None and epochs is None:
            chosen = plan(terminal, chosen, source.name, target_acc, max_epochs)
            max_epochs = max_epochs or PATIENCE * chosen.epochs
        # Before the seconds that torch takes to load: most of what can be wrong is wrong here.
        with terminal.busy(f"{source.name} with recipe {chosen.name}: reading the images"):
            splits = load_splits(source, data_dir, val_size, seed)
        chosen = chosen.fitted(splits.train, own_batch_size=batch_size is not None)
    with terminal.busy("loading torch, Lightning and MLflow"):
        from cifarkit.sessions.fit import run_fit
        from cifarkit.sessions.followers import is_follower
        from cifarkit.sessions.repeats import run_fits
        from cifarkit.sessions.request import FitRequest
        from cifarkit.sessions.resuming import find_interrupted, find_repeated
        from cifarkit.tracking import connect

    request = FitRequest(
        source=source,
        plan=Plan(
            chosen,
            seed=seed,
            target_acc=target_acc,
            max_epochs=max_epochs,
            workers=workers,
            deterministic=deterministic,
            compile=compile,
        ),
        data_dir=data_dir,
        val_size=val_size,
        own_batch_size=batch_size is not None,
        gpus=gpus,
        nodes=nodes,
        experiment=experiment,
        run_name=run_name,
        tracking_uri=tracking_uri,
    )
    interrupted = repeated = None
    if resume is not None and not is_follower(request.hardware()):
        with terminal.busy("looking up the run to go on with"):
            client = connect(tracking_uri, create=False)
            interrupted = find_interrupted(resume, experiment, client, terminal)
            repeated = find_repeated(interrupted, client, request)
    if repeated or (runs > 1 and resume is None):
        _tell_runs(terminal, run_fits(request, runs, terminal, splits=splits, repeated=repeated))
        return
    result = run_fit(request, terminal, splits=splits, interrupted=interrupted)
    _say(terminal, result)
    terminal.answer(result, str(result.run_id))
    if result.target_reached is False:
        raise TargetNotReached(
            f"{result.val_split} accuracy {percent(result.best_val_acc)} stayed below the target "
            f"{percent(result.target_acc or 1.0)} in {plural(result.epochs, 'epoch')}; go on with "
            f"`{request.resuming(str(result.run_id))} --max-epochs {2 * result.epochs}`"
        )


def plan(
    terminal: Terminal, recipe: Recipe, dataset: str, target_acc: float, max_epochs: int | None = None
) -> Recipe:
    """The recipe at the length that the target is expected to take, but for no more than ``max_epochs``."""
    epochs = _expected_length(terminal, recipe, dataset, target_acc)
    if max_epochs is not None and max_epochs < epochs:
        terminal.say(f"limited to {plural(max_epochs, 'epoch')} by --max-epochs")
        epochs = max_epochs
    return replace(recipe, epochs=epochs)


def _expected_length(terminal: Terminal, recipe: Recipe, dataset: str, target_acc: float) -> int:
    # Precision changes the time, hardly the accuracy.
    known = replace(RECIPES[recipe.name], precision=recipe.precision)
    measured = recipe.measured(dataset, target_acc) if recipe == known else None
    if measured is None:
        terminal.say(
            f"nobody has measured what {percent(target_acc)} needs with these settings: "
            f"{plural(recipe.epochs, 'epoch')} to begin with"
        )
        return recipe.epochs
    spread = f" ± {100 * measured.accuracy_std:.2f}" if measured.runs > 1 else ""
    length = plural(measured.epochs, "epoch")
    came_to = f"recipe {recipe.name} came to {percent(measured.accuracy_mean)}{spread} in {length}"
    if measured.accuracy_mean >= target_acc:
        terminal.say(f"{percent(target_acc)} needs about {length}: {came_to}")
        return measured.epochs
    epochs = max(recipe.epochs, measured.epochs)
    terminal.say(f"{came_to}, and nobody has measured more: {plural(epochs, 'epoch')} to begin with")
    return epochs


def check_resume(context: typer.Context) -> None:
    """A resumed run keeps what shapes its training, whatever the environment says.

    Raises:
        UsageError: an option tries to change that.
    """
    for name in FIXED_BY_RUN:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"--{name.replace('_', '-')} cannot change in a resumed run; leave it out")


def check_target(target_acc: float | None) -> None:
    """Raises: UsageError."""
    if target_acc is None or 0 < target_acc <= 1:
        return
    hint = f"; did you mean {target_acc / 100:g}?" if 10 <= target_acc <= 100 else ""
    raise UsageError(f"--target-acc is a fraction between 0 and 1, not {target_acc:g}{hint}")


def parse_lr(text: str) -> float | None:
    """The learning rate typed after ``--lr``, or None for ``auto``.

    Raises:
        UsageError: neither ``auto`` nor a positive number.
    """
    if text == "auto":
        return None
    try:
        lr = float(text)
    except ValueError:
        raise UsageError(f"--lr takes a number or 'auto', not {text!r}") from None
    if not (lr > 0 and math.isfinite(lr)):
        raise UsageError(f"the learning rate must be a positive number, not {text}")
    return lr


def _tell_runs(terminal: Terminal, summary: FitRuns) -> None:
    """Raises: TargetNotReached."""
    from rich.table import Table

    def measured(name: str, values: Spread, show: Callable[[float], str]) -> None:
        interval = " to ".join(show(end) for end in (values.low, values.high) if end is not None)
        table.add_row(name, show(values.mean), show(values.std), interval)

    table = Table(box=None, pad_edge=False)
    for heading in (plural(len(summary.seeds), "seed"), "mean", "deviation", "95% interval of the mean"):
        table.add_column(heading, justify="left" if heading.endswith("seeds") else "right")
    split = summary.fits[0].val_split
    measured(f"{split} accuracy, last epoch", summary.accuracy, percent)
    measured("training seconds", summary.train_seconds, "{:.1f}".format)
    if summary.time_to_target_seconds:
        measured("seconds to target", summary.time_to_target_seconds, "{:.1f}".format)
    terminal.show(table)
    terminal.say(LOOK_AT_IT)
    terminal.answer(summary, str(summary.run_id))
    missed = len(summary.seeds) - (summary.targets_reached or 0)
    if summary.targets_reached is not None and missed:
        target = percent(summary.fits[0].target_acc or 1.0)
        raise TargetNotReached(f"{missed} of {plural(len(summary.seeds), 'seed')} stayed below {target}")


def _say(terminal: Terminal, result: FitResult) -> None:
    terminal.say(
        f"best {result.val_split} accuracy {percent(result.best_val_acc)} "
        f"({percent(result.best_val_acc_low)} to {percent(result.best_val_acc_high)} with 95% confidence) "
        f"in epoch {result.best_epoch} of {result.epochs}; {duration(result.train_seconds)} of training"
    )
    if result.time_to_target_seconds is not None:
        terminal.say(f"target reached after {duration(result.time_to_target_seconds)}")
    terminal.say(LOOK_AT_IT)
