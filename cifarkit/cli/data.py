"""`cifarkit data`: download, verify, stats, preview."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cifarkit.augment.policies import POLICIES, find_policy
from cifarkit.cli import options
from cifarkit.cli.choices import find_source
from cifarkit.console import Terminal
from cifarkit.errors import DataError
from cifarkit.recipes import find_recipe
from cifarkit.results import DataPath, DataStats, PreviewResult, short_name

app = typer.Typer(help="Download, verify, describe and look at a data set.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="cifar10, cifar100, mnist, fashion-mnist, digits or folder:PATH.")]


@app.command()
def download(
    dataset: Name = "cifar10",
    data_dir: options.DataDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Fetch a data set with its checksums. Stdout gets the path of the data."""
    from cifarkit.data import loading
    from cifarkit.data.datasets import find_dataset

    terminal = Terminal(json=json, quiet=quiet)
    source = find_dataset(dataset)
    with terminal.progress(f"fetching {source.name}", "bytes") as update:
        path = loading.download(
            source, data_dir or loading.default_data_dir(), lambda name, done, total: update(done, total)
        )
    terminal.say(f"{source.name} is complete")
    terminal.answer(DataPath(source.name, str(path)), str(path))


@app.command()
def verify(
    dataset: Name = "cifar10",
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Re-read every file and say what is missing or damaged. Exit code 1 if anything is."""
    from cifarkit.data import loading

    terminal = Terminal(json=json, quiet=quiet)
    source = find_source(dataset, image_size)
    with terminal.busy(f"reading {source.name}"):
        report = loading.verify(source, data_dir or loading.default_data_dir())
    bad = [file for file in report.files if file.bad]
    for file in report.files:
        if file.status != "ok":
            terminal.say(f"{file.status}: {file.path}: {file.detail}")
    used = [file for file in report.files if file.status != "ignored"]
    terminal.say(f"{len(used) - len(bad)} of {len(used)} files are as they should be")
    worst = "ok" if report.ok else "damaged" if any(file.status == "damaged" for file in bad) else "missing"
    terminal.answer(report, worst)
    if not report.ok:
        of = f"{len(bad)} of {len(used)} files are"
        advice = f"; `cifarkit data download {source.name}` fetches them" if worst == "missing" else ""
        raise DataError(f"{source.name}: {of} {worst if advice else 'missing or damaged'}{advice}")


@app.command()
def stats(
    dataset: Name = "cifar10",
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Count classes and compute mean and standard deviation. Stdout gets a table."""
    from cifarkit.data import loading

    terminal = Terminal(json=json, quiet=quiet)
    source = find_source(dataset, image_size)
    with terminal.busy(f"reading {source.name}"):
        result = loading.stats(source, data_dir or loading.default_data_dir())
    terminal.say(f"{source.name}: {source.description}")
    terminal.answer(result, _stats_table(result))


def _stats_table(stats: DataStats) -> str:
    """Tab-separated, so that a script can cut it."""
    lines = [f"dataset\t{stats.dataset}", "image_shape\t" + "x".join(map(str, stats.image_shape))]
    for split in stats.splits:
        lines.append(f"{split.split}.samples\t{split.samples}")
        lines.append(f"{split.split}.mean\t" + " ".join(f"{value:.8f}" for value in split.mean))
        lines.append(f"{split.split}.std\t" + " ".join(f"{value:.8f}" for value in split.std))
        lines.append(f"{split.split}.fingerprint\t{split.fingerprint}")
        lines += [f"{split.split}.class.{name}\t{count}" for name, count in split.class_counts.items()]
    return "\n".join(lines)


@app.command()
def preview(
    dataset: Name = "cifar10",
    policy: Annotated[
        str | None,
        options.option("--policy", "One of: " + ", ".join(POLICIES), show_default="the default recipe's"),
    ] = None,
    stages: Annotated[bool, options.option("--stages", "One row per op instead of one per epoch.")] = False,
    count: Annotated[int, options.option("--count", "Images to show.", min=1, max=40)] = 10,
    rows: Annotated[int, options.option("--rows", "Epochs of augmentation to show.", min=1, max=20)] = 5,
    split: Annotated[str, options.option("--split", "train or test.")] = "train",
    seed: options.Seed = 0,
    output: options.Output = Path("figures"),
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Draw raw and augmented images with their class names. Stdout gets the figure's path."""
    from cifarkit.data import loading

    terminal = Terminal(json=json, quiet=quiet)
    source = find_source(dataset, image_size)
    policy = policy or find_recipe(source.recipe).policy
    find_policy(policy)
    data_dir = data_dir or loading.default_data_dir()
    with terminal.busy(f"reading {source.name}"):
        train = source.load(data_dir, "train")
        images = train if split == "train" else source.load(data_dir, split)
    with terminal.busy("loading torch"):
        from cifarkit.reports import Folder, named, preview_figure
        from cifarkit.training.data import preprocessing_for
    with terminal.busy("drawing"):
        preprocessing = preprocessing_for(train, *source.mean_std(train))
        indices, drawn = preview_figure(
            images, preprocessing, policy, seed=seed, count=count, rows=rows, stages=stages
        )
        variant = "stages" if stages else None, split if split != "train" else None
        name = named("preview", short_name(source.name), policy, *variant)
        path = Folder(output).figure(name, drawn)
    terminal.say(f"{len(indices)} images of the {images.split} split, policy {policy}")
    result = PreviewResult(source.name, images.split, policy, indices, str(path))
    terminal.answer(result, str(path))
