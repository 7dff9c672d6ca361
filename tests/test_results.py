from __future__ import annotations

import dataclasses
import inspect
import json
import math

import pytest

from cifarkit import results
from cifarkit.results import EpochRow, LayerRow, LrCurve, ModelTable, merit, reaches, to_dict, to_json

RECORDS = [
    record for _, record in inspect.getmembers(results, inspect.isclass) if dataclasses.is_dataclass(record)
]


def row(**changes: float) -> EpochRow:
    whole = EpochRow(
        epoch=1, train_loss=1.5, train_acc=0.5, val_loss=1.0, val_acc=0.75, val_split="val", image_side=32,
        lr=0.1, images_per_second=100.0, waiting_share=0.1, epoch_seconds=2.0, train_seconds=2.5,
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("record", RECORDS)
def test_records_are_frozen(record: type) -> None:
    assert record.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.mark.parametrize("record", RECORDS)
def test_names_say_their_units(record: type) -> None:
    for field in dataclasses.fields(record):
        assert not field.name.endswith(("_sec", "_secs", "_s", "_ms", "_mb", "_kb", "_percent", "_pct"))


def test_json_is_the_record() -> None:
    assert json.loads(to_json(row())) == dataclasses.asdict(row())


def test_nested_records_become_lists_and_dicts() -> None:
    table = ModelTable(
        model="m", input_shape=(3, 32, 32), classes=10, parameters=1, trainable_parameters=1, size_bytes=4,
        flops=2, rows=(LayerRow("a", "Conv2d", 1, (2, 3)), LayerRow("b", "ReLU", 0, None)),
    )  # fmt: skip
    plain = to_dict(table)
    assert plain["input_shape"] == [3, 32, 32]
    assert plain["rows"] == [
        {"name": "a", "type": "Conv2d", "parameters": 1, "output_shape": [2, 3]},
        {"name": "b", "type": "ReLU", "parameters": 0, "output_shape": None},
    ]


def test_of_equal_accuracies_the_lower_loss_is_better() -> None:
    worse, better, best = (
        row(val_acc=0.8, val_loss=0.1),
        row(val_acc=0.9, val_loss=2.0),
        row(val_acc=0.9, val_loss=0.5),
    )
    assert sorted([best, worse, better], key=merit) == [worse, better, best]


def test_all_images_count_more_than_a_sample() -> None:
    sampled, whole = row(val_acc=0.95, val_sampled=True), row(val_acc=0.9)
    assert max([sampled, whole], key=merit) is whole
    assert [reaches(sampled, 0.9), reaches(whole, 0.9), reaches(whole, 0.91), reaches(whole, None)] == [
        False, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_is_null(value: float) -> None:
    text = to_json(row(train_loss=value))
    assert json.loads(text, parse_constant=pytest.fail)["train_loss"] is None


def test_no_number_is_found_at_any_depth() -> None:
    curve = LrCurve(
        dataset="d", model="m", optimizer="o", lrs=(0.1,), losses=(math.nan,), smoothed=(math.inf,),
        rules={"steepest": math.nan, "valley": None}, rule="steepest", suggestion=0.1, diverged=True,
    )  # fmt: skip
    plain = json.loads(to_json(curve), parse_constant=pytest.fail)
    assert (plain["losses"], plain["smoothed"]) == ([None], [None])
    assert plain["rules"] == {"steepest": None, "valley": None}


def test_booleans_and_integers_stay_what_they_are() -> None:
    plain = to_dict(row())
    assert plain["epoch"] == 1
    assert isinstance(plain["epoch"], int)
    curve = LrCurve("d", "m", "o", (), (), (), {}, "steepest", 0.1, True)
    assert to_dict(curve)["diverged"] is True
