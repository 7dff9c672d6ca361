"""Class activation maps over chosen images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cifarkit import figures
from cifarkit.analysis import CLASSLESS, gradcam
from cifarkit.analysis.predictions import Predictions
from cifarkit.data.folder import read_image
from cifarkit.data.image_set import ImageSet
from cifarkit.reports.folder import FIGURE_IMAGES, Folder, first, named
from cifarkit.results import CamResult, CamRow, to_json
from cifarkit.subjects import Progress, Subject, positions


@dataclass(frozen=True)
class Chosen:
    """Images to explain.

    Attributes:
        pixels: uint8 (N, H, W, C).
        sources: what to call each: its index or its file.
        labels: true class of each, None where nobody knows.
        probabilities: float64 (N, classes), what the network says; None where it has not been asked.
        kind: which they are, for the name of a file: ``correct``, how many, all their numbers or files; empty
            for as many of the surest mistakes as a figure has.
    """

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    sources: tuple[str, ...]
    labels: tuple[int | None, ...]
    probabilities: np.ndarray[Any, np.dtype[np.float64]] | None = None
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
        chosen = chosen_by_index(subject.images, list(dict.fromkeys(indices)))
        return replace(chosen, kind=f"images {' '.join(chosen.sources)}")
    predictions = subject.predictions(device=device, on_batch=on_batch)
    wanted = (predictions.predicted == predictions.labels) == correct
    at = np.flatnonzero(wanted)
    at = at[np.argsort(-predictions.confidence[at], kind="stable")][:limit]
    chosen = chosen_by_index(subject.images, [int(i) for i in predictions.indices[at]], predictions)
    kind = filter(None, ("correct" if correct else None, first(limit)))
    return replace(chosen, kind=" ".join(kind))


def chosen_by_index(
    images: ImageSet, indices: Sequence[int], predictions: Predictions | None = None
) -> Chosen:
    """Images by published index, with what is known of the network's word on the whole split.

    Raises:
        UsageError: an index is not in the split.
    """
    at = positions(images, indices)
    some = images.take(at)
    return Chosen(
        some.images,
        tuple(f"#{i}" for i in indices),
        tuple(int(label) for label in some.labels),
        None if predictions is None else predictions.probabilities[at],
    )


def _from_files(subject: Subject, files: Sequence[Path]) -> Chosen:
    channels, height, _ = subject.story.preprocessing.image_shape
    pixels = np.stack([read_image(path, height) for path in files])
    if channels == 1:
        # The usual weights of luma, as everywhere else here.
        pixels = (pixels @ np.array([0.299, 0.587, 0.114]))[..., None].round().astype(np.uint8)
    sources = tuple(path.name for path in files)
    named = " ".join(str(path).replace(".", "-") for path in files)  # photo.png.png looks odd
    return Chosen(pixels, sources, (None,) * len(files), kind=f"files {named}")


def report_cams(
    subject: Subject,
    out: Folder,
    chosen: Chosen,
    *,
    method: str = "gradcam",
    layer: str | None = None,
    device: str = "cpu",
) -> CamResult:
    """Maps of the evidence for the predicted and the true class of some images, as one figure; of a method
    that knows no classes one map for both.

    Raises:
        UnknownName: no such method or layer.
        UsageError: the layer has no map.
    """
    subject.note_look()
    story, network = subject.story, subject.checkpoint.network.to(device)
    classes = story.preprocessing.classes
    images = story.preprocessing(torch.from_numpy(chosen.pixels).permute(0, 3, 1, 2).to(device))
    layer_name, module, map_size = gradcam.find_layer(network, images, layer)
    probabilities = chosen.probabilities
    if probabilities is None:
        with torch.no_grad():
            probabilities = network(images).double().softmax(1).cpu().numpy()
    predicted = [int(i) for i in probabilities.argmax(1)]
    wrong = {
        i: label
        for i, (p, label) in enumerate(zip(predicted, chosen.labels, strict=True))
        if label not in (None, p) and method not in CLASSLESS
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
                (f"{classes[c]} ({100 * probabilities[i, c]:.0f}%)", None if flaws[kind] else cam)
                for kind, (c, cam) in kinds.items()
            ]
        )
    size = f"{map_size[0]}x{map_size[1]}"
    which = ", correct" if chosen.kind.startswith("correct") else ""
    classless = " (the same map for every class)" if method in CLASSLESS else ""
    title = f"{method} at {layer_name} ({size} map): {subject.label}{which}{classless}"
    name = named("gradcam", *subject.variant, chosen.kind, method if method != "gradcam" else None, layer)
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
