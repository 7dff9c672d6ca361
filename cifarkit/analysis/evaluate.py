"""Scores of predictions: accuracy, per class, confusion, calibration."""

from __future__ import annotations

import numpy as np

from cifarkit.analysis.predictions import Predictions
from cifarkit.intervals import accuracy_interval
from cifarkit.results import CalibrationBin, ClassScore, Evaluation

CALIBRATION_BINS = 15


def evaluate(
    predictions: Predictions,
    *,
    dataset: str,
    split: str,
    model: str,
    tta: bool = False,
    run_id: str | None = None,
    test_looks: int | None = None,
) -> Evaluation:
    """Every score of one set of predictions."""
    # Not before: it takes half a second, and a training does not wait for its scores.
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    labels, predicted = predictions.labels, predictions.predicted
    names = list(range(len(predictions.classes)))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=names, zero_division=np.nan
    )
    bins = calibration_bins(predictions)
    top1 = float((predicted == labels).mean())
    low, high = accuracy_interval(top1, len(labels))
    return Evaluation(
        run_id=run_id,
        dataset=dataset,
        split=split,
        model=model,
        tta=tta,
        samples=len(labels),
        top1=top1,
        top1_low=low,
        top1_high=high,
        top5=top_k(predictions, 5),
        loss=float(predictions.losses.mean()),
        ece=sum(b.samples * abs(b.accuracy - b.confidence) for b in bins) / len(labels),
        test_looks=test_looks,
        per_class=tuple(
            ClassScore(name, int(support[i]), float(precision[i]), float(recall[i]), float(f1[i]))
            for i, name in enumerate(predictions.classes)
        ),
        confusion=tuple(tuple(map(int, row)) for row in confusion_matrix(labels, predicted, labels=names)),
        calibration=bins,
    )


def top_k(predictions: Predictions, k: int) -> float:
    """Share of images whose true class is among the ``k`` most probable (1.0 when there are no more)."""
    best = np.argsort(-predictions.probabilities, axis=1, kind="stable")[:, :k]
    return float((best == predictions.labels[:, None]).any(axis=1).mean())


def calibration_bins(predictions: Predictions) -> tuple[CalibrationBin, ...]:
    """Confidence against accuracy in equal bins of (0, 1] (Guo et al. 2017, arXiv 1706.04599)."""
    confidence = predictions.confidence
    right = predictions.predicted == predictions.labels
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, CALIBRATION_BINS - 1)
    bins = []
    for i in range(CALIBRATION_BINS):
        inside = place == i
        count = int(inside.sum())
        bins.append(
            CalibrationBin(
                lower=float(edges[i]),
                upper=float(edges[i + 1]),
                samples=count,
                confidence=float(confidence[inside].mean()) if count else 0.0,
                accuracy=float(right[inside].mean()) if count else 0.0,
            )
        )
    return tuple(bins)
