"""One `fit` from beginning to end: data, range test, training, figures, MLflow."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cifarkit import figures, reports, tracking
from cifarkit.checkpoint import load_checkpoint, read_rates
from cifarkit.console import EpochTable, Terminal, plural
from cifarkit.data.loading import Splits
from cifarkit.errors import Stopped
from cifarkit.pipeline import fits_on_device
from cifarkit.recipes import Plan, scaled_side
from cifarkit.results import EpochRow, FitResult, to_json
from cifarkit.scratch import scratch
from cifarkit.sessions.followers import check_started_here, follow, is_follower, leave_plan
from cifarkit.sessions.request import FitRequest, Job
from cifarkit.sessions.resuming import Resumed, as_it_was, restore
from cifarkit.subjects import Subject
from cifarkit.training.data import Data
from cifarkit.training.fit import fit
from cifarkit.training.hardware import Hardware, has_native_bf16
from cifarkit.training.lr_find import find_lr
from cifarkit.training.lr_rules import STEPS, choose
from cifarkit.training.summary import count_flops, model_table


class Uploader:
    """Copies the checkpoints into the run after every epoch and where a training stops."""

    def __init__(self, recorder: tracking.RunRecorder, folder: Path) -> None:
        self.recorder, self.folder = recorder, folder
        self.upload = folder.with_name("upload")

    def on_step(self, epoch: int, step: int, steps: int, images_per_second: float) -> None:
        """Nothing to copy."""

    def on_validation(self, epoch: int) -> None:
        """Nothing to copy yet."""

    def on_epoch(self, row: EpochRow, best: bool) -> None:
        self._copy(f"epoch{row.epoch}", ("previous", "best", "last") if best else ("previous", "last"))

    def on_stop(self, epoch: int, step: int, steps: int) -> None:
        self._copy(f"epoch{epoch}-step{step}", ("previous", "last"))

    def _copy(self, when: str, names: Sequence[str]) -> None:
        # In this order: whatever is cut short here, a whole checkpoint is there to go on with, and it never
        # tells of a best that is not there.
        for name in names:
            if not (self.folder / f"{name}.ckpt").exists():  # nothing was before the first
                continue
            # The file will be replaced while it is being copied: a hard link keeps this moment's.
            kept = self.upload / when / f"{name}.ckpt"
            kept.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(self.folder / kept.name, kept)
            except OSError:  # a file system without hard links
                shutil.copy2(self.folder / kept.name, kept)
            self.recorder.log_artifact(kept, "checkpoints", delete=True)


def run_fit(
    request: FitRequest, terminal: Terminal, *, splits: Splits | None = None, interrupted: Any = None
) -> FitResult:
    """Train, draw, record.

    Args:
        splits: the images, where they have been read already.
        interrupted: the run to go on with, from `resuming.find_interrupted`; its images are read anew.

    Raises:
        CifarkitError: everything that `training.fit.fit`, the data and the store can raise; the run, once
            it exists, ends with a true status.
    """
    if is_follower(request.hardware()):
        follow(request, splits)
    request = request.named(f"-seed{request.plan.seed}")
    recorder = tracking.RunRecorder(request.tracking_uri, request.experiment, request.run_name)
    with scratch() as downloads, tracking.recording(recorder, terminal.alert):
        resumed = None
        if interrupted:
            with terminal.busy("fetching its checkpoints"):
                resumed = restore(interrupted, recorder.client, Path(downloads), terminal)
            request = as_it_was(request, resumed)
        hardware = request.hardware()
        check_images = resumed.check_images if resumed else None
        job = prepare(request, hardware, terminal, splits, check_images)
        run_id = open_run(job, recorder, terminal, resumed.run_id if resumed else None)
        if resumed:
            resumed.tell(job.hardware, terminal)
        try:
            training = train(job, recorder, terminal, resumed)
        except (Stopped, KeyboardInterrupt):
            terminal.say(f"go on with `{request.resuming(run_id)}`")
            raise
        try:
            report(training, recorder, terminal)
        except (Stopped, KeyboardInterrupt):
            terminal.say(f"what is missing is drawn by `{request.resuming(run_id)}`")
            raise
        return training.result


def prepare(
    request: FitRequest,
    hardware: Hardware,
    terminal: Terminal,
    splits: Splits | None,
    check_images: Callable[[Data], None] | None,
) -> Job:
    """Make the images input and give the recipe its final form.

    Args:
        splits: the images; None to read them here.
        check_images: raises an error where a run cannot go on with these images, before it is RUNNING again.
    """
    if splits is None:
        with terminal.busy(f"reading {request.source.name}"):
            splits = request.read()
    data = Data.of(request.source, splits)
    if check_images:
        check_images(data)
    job = Job(request.on(hardware), data, hardware)
    job.recipe.check_fits(data.train)
    return job


def open_run(
    job: Job, recorder: tracking.RunRecorder, terminal: Terminal, resume: str | None, **more_tags: str
) -> str:
    """Begin the job's run, or go on with the one of this id; its id is returned."""
    tags = job.tags() | more_tags
    with terminal.busy("opening the MLflow run"):
        run_id = recorder.start(tags, resume=resume)
    if resume:  # a single run perhaps with another target
        recorder.set_tags({tracking.PLAN: tags[tracking.PLAN]})
    terminal.say(f"run {run_id}: {job.data.name}, recipe {job.recipe.name}, {job.hardware.describe()}")
    terminal.say(job.describe())
    if job.hardware.precision == "bf16" and not has_native_bf16(job.hardware.device):
        terminal.warn("here bf16 is computed by conversion, up to a hundred times slower than fp32")
    return run_id


@dataclass(frozen=True)
class Training:
    """What a training came to, and what its figures need beside that.

    Attributes:
        job: as trained.
        checkpoints: the folder that holds them.
        out: where its figures and reports go.
    """

    result: FitResult
    job: Job
    checkpoints: Path
    out: reports.Folder


def train(
    job: Job, recorder: tracking.RunRecorder, terminal: Terminal, resumed: Resumed | None = None
) -> Training:
    """Train and record a run that has been started; its figures are left to `report`."""
    folder = recorder.folder
    out = reports.Folder(folder / "report", recorder.run_id)
    resume = resumed.checkpoint if resumed else None
    if job.hardware.world_size > 1:
        check_started_here(job, resume)
    if job.recipe.lr is None:
        lr = _lr_from_range_test(job, recorder, terminal, out)
        job = job.with_plan(job.plan.with_recipe(lr=lr))
    data, hardware = job.data, job.hardware
    if not (resumed and resumed.has_params):
        recorder.log_params(job.params())
        log_datasets(recorder, data)
    text, _ = model_table(job.recipe.model, data.preprocessing.image_shape, len(data.preprocessing.classes))
    recorder.log_text(text, "summary.txt")
    checkpoints = folder / "checkpoints"
    uploader = Uploader(recorder, checkpoints)
    earlier = resumed.rows if resumed else ()
    if hardware.world_size > 1:
        leave_plan(job, folder, resume)
    try:
        with _epoch_table(job, terminal, earlier) as shown:
            result = fit(
                job.plan,
                data,
                hardware,
                checkpoints,
                resume=resume,
                observers=[shown, recorder, uploader],
            )
    except Stopped:
        terminal.say(f"stopped after {plural(len(shown.rows), 'epoch')}{shown.stopped}")
        raise
    # Not a number where a target was missed, because a run that goes on may have reached an earlier one.
    never = math.nan if result.target_reached is False else None
    recorder.log_metrics(
        {
            "best_val_acc": result.best_val_acc,
            "train_seconds": result.train_seconds,
            "time_to_target_seconds": result.time_to_target_seconds or never,
            "peak_memory_bytes": float(result.peak_memory_bytes),
        },
        step=result.epochs,
    )
    best, last = (f"runs:/{recorder.run_id}/checkpoints/{name}.ckpt" for name in ("best", "last"))
    result = replace(result, run_id=recorder.run_id, best_checkpoint=best, last_checkpoint=last)
    return Training(result, job, checkpoints, out)


def _epoch_table(job: Job, terminal: Terminal, earlier: Sequence[EpochRow]) -> EpochTable:
    plan, data = job.plan, job.data
    on_device = fits_on_device(data.train, torch.device(job.hardware.device))
    return EpochTable(
        terminal,
        work=work_of(plan, data),
        ends=plan.ends,
        val_split=data.val.split,
        batch_size=plan.recipe.batch_size,
        workers=plan.workers is not None or not on_device,
        target_acc=plan.target_acc,
        earlier=earlier,
    )


def work_of(plan: Plan, data: Data) -> Callable[[float, float], float]:
    """What it takes to train from one point to another, both counted in epochs, with the validations between
    them: in proportion to the FLOPs."""
    recipe = plan.recipe
    channels, full, _ = data.preprocessing.image_shape
    classes = len(data.preprocessing.classes)
    # Now, because a training waits for whoever asks.
    costs = {
        side: count_flops(recipe.model, (channels, side, side), classes)
        for side in {scaled_side(full, scale) for scale in recipe.image_scale}
    }
    # A forward pass is a third of a step.
    validation = len(data.val) / len(data.train) / 3
    early = validation / recipe.val_stride(len(data.val))
    return partial(
        recipe.work,
        side=full,
        cost=costs.__getitem__,
        validation=validation,
        early_validation=early,
        ends=plan.ends,
    )


def _lr_from_range_test(
    job: Job, recorder: tracking.RunRecorder, terminal: Terminal, out: reports.Folder
) -> float:
    with terminal.progress("range test for the learning rate") as update:
        curve = find_lr(
            job.recipe,
            job.data,
            job.hardware,
            seed=job.plan.seed,
            on_step=lambda step, lr, loss: update(step, STEPS),
        )
    path = out.figure("lr_range_test", figures.lr_range_test(curve))
    out.report("lr_range_test.json", to_json(replace(curve, figure=out.name(path))))
    recorder.log_reports(out.written)
    lr = choose(curve.rules, curve.rule)
    terminal.say(f"learning rate {lr:.3g}, the range test's {curve.rule}")
    return lr


def report(training: Training, recorder: tracking.RunRecorder, terminal: Terminal) -> None:
    """Everything that a run shows beside its metrics, from the best weights."""
    with terminal.busy("drawing the figures and exporting the model"):
        result, job, out = training.result, training.job, training.out
        lrs = read_rates(training.checkpoints / "last.ckpt")
        reports.report_training(result, job.data, job.recipe, lrs, out)
        out.report("fit.json", to_json(result))
        subject = Subject(load_checkpoint(training.checkpoints / "best.ckpt"), job.data.val, result.run_id)
        predictions = subject.predictions(device=job.hardware.device)
        reports.report_evaluation(subject, predictions, out)
        mistakes = reports.report_mistakes(subject, predictions, out).mistakes[: reports.FIGURE_IMAGES]
        chosen = reports.chosen_by_index(job.data.val, [m.index for m in mistakes], predictions)
        try:
            if mistakes:
                reports.report_cams(subject, out, chosen, device=job.hardware.device)
        except Exception as error:  # whatever a new network does to the maps, its training is done and counts
            Stopped.heed()
            terminal.warn(f"no class activation maps: {error}")
        recorder.log_reports(out.written)
        exported = recorder.folder / "model"
        try:
            tracking.save_model(subject.checkpoint.network.cpu(), subject.story.preprocessing, exported)
        except Exception as error:  # likewise
            Stopped.heed()
            terminal.warn(f"no exported model: {str(error).strip().splitlines()[0]}")
        else:
            recorder.log_folder(exported, "model")


def log_datasets(recorder: tracking.RunRecorder, data: Data) -> None:
    for images, context in ((data.train, "training"), (data.val, "validation")):
        recorder.log_dataset(f"{images.name} {images.split}", images.fingerprint, context)
