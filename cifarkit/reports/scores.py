"""What the predictions of a split come to: scores and mistakes."""

from __future__ import annotations

from cifarkit import figures
from cifarkit.analysis import SORTS
from cifarkit.analysis.evaluate import evaluate
from cifarkit.analysis.misclassified import find_mistakes, to_csv
from cifarkit.analysis.predictions import Predictions
from cifarkit.reports.folder import FIGURE_IMAGES, Folder, first, named
from cifarkit.results import Evaluation, Misclassified, to_json
from cifarkit.subjects import Subject, positions


def report_evaluation(
    subject: Subject, predictions: Predictions, out: Folder, *, tta: bool = False
) -> Evaluation:
    """Scores, with the confusion matrix, calibration and per-class figures."""
    scores = evaluate(
        predictions,
        dataset=subject.images.name,
        split=subject.images.split,
        model=subject.story.recipe.model,
        tta=tta,
        run_id=subject.run_id,
        test_looks=subject.note_look(),
    )
    variant = (*subject.variant, "tta" if tta else None)
    out.figure(named("confusion_matrix", *variant), figures.confusion_matrix(scores))
    out.figure(named("calibration", *variant), figures.calibration(scores))
    out.figure(named("per_class", *variant), figures.per_class(scores))
    out.report(named("evaluation", *variant) + ".json", to_json(scores))
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
    subject.note_look()
    mistakes = find_mistakes(predictions, sort=sort, true_class=true_class, pred_class=pred_class)
    shown = mistakes[:limit]
    total = int((predictions.predicted != predictions.labels).sum())
    asked = [f"{kind} {name}" for kind, name in (("true", true_class), ("predicted", pred_class)) if name]
    which = f" ({', '.join(asked)})" if asked else ""
    of = f"{len(mistakes):,} of {len(subject.images):,} misclassified{which}"
    some = f", {len(shown)} shown" if len(shown) < len(mistakes) else ""
    title = f"{subject.label}: {of}{some}, {SORTS[sort]}"
    images = subject.images.images[positions(subject.images, [m.index for m in shown])]
    order = f"by-{sort}" if sort != "confidence" else None
    name = named("misclassified", *subject.variant, *asked, order, first(limit))
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
