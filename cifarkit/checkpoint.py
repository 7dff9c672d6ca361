"""Checkpoints: a trained network and the story of its training, read back without executing anything.

`training.checkpoint_files` writes them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from cifarkit.augment.policies import find_policy, mirrors
from cifarkit.errors import CheckpointError, CifarkitError, OtherVersion, UsageError
from cifarkit.models import MODELS, allow_tta, build_model
from cifarkit.pipeline import Preprocessing
from cifarkit.recipes import Plan, Recipe
from cifarkit.results import EpochRow, reaches
from cifarkit.untrusted import check_plain, check_types

KEY = "cifarkit"
RATES = "learning_rates"
VAL_LOGITS = "val_logits"
FORMAT = 7
# A file that asks for more is refused before it gets the memory.
MAX_CHANNELS, MAX_SIDE, MAX_CLASSES = 4, 4096, 100_000
# More logits of validation are not kept: 8 MB.
MAX_LOGITS = 2_000_000


@dataclass(frozen=True)
class Story:
    """Everything beside the weights that is needed to evaluate, explain, resume or serve them.

    Attributes:
        dataset: name, or ``folder:PATH``.
        fingerprint, val_fingerprint: of the training and validation images (`ImageSet.fingerprint`).
        image_size: side that folder images were resized to.
        val_split, val_size: what validation numbers come from; the plan's seed draws what is held out.
        plan: its recipe is resolved, to the precision that was trained in.
        tta: whether the last validation looked again where the network was unsure.
        rows: epochs done so far.
    """

    dataset: str
    fingerprint: str
    val_fingerprint: str
    plan: Plan
    preprocessing: Preprocessing
    val_split: str
    val_size: int
    image_size: int
    tta: bool = False
    rows: tuple[EpochRow, ...] = ()

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe

    def is_complete(self) -> bool:
        """Whether all epochs are done, or the target was reached."""
        reached = any(reaches(row, self.plan.target_acc) for row in self.rows)
        return reached or len(self.rows) >= self.plan.ends[-1]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        network: in evaluation mode, on the CPU.
        val_logits: what these weights said about every image of their validation, float32 (N, classes); None
            where nobody has kept it.
    """

    path: Path
    story: Story
    network: nn.Module
    val_logits: Tensor | None = None


def read_story(path: Path) -> tuple[Story, dict[str, Any]]:
    """The story and the whole content of a checkpoint file, without building the network.

    Raises:
        CheckpointError: missing, damaged, or not written by cifarkit.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        # torch does not look at the checksums (CRC-32) that its archives have of every part.
        with zipfile.ZipFile(path) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise zipfile.BadZipFile("packed, which torch never does")  # to any size
            if (part := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of {part} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes the reader stumble over
        first = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        reason = shorten(first, 100, placeholder=" …")
        raise CheckpointError(f"{path} is damaged or not a checkpoint ({reason})") from error
    if not isinstance(content, dict) or KEY not in content:
        raise CheckpointError(f"{path} was not written by cifarkit")
    try:
        check_plain(content[KEY])
        record = dict(content[KEY])
        if record.pop("format") != FORMAT:
            raise OtherVersion(f"{path} was written by another version of cifarkit")
        preprocessing = dict(record.pop("preprocessing"))
        side = int(preprocessing.pop("side"))
        rows: Sequence[dict[str, Any]] = record.pop("rows")
        story = Story(
            plan=Plan.from_settings(record.pop("plan")),
            preprocessing=Preprocessing(
                side=side, **{key: tuple(value) for key, value in preprocessing.items()}
            ),
            rows=tuple(EpochRow(**row) for row in rows),
            **record,
        )
        parts: tuple[Any, ...] = (story, story.preprocessing, *story.rows)
        for part in parts:
            check_types(part)
        _check_size(story.preprocessing)
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError, UsageError) as error:
        reason = shorten(str(error), 100, placeholder=" …")
        raise CheckpointError(f"{path} lacks part of its record, or has a wrong one ({reason})") from error
    return story, content


def _check_size(preprocessing: Preprocessing) -> None:
    """Before a network is built for it; raises ValueError."""
    channels, height, width = preprocessing.image_shape
    if not (1 <= channels <= MAX_CHANNELS and 1 <= height == width <= MAX_SIDE):
        raise ValueError(f"images of {channels}x{height}x{width}")
    if not 1 <= preprocessing.side <= height:
        raise ValueError(f"images of {height} pixels shown at {preprocessing.side}")
    if not 1 <= len(preprocessing.classes) <= MAX_CLASSES:
        raise ValueError(f"{len(preprocessing.classes)} classes")


def read_rates(path: Path) -> list[list[list[float]]]:
    """The learning rates that led to a checkpoint, by epoch, step and parameter group.

    Raises:
        CheckpointError: as `read_story`.
    """
    _, content = read_story(path)
    try:
        rates: list[list[list[float]]] = [epoch.tolist() for epoch in content[RATES]]
    except (TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} lacks its learning rates") from error
    return rates


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and rebuild its network.

    Raises:
        CheckpointError: missing, damaged, not written by cifarkit, or weights that do not fit.
    """
    story, content = read_story(path)
    shape = story.preprocessing.image_shape
    model = story.recipe.model
    if model not in MODELS:
        raise CheckpointError(
            f"{path.name} holds weights of {model!r}, not a model of this command's; ask the program that "
            "added it to the table"
        )
    try:
        network = build_model(model, shape, len(story.preprocessing.classes))
        allow_tta(network, story.tta and mirrors(find_policy(story.recipe.policy)))
        weights = {
            name.removeprefix("network."): value
            for name, value in content["state_dict"].items()
            if name.startswith("network.")
        }
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, KeyError, AttributeError, CifarkitError) as error:
        raise CheckpointError(
            f"the weights in {path} do not fit their model ({str(error).splitlines()[0]})"
        ) from error
    network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    logits = content.get(VAL_LOGITS)
    if logits is not None and not _are_logits(logits, len(story.preprocessing.classes)):
        raise CheckpointError(f"{path} has a wrong record of its validation")
    return Checkpoint(path, story, network, logits)


def _are_logits(value: object, classes: int) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype == torch.float32
        and value.ndim == 2
        and value.shape[1] == classes
        and value.numel() <= MAX_LOGITS
        and value.is_contiguous()
        and not value.requires_grad
        and bool(value.isfinite().all())
    )
