from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifarkit.analysis.evaluate import CALIBRATION_BINS, calibration_bins, evaluate, top_k
from cifarkit.analysis.predictions import Predictions
from cifarkit.results import Evaluation, to_json


@pytest.fixture
def scores(six: Predictions) -> Evaluation:
    return evaluate(six, dataset="letters", split="test", model="m", run_id="r")


def test_what_was_measured_is_said(scores: Evaluation) -> None:
    assert (scores.dataset, scores.split, scores.model, scores.run_id) == ("letters", "test", "m", "r")
    assert scores.samples == 6
    assert scores.tta is False


def test_top1_and_top5(scores: Evaluation) -> None:
    assert scores.top1 == 3 / 6
    assert scores.top5 == 1.0  # of three classes


def test_the_interval_is_wilsons(scores: Evaluation) -> None:
    # Wilson 1927, by hand: (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) at p = 1/2, n = 6
    reach = 1.959964 / math.sqrt(6 + 1.959964**2) / 2
    assert (scores.top1_low, scores.top1_high) == pytest.approx((0.5 - reach, 0.5 + reach), abs=1e-6)


def test_confusion_has_the_true_class_in_rows(scores: Evaluation) -> None:
    assert scores.confusion == ((1, 1, 0), (0, 1, 1), (0, 1, 1))


def test_per_class_scores(scores: Evaluation) -> None:
    a, b, c = scores.per_class
    assert [score.name for score in scores.per_class] == ["a", "b", "c"]
    assert [score.support for score in scores.per_class] == [2, 2, 2]
    assert (a.precision, a.recall) == (1.0, 0.5)
    assert (b.precision, b.recall) == (pytest.approx(1 / 3), 0.5)
    assert (c.precision, c.recall) == (0.5, 0.5)
    assert [s.f1 for s in scores.per_class] == pytest.approx([2 / 3, 0.4, 0.5])


def test_loss_is_the_mean_cross_entropy(scores: Evaluation) -> None:
    assert scores.loss == pytest.approx(-np.log([0.9, 0.2, 0.8, 0.3, 0.05, 0.5]).mean())


def test_calibration_error_by_hand(scores: Evaluation) -> None:
    # Bins are 1/15 wide: 0.9 twice in one (one right), all others alone.
    gaps = [2 * abs(1 / 2 - 0.9), abs(0 - 0.7), abs(1 - 0.8), abs(0 - 0.6), abs(1 - 0.5)]
    assert scores.ece == pytest.approx(sum(gaps) / 6)


def test_it_turns_into_json(scores: Evaluation) -> None:
    assert '"top1": 0.5' in to_json(scores)


def test_what_is_a_share_of_nothing_is_no_score(make: Any) -> None:
    """Of four classes one is right, one is never predicted, one has no images, one is neither."""
    probabilities = [[0.6, 0.4, 0.0, 0.0], [0.3, 0.2, 0.5, 0.0]]
    scores = evaluate(make(probabilities, [0, 1]), dataset="d", split="test", model="m")
    told = json.loads(to_json(scores))["per_class"]
    assert [(c["support"], c["precision"], c["recall"], c["f1"]) for c in told] == [
        (1, 1.0, 1.0, 1.0),
        (1, None, 0.0, 0.0),
        (0, 0.0, None, 0.0),
        (0, None, None, None),
    ]
    assert scores.confusion[3] == (0, 0, 0, 0)


def test_everything_right(make: Any) -> None:
    scores = evaluate(make(np.eye(4).tolist(), [0, 1, 2, 3]), dataset="d", split="test", model="m")
    assert (scores.top1, scores.top5, scores.ece) == (1.0, 1.0, 0.0)
    assert scores.loss == 0.0


def test_a_probability_of_0_gives_a_large_but_finite_loss(make: Any) -> None:
    scores = evaluate(make([[1.0, 0.0]], [1]), dataset="d", split="test", model="m")
    assert 700 < scores.loss < math.inf


# -- top k ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "k"), [(4, 1), (2, 2), (0, 3), (5, 4), (1, 5), (3, 6)])
def test_top_k_counts_from_the_most_probable(make: Any, label: int, k: int) -> None:
    predictions = make([[0.20, 0.05, 0.25, 0.02, 0.40, 0.08]], [label])
    assert [top_k(predictions, count) for count in (k - 1, k) if count] == ([1.0] if k == 1 else [0.0, 1.0])


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_top5_of_five_classes_or_fewer_is_everything(make: Any, classes: int) -> None:
    assert top_k(make(np.eye(classes).tolist(), [classes - 1] * classes), 5) == 1.0


# -- calibration ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(data=st.data(), count=st.integers(1, 60), classes=st.integers(2, 6))
def test_bins_hold_every_prediction_exactly_once(data: st.DataObject, count: int, classes: int) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    probabilities = random.dirichlet(np.full(classes, 0.3), count)
    predictions = Predictions(
        probabilities, random.integers(0, classes, count), np.arange(count), tuple("abcdef"[:classes])
    )
    bins = calibration_bins(predictions)
    right = predictions.predicted == predictions.labels
    assert len(bins) == CALIBRATION_BINS
    assert sum(b.samples for b in bins) == count
    assert sum(b.samples * b.accuracy for b in bins) == pytest.approx(right.sum())
    assert sum(b.samples * b.confidence for b in bins) == pytest.approx(predictions.confidence.sum())
    assert all(b.lower <= b.confidence <= b.upper + 1e-12 for b in bins if b.samples)
    scores = evaluate(predictions, dataset="d", split="test", model="m")
    assert 0 <= scores.ece <= 1
    assert sum(map(sum, scores.confusion)) == count


@pytest.mark.parametrize("edge", range(1, CALIBRATION_BINS + 1))
def test_an_edge_belongs_to_the_bin_below(make: Any, edge: int) -> None:
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = calibration_bins(make([[edges[edge], 0.0]], [0]))
    assert [i for i, b in enumerate(bins) if b.samples] == [edge - 1]


def test_bins_are_equal_and_cover_0_to_1(six: Predictions) -> None:
    bins = calibration_bins(six)
    assert (bins[0].lower, bins[-1].upper) == (0.0, 1.0)
    assert all(a.upper == b.lower for a, b in pairwise(bins))
    assert [b.upper - b.lower for b in bins] == pytest.approx([1 / 15] * 15)
