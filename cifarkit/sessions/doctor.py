"""What could spoil a training on this machine, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import numpy as np
import torch

from cifarkit import tracking
from cifarkit.augment.batched import Batched
from cifarkit.augment.per_image import PerImage
from cifarkit.augment.policies import find_policy
from cifarkit.augment.randomness import uniforms
from cifarkit.console import Terminal, plural
from cifarkit.data.datasets import Dataset
from cifarkit.data.image_set import ImageSet
from cifarkit.data.loading import load_splits, verify
from cifarkit.errors import CifarkitError, DataError, Stopped, UsageError
from cifarkit.pipeline import as_tensors
from cifarkit.recipes import Recipe
from cifarkit.results import Diagnosis, Finding
from cifarkit.training import bench
from cifarkit.training.data import Data
from cifarkit.training.hardware import Hardware, choose_hardware, has_native_bf16

OK, WARN, FAIL = "ok", "warn", "fail"
SEVERITY = (OK, WARN, FAIL)
# The most common class over the rarest, from which on accuracy says little.
UNBALANCED = 3.0
# Standard errors beyond which numbers are not taken for random.
SUSPICIOUS = 5.0
DRAWN = 4096
# Share of a step's time beyond which preparing its images is worth a remark.
SLOW_LOADER = 0.3
# So long a store that another process writes is waited for.
LOCK_SECONDS = 5.0
GIBIBYTE = 1024**3


def examine(
    source: Dataset,
    recipe: Recipe,
    data_dir: Path,
    terminal: Terminal,
    *,
    tracking_uri: str | None,
    gpus: int | None,
    debug: bool = False,
) -> Diagnosis:
    """Every check, none of which changes anything.

    Args:
        source: the data set that is to be trained on.
        recipe: the one whose augmentation and speed are looked at.
        debug: show the traceback of a check that fails.
    """
    findings: list[Finding] = []

    def look(what: str, check: Callable[[], Iterator[Finding]]) -> None:
        with terminal.busy(f"looking at {what}"):
            try:
                findings.extend(check())
            except Exception as error:  # a check that fails is a finding, too
                Stopped.heed()
                if debug:
                    traceback.print_exc()
                data = isinstance(error, DataError)
                remedy = "check --dataset and --data-dir" if data else "--debug shows where"
                findings.append(Finding(what, FAIL, tracking.reason(error), remedy))

    look("packages", packages)
    look("device", lambda: device(gpus))
    data: list[Data] = []
    look("data", lambda: images(source, data_dir, data))
    no_device = any(finding.check == "device" and finding.status == FAIL for finding in findings)
    if data:
        look("augmentation", lambda: augmentation(recipe, data[0]))
    if data and not no_device:
        look("loader", lambda: loader(recipe, data[0], gpus))
    look("tracking", lambda: store(tracking_uri))
    look("disk", lambda: disk(tracking_uri))
    worst = max((finding.status for finding in findings), key=SEVERITY.index)
    return Diagnosis(worst, tuple(findings))


def packages() -> Iterator[Finding]:
    """Whether what is installed is what cifarkit was made for."""
    from packaging.requirements import Requirement

    wrong = []
    for text in requires("cifarkit") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed} is not {requirement.specifier}")
    python = f"Python {platform.python_version()}, torch {torch.__version__}, cifarkit {version('cifarkit')}"
    if wrong:
        yield Finding(
            "packages", FAIL, "; ".join(wrong), "`make install`, or `pip install .` in cifarkit's folder"
        )
    else:
        yield Finding("packages", OK, python)


def device(gpus: int | None) -> Iterator[Finding]:
    """GPU, threads, precision."""
    try:
        hardware = choose_hardware(gpus)
    except UsageError as error:
        yield Finding("device", FAIL, str(error), "leave --gpus out")
        return
    yield Finding("device", OK, hardware.describe())
    if hardware.device == "cuda":
        return
    affinity = getattr(os, "sched_getaffinity", None)  # of Linux
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    threads = torch.get_num_threads()
    if threads < usable:
        yield Finding("threads", WARN, f"{threads} of {usable} usable cores", f"set OMP_NUM_THREADS={usable}")
    elif threads > usable:
        yield Finding(
            "threads", WARN, f"{threads} threads on {plural(usable, 'core')} wait for each other",
            f"set OMP_NUM_THREADS={usable}",
        )  # fmt: skip
    else:
        yield Finding("threads", OK, plural(threads, "thread"))
    bf16 = "bf16 at full speed" if has_native_bf16("cpu") else "no bf16 units: trains in fp32"
    yield Finding("precision", OK, bf16)


def images(source: Dataset, data_dir: Path, loaded: list[Data]) -> Iterator[Finding]:
    """Files, balance of the classes, images that are in both splits; the data, once read, into ``loaded``."""
    report = verify(source, data_dir)
    bad = [file for file in report.files if file.bad]
    if bad:
        detail = f"{plural(len(bad), 'file')} of {len(report.files)}: {bad[0].path}: {bad[0].detail}"
        in_folder = source.name.startswith("folder:")
        remedy = "replace or remove it" if in_folder else f"cifarkit data download {source.name}"
        yield Finding("data files", FAIL, detail, remedy)
        return
    intact = sum(file.status == "ok" for file in report.files)
    yield Finding("data files", OK, f"{source.name}: {plural(intact, 'file')} intact")
    data = Data.of(source, load_splits(source, data_dir))
    loaded.append(data)
    for part in (data.train, data.val):
        counts = np.bincount(part.labels, minlength=len(part.classes))
        rarest, most = part.classes[counts.argmin()], part.classes[counts.argmax()]
        detail = f"{part.split}: {counts.min():,} ({rarest}) to {counts.max():,} ({most}) images a class"
        if rarest == most:
            detail = f"{part.split}: {counts.max():,} images in every class"
        if counts.max() > UNBALANCED * max(1, counts.min()):
            yield Finding("balance", WARN, detail, "judge by `eval`'s scores of each class, not by accuracy")
        else:
            yield Finding("balance", OK, detail)
    shared = len(_distinct(data.train) & _distinct(data.val))
    if shared:
        yield Finding(
            "duplicates", WARN, f"{plural(shared, 'image')} of the test split in the training split, too",
            "take them out of one of the two: they are learned by heart",
        )  # fmt: skip
    else:
        yield Finding("duplicates", OK, "no image is in both splits")


def _distinct(part: ImageSet) -> set[bytes]:
    return {image.tobytes() for image in part.images}


def augmentation(recipe: Recipe, data: Data) -> Iterator[Finding]:
    """Whether draws repeat or hang together, and whether an image's changes are its own in both backends."""
    indices = torch.arange(DRAWN)
    draws = np.stack([uniforms(0, epoch, indices, 4).numpy() for epoch in range(4)]).astype(np.float64)
    rows = draws.reshape(-1, 4)
    repeated = len(rows) - len(np.unique(rows, axis=0))
    pairs = {
        "columns": (draws[..., 0], draws[..., 1]),
        "images": (draws[:, :-1], draws[:, 1:]),
        "epochs": (draws[:-1], draws[1:]),
    }
    related = {
        name: abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) * a.size**0.5 for name, (a, b) in pairs.items()
    }
    worst = max(related, key=lambda name: related[name])
    if repeated or related[worst] > SUSPICIOUS:
        detail = f"{repeated} repeated draws; {worst} correlate by {related[worst]:.1f} standard errors"
        yield Finding("draws", FAIL, detail, "report it: no training can be trusted")
    else:
        yield Finding("draws", OK, f"{len(rows):,} draws: none repeated, none correlated")
    some, policy = data.train.take(range(min(64, len(data.train)))), find_policy(recipe.policy)
    settings = (data.preprocessing.mean, data.preprocessing.std, 0)
    pixels, _ = as_tensors(some)
    order = torch.arange(len(some))
    batched, single = Batched(policy, *settings), PerImage(policy, *settings)
    together = batched(pixels, order, 1)
    halves = torch.cat([batched(pixels[part], part, 1) for part in order.chunk(2)])
    forth = [single(image, index, 1) for index, image in enumerate(some.images)]
    back = [single(some.images[index], index, 1) for index in reversed(range(len(some)))][::-1]
    if torch.equal(together, halves) and all(map(np.array_equal, forth, back)):
        yield Finding("augmentation", OK, f"{recipe.policy}: the same images in any batch and any order")
    else:
        yield Finding(
            "augmentation", FAIL, f"{recipe.policy}: an image's changes depend on those before it",
            "use a policy of the table, or operations without a memory",
        )  # fmt: skip


def loader(recipe: Recipe, data: Data, gpus: int | None) -> Iterator[Finding]:
    """Whether preparing the images takes a large share of a training's time."""
    hardware: Hardware = choose_hardware(gpus)
    recipe = replace(recipe.with_batch_for(len(data.train)), lr=recipe.lr or 1e-3)
    prepared = bench.measure_augmentation(recipe, data, hardware, 0.5)[0].value
    trained = bench.measure_steps(recipe, data, hardware, 1.0, 0.5)[-1].value
    share = trained / (trained + prepared)
    detail = (
        f"{100 * share:.0f}% of the time would go into preparing images "
        f"({prepared:,.0f} a second; {trained:,.0f} are trained on)"
    )
    if share > SLOW_LOADER:
        yield Finding("loader", WARN, detail, "--workers with as many processes as there are cores to spare")
    else:
        yield Finding("loader", OK, detail)


def store(uri: str | None) -> Iterator[Finding]:
    """Whether the tracking store can be reached and written, and whether it has everything."""
    uri = tracking.resolve_uri(uri)
    database = _database(uri)
    if database is not None and not database.exists():
        folder = database.absolute().parent
        if folder.is_dir() and os.access(folder, os.W_OK):
            yield Finding("tracking", OK, f"{uri} will be made by the first run")
        else:
            yield Finding("tracking", FAIL, f"{folder} cannot be written", "go to another folder")
    else:
        artifacts = database and database.absolute().parent / "mlruns"
        if artifacts and artifacts.exists() and not artifacts.is_dir():
            yield Finding("tracking", FAIL, f"{artifacts} is not a folder", "move it away")
            return
        try:
            began = time.perf_counter()
            client = tracking.connect(uri)
            experiments = len(client.search_experiments())
            took = time.perf_counter() - began
            tracking.check_writes(client)
            if database is not None:
                with closing(sqlite3.connect(database, timeout=LOCK_SECONDS)) as connection:
                    connection.execute("BEGIN IMMEDIATE")  # raises where nobody may write
                    connection.rollback()
        except CifarkitError as error:
            remedy = "move it away, or name another store with --tracking-uri"
            if database is None:
                remedy = "start the server, or leave --tracking-uri out"
            yield Finding("tracking", FAIL, str(error), remedy)
        except sqlite3.Error as error:
            if "locked" in str(error):
                yield Finding("tracking", WARN, f"{database}: another process is writing", "ask again later")
            else:
                yield Finding(
                    "tracking", FAIL, f"{database} cannot be written: {error}", f"chmod u+w {database}"
                )
        else:
            detail = f"{uri}: {plural(experiments, 'experiment')}, answered in {took:.1f} s"
            yield Finding("tracking", OK, detail)
    unsent = tracking.left_behind()
    if unsent:
        yield Finding(
            "unsent", WARN, f"{plural(len(unsent), 'run')} not fully recorded", "cifarkit runs sync"
        )


def _database(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def disk(uri: str | None) -> Iterator[Finding]:
    """Room for checkpoints and figures, here, for what is temporary, and where the store's database is."""
    places = {"disk": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    database = _database(tracking.resolve_uri(uri))
    if database is not None and database.absolute().parent not in (Path.cwd(), Path("/")):
        places["disk of the store"] = database.absolute().parent
    for name, place in places.items():
        if not place.is_dir():  # said already, of the store
            continue
        free = shutil.disk_usage(place).free
        detail = f"{free / GIBIBYTE:,.1f} GiB free in {place}"
        if free < GIBIBYTE / 10:
            yield Finding(name, FAIL, detail, "make room, or set TMPDIR")
        elif free < GIBIBYTE:
            yield Finding(name, WARN, detail, "make room, or set TMPDIR")
        else:
            yield Finding(name, OK, detail)
