"""A trained network and the images it is asked about, from a checkpoint file or out of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cifarkit import tracking
from cifarkit.analysis import gradcam
from cifarkit.analysis.misclassified import class_index
from cifarkit.analysis.predictions import Predictions, predict
from cifarkit.augment.policies import find_policy, mirrors
from cifarkit.checkpoint import Checkpoint, Story, load_checkpoint
from cifarkit.data.datasets import find_dataset
from cifarkit.data.image_set import ImageSet
from cifarkit.data.loading import load_split
from cifarkit.errors import CheckpointError, UsageError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Subject:
    """A trained network and the images it is asked about.

    Attributes:
        data: one split of a data set; None where it is asked about image files.
        note_look: notes that the images are measured on, and tells `results.Evaluation.test_looks`.
    """

    checkpoint: Checkpoint
    data: ImageSet | None
    run_id: str | None = None
    note_look: Callable[[], int | None] = lambda: None

    @property
    def story(self) -> Story:
        return self.checkpoint.story

    @property
    def images(self) -> ImageSet:
        assert self.data is not None
        return self.data

    @property
    def label(self) -> str:
        images = f"{self.data.short_name} {self.data.split}, " if self.data else ""
        return f"{images}{self.story.recipe.model}"

    @property
    def variant(self) -> tuple[str, ...]:
        """How these images differ from those of the run's own reports: data set, split, or not at all."""
        if self.data is None:
            return ()
        another = (self.data.name,) if self.data.name != self.story.dataset else ()
        return another if self.data.split == self.story.val_split else (*another, self.data.split)

    def predictions(self, *, device: str = "cpu", on_batch: Progress = lambda d, t: None) -> Predictions:
        """What the network says about the images; of those it was validated on, what it said then."""
        said = self.checkpoint.val_logits
        if said is None or self.images.fingerprint != self.story.val_fingerprint:
            return self.predict(device=device, on_batch=on_batch)
        if len(said) != len(self.images):
            raise CheckpointError(f"{self.checkpoint.path} has a wrong record of its validation")
        return Predictions.of(said, self.images)

    def predict(
        self, *, tta: bool = False, device: str = "cpu", on_batch: Progress = lambda d, t: None
    ) -> Predictions:
        """What the network says about the images now; arguments as of `analysis.predictions.predict`."""
        return predict(
            self.checkpoint.network,
            self.images,
            self.story.preprocessing,
            tta=tta,
            mirror=mirrors(find_policy(self.story.recipe.policy)),
            device=torch.device(device),
            on_batch=on_batch,
        )


def open_subject(
    path: Path,
    data_dir: Path,
    *,
    split: str | None = None,
    dataset: str | None = None,
    run_id: str | None = None,
    files: bool = False,
) -> Subject:
    """A checkpoint with the images of one split.

    Args:
        split: ``train``, ``val`` or ``test``; None takes the split its validation numbers come from, of
            another data set the test split.
        dataset: None takes the one it was trained on.
        files: it will be asked about image files; no data set is read.

    Raises:
        CheckpointError: damaged, the data set has other classes or other image shapes, or its images are
            no longer those of the training.
    """
    checkpoint = load_checkpoint(path)
    if files:
        return Subject(checkpoint, None, run_id)
    story = checkpoint.story
    source = find_dataset(dataset or story.dataset, story.image_size)
    split = split or (story.val_split if source.name == story.dataset else "test")
    images = load_split(source, data_dir, split, story.val_size, story.plan.seed)
    trained = story.preprocessing
    name = f"run {run_id[:8]}" if run_id else str(path)
    if images.classes != trained.classes or images.image_shape != trained.image_shape:
        renamed = [
            f"{o!r} for {n!r}" for o, n in zip(images.classes, trained.classes, strict=False) if o != n
        ]
        raise CheckpointError(
            f"{name} was trained on {story.dataset} ({len(trained.classes)} classes, "
            f"{_shape(trained.image_shape)}), not on {source.name} ({len(images.classes)} classes, "
            f"{_shape(images.image_shape)}{f'; {renamed[0]}' if renamed else ''})"
        )
    # Images that moved from one split to another would be measured although they were trained on.
    known = {"train": story.fingerprint, story.val_split: story.val_fingerprint}
    # Held-out images of other data may be among those it was trained on.
    by_right = dataset is None or images.split == "val"
    if by_right and known.get(images.split, "") not in ("", images.fingerprint):
        remedy = f"; to measure it on them all the same, say --dataset {story.dataset}"
        raise CheckpointError(
            f"the {images.split} images of {source.name} are not those that {name} was trained with"
            + (remedy if images.split == "test" else "")
        )
    return Subject(checkpoint, images, run_id)


def _shape(image_shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, image_shape))


def positions(images: ImageSet, indices: Sequence[int]) -> list[int]:
    """Where the images with these published indices are.

    Raises:
        UsageError: an index is not in the split.
    """
    where = {int(index): at for at, index in enumerate(images.indices)}
    missing = [str(index) for index in indices if index not in where]
    if missing:
        raise UsageError(
            f"no image {', '.join(missing)} in the {images.split} split of {images.name}: its "
            f"{len(images):,} images have numbers from {images.indices.min()} to {images.indices.max()}"
        )
    return [where[index] for index in indices]


def checkpoint_of_run(client: Any, run: Any, folder: Path, name: str = "best") -> Path:
    """A run's checkpoint, copied into ``folder``.

    Raises:
        TrackingError: the run holds none.
    """
    return tracking.fetch_artifact(client, run.info.run_id, f"checkpoints/{name}.ckpt", folder)


# -- checks that cost nothing, before what takes long ---------------------------------------------


def check_classes(subject: Subject, true_class: str | None, pred_class: str | None) -> None:
    """Raises: UnknownName."""
    for name in (true_class, pred_class):
        if name is not None:
            class_index(subject.story.preprocessing.classes, name)


def check_layer(subject: Subject, layer: str | None) -> None:
    """Raises: UnknownName, UsageError."""
    preprocessing = subject.story.preprocessing
    one = torch.zeros(1, preprocessing.image_shape[0], preprocessing.side, preprocessing.side)
    gradcam.find_layer(subject.checkpoint.network, one, layer)
