"""Train as planned: for a number of epochs or to a target accuracy."""

from __future__ import annotations

import gc
import logging
import resource
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from cifarkit.augment.policies import find_policy
from cifarkit.augment.randomness import mix
from cifarkit.checkpoint import Story, read_rates, read_story
from cifarkit.errors import CheckpointError, Terminated, UsageError
from cifarkit.intervals import accuracy_interval
from cifarkit.pipeline import DeviceLoader, epoch_order, eval_loader, train_loader
from cifarkit.recipes import Plan
from cifarkit.results import EpochRow, FitResult, merit, reaches
from cifarkit.training.callbacks import DivergenceGuard, Observer, Reporter, StopOnSignal
from cifarkit.training.checkpoint_files import CheckpointFiles, StoryKeeper
from cifarkit.training.data import Data, build_network
from cifarkit.training.hardware import Hardware, reuse_freed_memory
from cifarkit.training.module import Classifier


def fit(
    plan: Plan,
    data: Data,
    hardware: Hardware,
    folder: Path,
    *,
    resume: Path | None = None,
    observers: Sequence[Observer] = (),
) -> FitResult:
    """Train; write ``best.ckpt`` and ``last.ckpt`` into ``folder`` after every epoch.

    Args:
        plan: its recipe's learning rate is a number; the hardware says in which precision it is trained.
        resume: a ``last.ckpt`` to continue, with the ``best.ckpt`` beside it; the training goes on with
            the step after it.
        observers: told of steps and epochs on this thread.

    Raises:
        UsageError: the batch is larger than the data, the images too small for the model, or ``compile``
            fails, as it does without a C++ compiler.
        CheckpointError: ``resume`` is damaged or belongs to other data.
        DivergedError: the loss is no longer a number, or beyond all bounds.
        Interrupted, Terminated: a signal came; ``last.ckpt`` in ``folder`` holds the step that was done last.
    """
    plan = plan.with_recipe(precision=hardware.precision)
    recipe, seed = plan.recipe, plan.seed
    if recipe.batch_size % hardware.world_size:
        raise UsageError(f"the batch size must be a multiple of the {hardware.world_size} devices")
    reuse_freed_memory()
    torch.manual_seed(mix(seed) % 2**63)
    story = Story(
        dataset=data.name,
        fingerprint=data.train.fingerprint,
        val_fingerprint=data.val.fingerprint,
        plan=plan,
        preprocessing=data.preprocessing,
        val_split=data.val.split,
        val_size=data.val_size,
        image_size=data.image_size,
    )
    if resume:
        earlier, _ = read_story(resume)
        if earlier.recipe.model != recipe.model:
            raise CheckpointError(f"{resume} holds a {earlier.recipe.model}, not a {recipe.model}")
        data.check_fingerprints(str(resume), earlier.fingerprint, earlier.val_fingerprint)
        story = replace(story, rows=earlier.rows)
        for name in ("best.ckpt", "last.ckpt"):
            kept = resume if name == "last.ckpt" else resume.with_name(name)
            if kept.is_file() and kept.parent != folder:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(kept, folder / name)
        if story.is_complete():  # stopped between its last epoch and its end
            return _result(plan, data, hardware, story.rows, folder)
    network = build_network(recipe, data)
    keeper = StoryKeeper(story, read_rates(resume) if resume else ())
    files = CheckpointFiles(folder, behind=hardware.device == "cuda" and hardware.world_size == 1)
    stop = StopOnSignal(observers, files)
    reporter = Reporter(keeper, observers, files, val_split=data.val.split, target_acc=plan.target_acc)
    with _quiet_lightning(), stop.listening():
        trainer = pl.Trainer(
            accelerator="gpu" if hardware.device == "cuda" else "cpu",
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            strategy="ddp" if hardware.world_size > 1 else "auto",
            precision="bf16-mixed" if hardware.precision == "bf16" else "32-true",
            max_epochs=plan.ends[-1],
            deterministic=plan.deterministic,
            callbacks=[DivergenceGuard(), reporter, keeper, stop],
            plugins=[files],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        device = trainer.strategy.root_device
        place = {"rank": trainer.global_rank, "world_size": hardware.world_size}
        batches = train_loader(
            data.train,
            find_policy(recipe.policy),
            data.preprocessing,
            batch_size=recipe.batch_size // hardware.world_size,
            seed=seed,
            device=device,
            workers=plan.workers,
            epoch=len(story.rows),
            kept_in=recipe.kept_in,
            **place,
        )
        order = epoch_order(batches)
        module = Classifier(
            network,
            recipe,
            order=order,
            ends=[sum(map(order.steps_in, range(end))) for end in plan.ends],
            side=data.preprocessing.image_shape[1],
            seed=seed,
            val_images=len(data.val),
            target_acc=plan.target_acc,
            compile=plan.compile,
            # Several devices exchange gradients within the passes; workers are slower than any GPU anyway.
            replay=device.type == "cuda" and hardware.world_size == 1 and isinstance(batches, DeviceLoader),
        )
        try:
            trainer.fit(
                module,
                batches,
                eval_loader(data.val, data.preprocessing, device=device, **place),
                ckpt_path=resume,
                weights_only=True,
            )
        except SIGTERMException:  # Lightning has a handler of its own, which may come first
            raise stop.received or Terminated("terminated") from None
        except RuntimeError as error:
            if stop.received:  # which the workers that load images got as well, and died of
                raise stop.received from error
            if plan.compile and isinstance(error, torch._dynamo.exc.TorchDynamoException):
                why = str(error).strip().partition("\n")[0]
                raise UsageError(f"--compile fails here ({why}); leave it out") from error
            raise
        finally:
            files.close()
            if device.type == "cuda":
                gc.collect()  # records of passes hold much of its memory
    if stop.received:  # after the last epoch of all
        raise stop.received
    return _result(plan, data, hardware, reporter.rows, folder)


def _result(plan: Plan, data: Data, hardware: Hardware, rows: Sequence[EpochRow], folder: Path) -> FitResult:
    recipe, target_acc = plan.recipe, plan.target_acc
    best = max(rows, key=merit)
    low, high = accuracy_interval(best.val_acc, len(data.val))
    reached = [row for row in rows if reaches(row, target_acc)]
    return FitResult(
        run_id=None,
        dataset=data.name,
        model=recipe.model,
        recipe=recipe.name,
        seed=plan.seed,
        device=hardware.describe(),
        precision=recipe.precision,
        val_split=data.val.split,
        planned_epochs=recipe.epochs,
        epochs=len(rows),
        best_epoch=best.epoch,
        best_val_acc=best.val_acc,
        best_val_acc_low=low,
        best_val_acc_high=high,
        last_val_acc=rows[-1].val_acc,
        target_acc=target_acc,
        target_reached=None if target_acc is None else bool(reached),
        time_to_target_seconds=reached[0].train_seconds if reached else None,
        train_seconds=rows[-1].train_seconds,
        peak_memory_bytes=peak_memory_bytes(),
        best_checkpoint=str(folder / "best.ckpt"),
        last_checkpoint=str(folder / "last.ckpt"),
        rows=tuple(rows),
    )


def peak_memory_bytes() -> int:
    """The largest resident size this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's own messages go: what matters is said by the observers, once."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_utilities)\b.*")
            warnings.filterwarnings("ignore", message=r".*(isinstance\(treespec|LeafSpec).*")
            yield
    finally:
        logger.setLevel(level)
