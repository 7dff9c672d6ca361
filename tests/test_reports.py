from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from cifarkit.data.datasets import DATASETS
from cifarkit.data.loading import load_split
from cifarkit.figures.canvas import new_figure
from cifarkit.models import build_model
from cifarkit.reports import Folder, report_cams
from cifarkit.reports import cams as reports_cams
from cifarkit.reports.cams import Chosen
from cifarkit.reports.folder import named
from cifarkit.reports.training import _across_classes
from cifarkit.training.data import preprocessing_for


def test_pictures_take_turns_among_the_classes() -> None:
    labels = np.array([2, 2, 0, 2, 1, 0, 2])
    assert _across_classes(labels, 4).tolist() == [2, 4, 0, 5]
    assert _across_classes(labels, 100).tolist() == [2, 4, 0, 5, 1, 3, 6]
    assert _across_classes(labels[:0], 3).tolist() == []


def test_names_of_files_stay_short_and_plain() -> None:
    assert named("gradcam", None, "images 3, 17", "", "gradcam++") == "gradcam_images-3-17_gradcam++"
    long = [named("gradcam", 300 * "a" + end, 300 * "字") for end in "bc"]
    assert all(len(name.encode()) < 200 for name in long)
    assert long[0] != long[1]


@pytest.mark.parametrize(("method", "drawn"), [("eigencam", {1}), ("layercam", {1, 2})])
def test_a_method_that_knows_no_classes_draws_one_map(
    method: str, drawn: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panels: list[list[object]] = []

    def cam_grid(pixels: object, given: list[list[object]], *more: object) -> Figure:
        panels.extend(given)
        return new_figure(1, 1)

    monkeypatch.setattr(reports_cams.figures, "cam_grid", cam_grid)
    digits = load_split(DATASETS["digits"], Path("unused"), "test").take(range(6))
    torch.manual_seed(0)
    network = build_model("small-cnn", (1, 8, 8), 10).eval()
    preprocessing = preprocessing_for(digits, (0.3,), (0.4,))
    story = SimpleNamespace(preprocessing=preprocessing, settings={"model": "small-cnn"}, dataset="digits")
    subject: Any = SimpleNamespace(
        story=story,
        checkpoint=SimpleNamespace(network=network),
        data=digits,
        label="",
        variant=(),
        run_id=None,
        note_look=lambda: None,
    )
    with torch.no_grad():
        predicted = network(preprocessing(torch.from_numpy(digits.images).permute(0, 3, 1, 2))).argmax(1)
    predicted[:3] = (predicted[:3] + 1) % 10  # half of them are wrong
    chosen = Chosen(digits.images, tuple("123456"), tuple(predicted.tolist()))
    report_cams(subject, Folder(tmp_path), chosen, method=method)
    assert {len(maps) for maps in panels} == drawn
    # What the network was heard to say is not asked again: on another device it might say something else.
    said = np.full((6, 10), 0.02)
    said[:, 3] = 0.82
    told = report_cams(subject, Folder(tmp_path), replace(chosen, probabilities=said), method=method)
    assert {(row.pred_class, row.confidence) for row in told.images} == {("3", 0.82)}
