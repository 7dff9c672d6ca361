from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cifarkit.analysis import SORTS
from cifarkit.analysis.misclassified import find_mistakes, to_csv
from cifarkit.analysis.predictions import Predictions
from cifarkit.errors import UnknownName
from cifarkit.results import Mistake


@pytest.mark.parametrize(
    ("sort", "expected"),
    [("confidence", [60, 10, 20]), ("loss", [60, 10, 20]), ("index", [10, 20, 60])],
)
def test_order(six: Predictions, sort: str, expected: list[int]) -> None:
    assert [m.index for m in find_mistakes(six, sort=sort)] == expected


def test_loss_and_confidence_can_disagree(make: Any) -> None:
    rows = [[0.55, 0.44, 0.01], [0.51, 0.48, 0.01], [0.5, 0.4, 0.1]]
    predictions = make(rows, [1, 1, 2])
    assert [m.index for m in find_mistakes(predictions, sort="confidence")] == [0, 1, 2]
    assert [m.index for m in find_mistakes(predictions, sort="loss")] == [2, 0, 1]


def test_equals_keep_their_order(make: Any) -> None:
    predictions = make([[0.8, 0.2]] * 4, [1, 1, 1, 1], indices=[7, 3, 9, 1])
    assert [m.index for m in find_mistakes(predictions)] == [7, 3, 9, 1]


def test_a_mistake_is_complete(six: Predictions) -> None:
    (mistake,) = find_mistakes(six, true_class="b")
    assert (mistake.index, mistake.true_class, mistake.pred_class) == (20, "b", "c")
    assert (mistake.confidence, mistake.true_confidence) == (0.6, 0.3)
    assert mistake.loss == pytest.approx(1.2039728043)


@pytest.mark.parametrize(
    ("true_class", "pred_class", "expected"),
    [("a", None, [10]), (None, "b", [60, 10]), ("c", "b", [60]), ("a", "c", []), ("a", "a", [])],
)
def test_filters(
    six: Predictions, true_class: str | None, pred_class: str | None, expected: list[int]
) -> None:
    found = find_mistakes(six, true_class=true_class, pred_class=pred_class)
    assert [m.index for m in found] == expected


def test_nothing_wrong(make: Any) -> None:
    assert find_mistakes(make([[0.9, 0.1]], [0])) == ()


def test_unknown_names(six: Predictions) -> None:
    with pytest.raises(UnknownName, match="unknown sort order 'los': did you mean loss"):
        find_mistakes(six, sort="los")
    with pytest.raises(UnknownName, match="unknown class 'd': valid: a, b, c"):
        find_mistakes(six, true_class="d")
    with pytest.raises(UnknownName, match="unknown class 'e'"):
        find_mistakes(six, pred_class="e")


@pytest.mark.parametrize("sort", SORTS)
def test_csv_reads_back_as_the_same_mistakes(six: Predictions, sort: str) -> None:
    mistakes = find_mistakes(six, sort=sort)
    rows = list(csv.DictReader(io.StringIO(to_csv(mistakes), newline="")))
    again = tuple(
        Mistake(
            int(r["index"]), r["true_class"], r["pred_class"], float(r["confidence"]),
            float(r["true_confidence"]), float(r["loss"]), r["file"] or None,
        )
        for r in rows
    )  # fmt: skip
    assert again == mistakes


def test_mistakes_of_image_files_name_them(six: Predictions) -> None:
    files = np.array([f"{name}.png" for name in "uvwxyz"])
    found = find_mistakes(replace(six, files=files), sort="index")
    assert [(m.index, m.file) for m in found] == [(10, "v.png"), (20, "x.png"), (60, "y.png")]
    assert [row["file"] for row in csv.DictReader(io.StringIO(to_csv(found), newline=""))] == [
        "v.png",
        "x.png",
        "y.png",
    ]


def test_csv_quotes_class_names() -> None:
    name = 'a "quoted", name\nof two lines'
    text = to_csv([Mistake(1, name, "T-shirt/top", 0.5, 0.25, 1.0)])
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert (row["true_class"], row["pred_class"]) == (name, "T-shirt/top")


def test_csv_of_nothing_is_its_header() -> None:
    assert to_csv([]).strip() == "index,true_class,pred_class,confidence,true_confidence,loss,file"
