"""The run that `fit --resume` goes on with, and how far it has come."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cifarkit import tracking
from cifarkit.checkpoint import Story, read_story
from cifarkit.console import Terminal, percent, plural
from cifarkit.errors import CheckpointError, OtherVersion, Stopped, UsageError
from cifarkit.recipes import PATIENCE
from cifarkit.results import EpochRow, merit
from cifarkit.sessions.request import FINGERPRINT, VAL_FINGERPRINT, FitRequest, record, recorded
from cifarkit.subjects import checkpoint_of_run
from cifarkit.tracking.processes import describe
from cifarkit.training.data import Data
from cifarkit.training.hardware import Hardware
from cifarkit.training.module import WITHIN_EPOCH


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A run to go on with.

    Attributes:
        training: what shapes it, or the first seed's (`request.record`).
        has_params: whether its parameters are recorded.
        fingerprints: of its images, or the first seed's: those to train on and those to validate on; None
            where it has not recorded them.
    """

    run_id: str
    training: dict[str, Any]
    has_params: bool
    fingerprints: tuple[str | None, str | None]

    def check_images(self, data: Data) -> None:
        """That these are the images it was begun with.

        Raises:
            CheckpointError: they are not.
        """
        data.check_fingerprints(f"run {self.run_id[:8]}", *self.fingerprints)


@dataclass(frozen=True, kw_only=True)
class Resumed(Begun):
    """A run of one seed to go on with.

    Attributes:
        hardware: what it ran on so far (`Hardware.describe`).
        story: of its last checkpoint; None where it ended before its first.
        steps_done: of the epoch within which that was saved.
        checkpoint: that file, with ``best.ckpt`` beside it.
    """

    status: str
    hardware: str
    story: Story | None = None
    steps_done: int = 0
    checkpoint: Path | None = None

    @property
    def rows(self) -> Sequence[EpochRow]:
        return self.story.rows if self.story else ()

    def tell(self, hardware: Hardware, terminal: Terminal) -> None:
        """Where it goes on, and whether that is on other hardware."""
        terminal.say(self.describe())
        if self.hardware != hardware.describe():
            terminal.say(f"so far it ran on {self.hardware}: here, rounding will differ")

    def describe(self) -> str:
        """Where it goes on, for people."""
        if self.story is None:
            return "no whole epoch was kept: training from the beginning"
        epochs = len(self.rows)
        done = [f"epoch {epochs}"] if epochs else []
        if self.steps_done:
            done.append(f"{plural(self.steps_done, 'step')} of epoch {epochs + 1}")
        return f"going on after {' and '.join(done)}"


@dataclass(frozen=True, kw_only=True)
class Repeated(Begun):
    """A run of several seeds to go on with.

    Attributes:
        runs: how many seeds it was to have.
        command: that began it.
        children: run ids of those that have begun, by seed.
        experiment, name: where it is, and how it is called but for the number of its seeds.
    """

    runs: int
    command: str
    children: dict[int, str]
    experiment: str
    name: str


def find_interrupted(reference: str, experiment: str, client: Any, terminal: Terminal) -> Any:
    """The run to go on with, by an id, a prefix or ``last``; whole as of `_whole`.

    Raises:
        RunNotFound, TrackingError: there is none.
        UsageError: another process is at work on it.
    """
    return _whole(tracking.find_run(client, reference, experiment, unfinished=True), client, terminal)


def _whole(run: Any, client: Any, terminal: Terminal) -> Any:
    """The run once everything is recorded that a process has left behind which is gone.

    Raises:
        UsageError: another process is at work on it.
    """
    run_id = run.info.run_id
    if tracking.is_alive(run):
        process = describe(run.data.tags[tracking.PROCESS])
        raise UsageError(f"run {run_id[:8]} is still being trained (process {process})")
    for journal in tracking.left_behind():
        if journal.header["run_id"] == run_id:
            for problem in tracking.sync(journal)[1]:
                terminal.warn(f"not recorded: {problem}")
    return client.get_run(run_id)  # which may have had its end among that


def find_repeated(run: Any, client: Any, request: FitRequest) -> Repeated | None:
    """What is there of an interrupted run of several seeds; None where it is none.

    Raises:
        UsageError: another process is at work on one of its seeds, it is finished, or another target is
            asked for than the seeds have in common.
    """
    tags = run.data.tags
    if tracking.RUNS not in tags or tracking.PLAN not in tags:
        return None
    if run.info.status == "FINISHED":
        raise UsageError(f"this run is finished: all of its {tags[tracking.RUNS]} seeds are trained")
    training = recorded(run)
    for name in ("target_acc", "max_epochs"):
        if getattr(request.plan, name) not in (None, training["plan"][name]):
            raise UsageError("--target-acc and --max-epochs cannot change in a run of several seeds")
    children = {}
    for child in tracking.find_children(client, run):
        if tracking.PLAN not in child.data.tags:  # not one of ours
            continue
        if tracking.is_alive(child):
            raise UsageError(f"run {child.info.run_id[:8]}, one of its seeds, is still being trained")
        children[recorded(child)["plan"]["seed"]] = child.info.run_id
    runs = int(tags[tracking.RUNS])
    return Repeated(
        **_begun(run, training),
        runs=runs,
        command=tags[tracking.COMMAND],
        children=children,
        experiment=client.get_experiment(run.info.experiment_id).name,
        name=run.info.run_name.removesuffix(f"-{runs}-seeds"),
    )


def _begun(run: Any, training: dict[str, Any]) -> dict[str, Any]:
    """What makes a `Begun` of a run."""
    return {
        "run_id": run.info.run_id,
        "training": training,
        "has_params": bool(run.data.params),
        "fingerprints": (run.data.tags.get(FINGERPRINT), run.data.tags.get(VAL_FINGERPRINT)),
    }


def find_child(run_id: str, client: Any, folder: Path, terminal: Terminal) -> Resumed:
    """The run of one of several seeds; errors as of `restore`, and where another process is at work on it."""
    return restore(_whole(client.get_run(run_id), client, terminal), client, folder, terminal)


def restore(run: Any, client: Any, folder: Path, terminal: Terminal) -> Resumed:
    """An interrupted run, its checkpoints copied into ``folder``.

    A damaged ``last.ckpt`` gives way to the one before it; without any, the training begins anew.

    Raises:
        CheckpointError: there is nothing to go on with.
    """
    run_id = run.info.run_id
    known = {"status": run.info.status, "hardware": run.data.tags.get("hardware", "")}
    there = {Path(str(file.path)).stem for file in client.list_artifacts(run_id, "checkpoints")}
    damaged: CheckpointError | None = None
    for name in ("last", "previous"):
        if name not in there:
            continue
        path = checkpoint_of_run(client, run, folder, name)
        try:
            story, content = read_story(path)
        except OtherVersion:
            raise
        except CheckpointError as error:
            Stopped.heed()
            damaged = damaged or error
            terminal.warn(f"the {name} checkpoint of run {run_id[:8]} is damaged")
            continue
        if story.rows:
            _add_best(client, run, path, folder, there, terminal)
        within = content.get(WITHIN_EPOCH)
        steps_done = within.get("steps_done", 0) if isinstance(within, dict) else 0
        training = record(story.dataset, story.image_size, story.val_size, story.plan)
        return Resumed(**_begun(run, training), **known, story=story, steps_done=steps_done, checkpoint=path)
    if tracking.PLAN not in run.data.tags or "best" in there:
        raise damaged or CheckpointError(f"run {run_id[:8]} holds no checkpoint to go on with")
    return Resumed(**_begun(run, recorded(run)), **known)


def _add_best(client: Any, run: Any, latest: Path, folder: Path, there: set[str], terminal: Terminal) -> None:
    """Puts the best checkpoint beside the latest; the latest stands in for one that cannot be read."""
    best = latest.with_name("best.ckpt")
    try:
        if "best" not in there:
            raise CheckpointError("it is not there")
        read_story(checkpoint_of_run(client, run, folder, "best"))
    except CheckpointError:
        Stopped.heed()
        terminal.warn("the best checkpoint is damaged; the latest one stands in for it until a better epoch")
        shutil.copyfile(latest, best)


def as_it_was(request: FitRequest, resumed: Resumed) -> FitRequest:
    """The request with everything that shapes the training taken from the run that goes on, but for a
    target or a limit of epochs that is asked for now.

    Raises:
        UsageError: there is nothing left to do, less is asked for than was planned, or a limit without a
            target.
    """
    asked, request = request.plan, request.as_recorded(resumed.training)
    was = request.plan
    planned = was.recipe.epochs
    target_acc = asked.target_acc or was.target_acc
    if asked.max_epochs is not None and target_acc is None:
        raise UsageError("--max-epochs goes with a target, and this run has none; give --target-acc, too")
    if asked.max_epochs is not None and asked.max_epochs < planned:
        raise UsageError(f"this run was planned for {plural(planned, 'epoch')}; --max-epochs cannot be less")
    max_epochs = asked.max_epochs or was.max_epochs
    if was.target_acc is None and target_acc is not None:
        max_epochs = max_epochs or PATIENCE * planned
    plan = replace(was, target_acc=target_acc, max_epochs=max_epochs)
    if resumed.story is not None and resumed.status == "FINISHED":
        story = replace(resumed.story, plan=plan)
        if story.is_complete():
            best = max(story.rows, key=merit).val_acc
            raise UsageError(
                f"this run is finished: {len(story.rows)} of {plan.ends[-1]} epochs, "
                f"best accuracy {percent(best)}; with a higher --target-acc and --max-epochs it would go on"
            )
    return replace(request, plan=plan)
