"""The mistakes among predictions, filtered and sorted."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence

import numpy as np

from cifarkit.analysis import SORTS
from cifarkit.analysis.predictions import Predictions
from cifarkit.errors import UnknownName
from cifarkit.results import Mistake


def find_mistakes(
    predictions: Predictions,
    *,
    sort: str = "confidence",
    true_class: str | None = None,
    pred_class: str | None = None,
) -> tuple[Mistake, ...]:
    """Misclassified images: the most confident or costliest first, or by index.

    Raises:
        UnknownName: no such sort or class.
    """
    if sort not in SORTS:
        raise UnknownName("sort order", sort, SORTS)
    predicted, confidence, losses = predictions.predicted, predictions.confidence, predictions.losses
    wanted = predicted != predictions.labels
    if true_class is not None:
        wanted &= predictions.labels == class_index(predictions.classes, true_class)
    if pred_class is not None:
        wanted &= predicted == class_index(predictions.classes, pred_class)
    at = np.flatnonzero(wanted)
    keys = {"confidence": -confidence[at], "loss": -losses[at], "index": predictions.indices[at]}
    at = at[np.argsort(keys[sort], kind="stable")]
    return tuple(
        Mistake(
            index=int(predictions.indices[i]),
            true_class=predictions.classes[predictions.labels[i]],
            pred_class=predictions.classes[predicted[i]],
            confidence=float(confidence[i]),
            true_confidence=float(predictions.probabilities[i, predictions.labels[i]]),
            loss=float(losses[i]),
            file=None if predictions.files is None else str(predictions.files[i]),
        )
        for i in at
    )


def class_index(classes: Sequence[str], name: str) -> int:
    """Raises: UnknownName."""
    if name not in classes:
        raise UnknownName("class", name, classes)
    return list(classes).index(name)


def to_csv(mistakes: Sequence[Mistake]) -> str:
    """One line per mistake under a header of the field names."""
    names = [field.name for field in dataclasses.fields(Mistake)]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(dataclasses.asdict(mistake) for mistake in mistakes)
    return text.getvalue()
