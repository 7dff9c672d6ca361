"""Records with their figures and files: what a run holds under ``figures/`` and ``reports/``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cifarkit import figures
from cifarkit.analysis import gradcam
from cifarkit.analysis.evaluate import evaluate
from cifarkit.analysis.misclassified import find_mistakes, to_csv
from cifarkit.analysis.predictions import Predictions
from cifarkit.augment.batched import Batched
from cifarkit.augment.policies import find_policy
from cifarkit.data.folder import read_image
from cifarkit.data.image_set import ImageSet
from cifarkit.pipeline import Preprocessing, as_tensors
from cifarkit.recipes import Recipe
from cifarkit.results import CamResult, CamRow, Evaluation, FitResult, Misclassified, to_dict, to_json
from cifarkit.subjects import Progress, Subject, positions
from cifarkit.tracking import place
from cifarkit.training.data import Data

FIGURE_IMAGES = 20


@dataclass(frozen=True)
class Folder:
    """Where figures and reports go.

    Attributes:
        run_id: a run that takes the place of this folder, where that is a temporary one.
        written: what has been written so far, whole files only.
    """

    root: Path
    run_id: str | None = None
    written: list[Path] = field(default_factory=list)

    def name(self, path: Path) -> str:
        """What a record calls a file of this folder: its path, or its place in the run."""
        return f"runs:/{self.run_id}/{place(path)}/{path.name}" if self.run_id else str(path)

    def figure(self, name: str, drawn: Any) -> Path:
        self.written.append(figures.save(drawn, self.root / f"{name}.png"))
        return self.written[-1]

    def report(self, name: str, text: str) -> Path:
        scratch = self.root / f".{name}.tmp"
        self.root.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text, encoding="utf-8", newline="")
        self.written.append(scratch.replace(self.root / name))
        return self.written[-1]


def _named(stem: str, *variant: str | None) -> str:
    """A file name that says how a report differs from the run's own one, which it must not replace."""
    parts = (re.sub(r"[^\w.+-]+", "-", part).strip("-") for part in variant if part)
    return "_".join((stem, *parts))


def report_evaluation(
    subject: Subject, predictions: Predictions, out: Folder, *, tta: bool = False
) -> Evaluation:
    """Scores, with the confusion matrix, calibration and per-class figures."""
    scores = evaluate(
        predictions,
        dataset=subject.images.name,
        split=subject.images.split,
        model=subject.story.settings["model"],
        tta=tta,
        run_id=subject.run_id,
    )
    variant = (*subject.variant, "tta" if tta else None)
    out.figure(_named("confusion_matrix", *variant), figures.confusion_matrix(scores))
    out.figure(_named("calibration", *variant), figures.calibration(scores))
    out.figure(_named("per_class", *variant), figures.per_class(scores))
    out.report(_named("evaluation", *variant) + ".json", to_json(scores))
    return scores


def report_mistakes(
    subject: Subject,
    predictions: Predictions,
    out: Folder,
    *,
    sort: str = "confidence",
    true_class: str | None = None,
    pred_class: str | None = None,
    limit: int = FIGURE_IMAGES,
) -> Misclassified:
    """The mistakes as figure (the first ``limit``), CSV and JSON (all of them).

    Raises:
        UnknownName: no such class or sort order.
    """
    mistakes = find_mistakes(predictions, sort=sort, true_class=true_class, pred_class=pred_class)
    shown = mistakes[:limit]
    total = int((predictions.predicted != predictions.labels).sum())
    asked = [f"{kind} {name}" for kind, name in (("true", true_class), ("predicted", pred_class)) if name]
    of = f"{len(mistakes)} misclassified ({', '.join(asked)})" if asked else f"{total} misclassified"
    title = f"{len(shown)} of {of}: {subject.label}"
    images = subject.images.images[positions(subject.images, [m.index for m in shown])]
    order = f"by-{sort}" if sort != "confidence" else None
    name = _named("misclassified", *subject.variant, *asked, order)
    figure = out.figure(name, figures.misclassified(images, shown, title))
    result = Misclassified(
        run_id=subject.run_id,
        dataset=subject.images.name,
        split=subject.images.split,
        samples=len(subject.images),
        total_mistakes=total,
        shown=len(shown),
        figure=out.name(figure),
        csv=out.name(out.report(f"{name}.csv", to_csv(mistakes))),
        json=out.name(out.root / f"{name}.json"),
        mistakes=mistakes,
    )
    out.report(f"{name}.json", to_json(result))
    return result


@dataclass(frozen=True)
class Chosen:
    """Images to explain.

    Attributes:
        pixels: uint8 (N, H, W, C).
        sources: what to call each: its index or its file.
        labels: true class of each, None where nobody knows.
        kind: which they are, where not the surest mistakes: ``correct``, ``chosen`` or empty.
    """

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    sources: tuple[str, ...]
    labels: tuple[int | None, ...]
    kind: str = ""


def choose_images(
    subject: Subject,
    *,
    files: Sequence[Path] = (),
    indices: Sequence[int] = (),
    correct: bool = False,
    limit: int = FIGURE_IMAGES,
    device: str = "cpu",
    on_batch: Progress = lambda done, of: None,
) -> Chosen:
    """Image files, images by published index, or the surest of the mistakes (or of the correct).

    Raises:
        DataError: a file is not a readable image.
        UsageError: an index is not in the split.
    """
    if files:
        return _from_files(subject, files)
    if indices:
        return replace(chosen_by_index(subject.images, indices), kind="chosen")
    predictions = subject.predict(device=device, on_batch=on_batch)
    wanted = (predictions.predicted == predictions.labels) == correct
    at = np.flatnonzero(wanted)
    at = at[np.argsort(-predictions.confidence[at], kind="stable")][:limit]
    chosen = chosen_by_index(subject.images, [int(i) for i in predictions.indices[at]])
    return replace(chosen, kind="correct" if correct else "")


def chosen_by_index(images: ImageSet, indices: Sequence[int]) -> Chosen:
    """Raises: UsageError."""
    some = images.take(positions(images, indices))
    return Chosen(some.images, tuple(f"#{i}" for i in indices), tuple(int(label) for label in some.labels))


def _from_files(subject: Subject, files: Sequence[Path]) -> Chosen:
    channels, height, _ = subject.story.preprocessing.image_shape
    pixels = np.stack([read_image(path, height) for path in files])
    if channels == 1:
        # The usual weights of luma, as everywhere else here.
        pixels = (pixels @ np.array([0.299, 0.587, 0.114]))[..., None].round().astype(np.uint8)
    return Chosen(pixels, tuple(path.name for path in files), (None,) * len(files))


def report_cams(
    subject: Subject,
    out: Folder,
    chosen: Chosen,
    *,
    method: str = "gradcam",
    layer: str | None = None,
    device: str = "cpu",
) -> CamResult:
    """Maps of the evidence for the predicted and the true class of some images, as one figure.

    Raises:
        UnknownName: no such method or layer.
        UsageError: the layer has no map.
    """
    story, network = subject.story, subject.checkpoint.network.to(device)
    classes = story.preprocessing.classes
    images = story.preprocessing(torch.from_numpy(chosen.pixels).permute(0, 3, 1, 2).to(device))
    layer_name, module, map_size = gradcam.find_layer(network, images, layer)
    with torch.no_grad():
        probabilities = network(images).double().softmax(1).cpu().numpy()
    predicted = [int(i) for i in probabilities.argmax(1)]
    wrong = {
        i: label
        for i, (p, label) in enumerate(zip(predicted, chosen.labels, strict=True))
        if label not in (None, p)
    }
    of_predicted = gradcam.class_maps(network, module, images, predicted, method)
    of_true = gradcam.class_maps(network, module, images[list(wrong)], list(wrong.values()), method)
    true_maps = dict(zip(wrong, of_true, strict=True))
    rows, panels = [], []
    for i, (source, label) in enumerate(zip(chosen.sources, chosen.labels, strict=True)):
        kinds = {"predicted": (predicted[i], of_predicted[i])}
        if i in wrong:
            kinds["true"] = (wrong[i], true_maps[i])
        flaws = {kind: gradcam.flaw(cam) for kind, (_, cam) in kinds.items()}
        rows.append(
            CamRow(
                source=source,
                true_class=None if label is None else classes[label],
                pred_class=classes[predicted[i]],
                confidence=float(probabilities[i, predicted[i]]),
                flags=tuple(f"{kind}: {reason}" for kind, reason in flaws.items() if reason),
            )
        )
        panels.append(
            [
                (f"{classes[c]} {100 * probabilities[i, c]:.0f}%", None if flaws[kind] else cam)
                for kind, (c, cam) in kinds.items()
            ]
        )
    size = f"{map_size[0]}x{map_size[1]}"
    title = f"{method} at {layer_name} ({size} map): {subject.label}"
    name = _named("gradcam", *subject.variant, chosen.kind, method if method != "gradcam" else None, layer)
    figure = out.figure(name, figures.cam_grid(chosen.pixels, panels, rows, title))
    result = CamResult(
        run_id=subject.run_id,
        dataset=subject.data.name if subject.data else None,
        split=subject.data.split if subject.data else None,
        method=method,
        layer=layer_name,
        map_size=map_size,
        figure=out.name(figure),
        images=tuple(rows),
    )
    out.report(f"{name}.json", to_json(result))
    return result


def preview_figure(
    images: ImageSet,
    preprocessing: Preprocessing,
    policy: str,
    *,
    seed: int,
    count: int,
    rows: int,
    stages: bool,
) -> tuple[tuple[int, ...], Any]:
    """The figure of raw and augmented images (or of every op's effect), and which images it shows.

    The images are spread evenly over the split; the augmentation is the one that training with this
    seed would draw in its first epochs.
    """
    at = np.linspace(0, len(images) - 1, min(count, len(images))).astype(np.int64)
    some = images.take(at)
    pixels, _ = as_tensors(some)
    augment = Batched(find_policy(policy), preprocessing.mean, preprocessing.std, seed)
    indices = torch.from_numpy(at)
    titles = [images.classes[label] for label in some.labels]
    title = f"{images.name} {images.split}, policy {policy}"

    def shown(batch: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return figures.denormalize(batch.numpy(), preprocessing.mean, preprocessing.std)

    drawn: Any
    if stages:
        steps = [(repr(op), shown(batch)) for op, batch in augment.stages(pixels, indices, 0)]
        drawn = figures.stages([("raw", some.images), *steps], titles, title)
    else:
        epochs = [shown(augment(pixels, indices, epoch)) for epoch in range(rows)]
        drawn = figures.preview(some.images, epochs, titles, title)
    return tuple(int(i) for i in some.indices), drawn


def report_training(
    result: FitResult, data: Data, recipe: Recipe, lrs: Sequence[Sequence[float]], out: Folder
) -> None:
    """The figures of a training itself: examples, augmentation, schedule, curves; its history as JSON."""
    title = f"{result.dataset}, {result.recipe}, seed {result.seed}"
    out.figure("curves", figures.training_curves(result.rows, result.target_acc, title))
    steps = max(1, len(data.train) // recipe.batch_size)
    # A resumed training knows the rates of its own steps only.
    unknown = [(math.nan,) * len(lrs[0])] * (result.epochs * steps - len(lrs)) if lrs else []
    lrs = [*unknown, *lrs]
    groups = {f"group {i}": [step[i] for step in lrs] for i in range(len(lrs[0]))} if lrs else {}
    series: Any = groups if len(groups) > 1 else next(iter(groups.values()), [])
    if lrs:
        out.figure("learning_rate", figures.lr_schedule(series, steps, title))
    first = data.train.take(range(min(40, len(data.train))))
    titles = [first.classes[label] for label in first.labels]
    out.figure("examples", figures.image_grid(first.images, titles, suptitle=f"{data.name} train"))
    _, drawn = preview_figure(
        data.train, data.preprocessing, recipe.policy, seed=result.seed, count=8, rows=5, stages=False
    )
    out.figure("augmentation", drawn)
    out.report("history.json", json.dumps([to_dict(row) for row in result.rows], indent=2))
