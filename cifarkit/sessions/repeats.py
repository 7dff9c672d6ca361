"""`fit --runs N`: the same training from N seeds in one process, as one run with children in MLflow."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from cifarkit import figures, reports, tracking
from cifarkit.console import Terminal, duration, percent, plural
from cifarkit.data.loading import Splits
from cifarkit.errors import Stopped, UsageError
from cifarkit.intervals import spread
from cifarkit.results import Evidence, FitResult, FitRuns, read_fit, to_json
from cifarkit.scratch import scratch
from cifarkit.sessions.fit import Training, log_datasets, open_run, prepare, report, train
from cifarkit.sessions.request import FitRequest, Job
from cifarkit.sessions.resuming import Repeated, find_child
from cifarkit.training.data import Data
from cifarkit.training.fit import fit


def run_fits(
    request: FitRequest,
    runs: int,
    terminal: Terminal,
    *,
    splits: Splits | None = None,
    repeated: Repeated | None = None,
) -> FitRuns:
    """Train with ``runs`` consecutive seeds from the request's on, and tell how far they differ.

    Every training is a child run with its parameters, metrics and checkpoints. The parent holds the
    statistics and, of the best one, the weights, figures and model: it can be asked like any other run.

    Args:
        splits: the images, where they have been read already.
        repeated: go on with this run, as it was planned: with the seed that was interrupted and those after.

    Raises:
        UsageError: several devices; errors otherwise as of `fit.run_fit`.
    """
    if repeated:
        request, runs = request.as_recorded(repeated.training), repeated.runs
        request = replace(request, experiment=repeated.experiment, run_name=repeated.name)
    request, hardware = request.named(), request.hardware()
    if hardware.world_size > 1:
        raise UsageError("--runs works on one device; give --gpus 1")
    parent = tracking.RunRecorder(
        request.tracking_uri, request.experiment, f"{request.run_name}-{runs}-seeds"
    )
    with tracking.recording(parent, terminal.alert):
        check_images = repeated.check_images if repeated else None
        job = prepare(request, hardware, terminal, splits, check_images)
        resume = repeated.run_id if repeated else None
        run_id = open_run(job, parent, terminal, resume, **{tracking.RUNS: str(runs)})
        if not repeated:
            log_datasets(parent, job.data)
        if hardware.device == "cuda":
            with terminal.busy("warming up the GPU"):
                _warm_up(job)
        try:
            return _train_all(job, runs, parent, terminal, repeated)
        except (Stopped, KeyboardInterrupt):
            terminal.say(f"go on with `{request.resuming(run_id)}`")
            raise


def _train_all(
    job: Job, runs: int, parent: tracking.RunRecorder, terminal: Terminal, repeated: Repeated | None
) -> FitRuns:
    """The trainings, and what they come to; the parent has been started."""
    first = job.plan.seed
    trainings: list[Training] = []
    for seed in range(first, first + runs):
        terminal.say(f"seed {seed}, {seed - first + 1} of {runs}")
        name = f"{job.request.run_name}-seed{seed}"
        own = replace(job.request, plan=replace(job.plan, seed=seed), run_name=name)
        begun = repeated.children.get(seed) if repeated else None
        trainings.append(_child(replace(job, request=own), parent, terminal, begun))
        # A range test is made once.
        job = job.with_plan(job.plan.with_recipe(lr=trainings[-1].job.recipe.lr))
    if not (repeated and repeated.has_params):
        seeds = f"{first}-{first + runs - 1}"
        parent.log_params(job.params() | {"seed": seeds, "runs": runs})
    best = max(trainings, key=lambda training: training.result.best_val_acc)
    command = repeated.command if repeated else tracking.command_line()
    summary = summarise([training.result for training in trainings], job.hardware.device, command)
    summary = replace(summary, run_id=parent.run_id, best_run_id=best.result.run_id)
    parent.log_metrics(_metrics(summary))
    parent.log_artifact(best.checkpoints / "best.ckpt", "checkpoints")
    out = reports.Folder(parent.folder / "report", parent.run_id)
    out.report("runs.json", to_json(summary))
    out.figure("seeds", figures.seeds(summary))
    report(replace(best, job=_with_its_images(best.job), out=out), parent, terminal)
    return summary


def _with_its_images(job: Job) -> Job:
    """The job with the splits of its seed, from which follows which images are held out, where any are."""
    if job.request.val_size == 0:
        return job
    return replace(job, data=Data.of(job.request.source, job.request.read()))


def _child(job: Job, parent: tracking.RunRecorder, terminal: Terminal, begun: str | None) -> Training:
    """The training of one seed, or the rest of it; ``begun`` is the run that holds what was done before."""
    request = job.request
    kept = parent.folder / f"seed{request.plan.seed}"
    resumed = None
    if begun:
        with terminal.busy("looking up what has been trained"):
            resumed = find_child(begun, parent.client, kept, terminal)
        request = request.as_recorded(resumed.training)
        job = replace(job, request=request)
    if resumed and resumed.checkpoint and resumed.status == "FINISHED":
        # What it came to then, where it was.
        told = tracking.fetch_artifact(parent.client, resumed.run_id, "reports/fit.json", kept)
        checkpoints = resumed.checkpoint.parent
        if resumed.checkpoint.name != "last.ckpt":  # that one is damaged
            shutil.copyfile(resumed.checkpoint, checkpoints / "last.ckpt")
        out = reports.Folder(kept / "report", resumed.run_id)
        training = Training(read_fit(told.read_text("utf-8")), job, checkpoints, out)
    else:
        shown = _with_its_images(job)
        if resumed:  # before the run is RUNNING again
            resumed.check_images(shown.data)
        recorder = tracking.RunRecorder(request.tracking_uri, request.experiment, request.run_name)
        with tracking.recording(recorder, terminal.alert):
            recorder.start(shown.tags() | {tracking.PARENT: parent.run_id}, resume=begun)
            if resumed:
                resumed.tell(job.hardware, terminal)
            training = train(shown, recorder, terminal, resumed)
            training.out.report("fit.json", to_json(training.result))
            recorder.log_reports(training.out.written)
            # The child's folder goes with its end; the parent reports from the best one's weights.
            ended = shutil.copytree(training.checkpoints, kept / "ended", dirs_exist_ok=True)
            # Nor are its images kept beside those of all other seeds.
            trained = job.with_plan(training.job.plan)
            training = replace(training, job=trained, checkpoints=ended)
    result = training.result
    terminal.say(
        f"{result.val_split} accuracy {percent(result.last_val_acc)} after "
        f"{plural(result.epochs, 'epoch')}, {duration(result.train_seconds)} of training"
    )
    return training


def _warm_up(job: Job) -> None:
    """One epoch for nothing, at all sizes of images: the first training of a process compiles kernels."""
    plan = job.plan.with_recipe(epochs=1, lr=job.recipe.lr or 1e-3, keep_hardest=(1.0,))
    with scratch() as folder:
        fit(replace(plan, target_acc=None, workers=None), job.data, job.hardware, Path(folder))


def summarise(fits: Sequence[FitResult], device: str, command: str) -> FitRuns:
    """What trainings that differ in their seeds came to, of at least one.

    Args:
        device: ``cpu`` or ``cuda``.
        command: by which they were made.
    """
    first = fits[0]
    to_target = [fit.time_to_target_seconds for fit in fits if fit.time_to_target_seconds is not None]
    accuracy = spread([fit.last_val_acc for fit in fits], most=1.0)
    train_seconds = spread([fit.train_seconds for fit in fits])
    return FitRuns(
        run_id=None,
        date=date.today().isoformat(),
        versions=tracking.versions(),
        seeds=tuple(fit.seed for fit in fits),
        accuracy=accuracy,
        train_seconds=train_seconds,
        time_to_target_seconds=spread(to_target) if to_target else None,
        targets_reached=None if first.target_acc is None else len(to_target),
        best_run_id=None,
        evidence=Evidence(
            dataset=first.dataset,
            accuracy_mean=accuracy.mean,
            accuracy_std=accuracy.std,
            runs=len(fits),
            epochs=max(fit.epochs for fit in fits),
            train_seconds=train_seconds.mean,
            hardware=first.device,
            command=command,
            device=device,
        ),
        fits=tuple(fits),
    )


def _metrics(summary: FitRuns) -> dict[str, float | None]:
    metrics: dict[str, float | None] = {
        "best_val_acc": max(fit.best_val_acc for fit in summary.fits),
        "targets_reached": summary.targets_reached,
    }
    for name in ("accuracy", "train_seconds", "time_to_target_seconds"):
        values = getattr(summary, name)
        if values:
            metrics |= {f"{name}_mean": values.mean, f"{name}_std": values.std}
            metrics |= {f"{name}_low": values.low, f"{name}_high": values.high}
    return metrics
