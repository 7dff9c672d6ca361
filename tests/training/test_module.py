from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cifarkit.analysis.predictions import predict
from cifarkit.checkpoint import load_checkpoint, read_rates
from cifarkit.optim.schedules import Linear
from cifarkit.pipeline import EpochOrder, as_tensors
from cifarkit.recipes import Plan, Recipe, scaled_side
from cifarkit.training.data import (
    Data,
    build_network,
    preprocessing_for,
)
from cifarkit.training.fit import fit
from cifarkit.training.hardware import Hardware
from cifarkit.training.module import WITHIN_EPOCH, Classifier


@pytest.fixture
def shapes(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, tuple[int, ...]]]:
    """Of every batch that reaches the network: whether it trains, and the images' shape."""
    seen: list[tuple[bool, tuple[int, ...]]] = []
    plain = Classifier.forward

    def forward(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.dtype is torch.float32
        seen.append((self.training, tuple(images.shape)))
        return plain(self, images)

    monkeypatch.setattr(Classifier, "forward", forward)
    return seen


def test_images_grow_in_training_and_validation(
    recipe: Recipe, colour_data: Data, cpu: Hardware, tmp_path: Path, shapes: Any
) -> None:
    growing = replace(
        recipe, epochs=4, batch_size=48, schedule=Linear(), policy="none", image_scale=(0.5, 0.625, 0.75, 1.0)
    )
    result = fit(Plan(growing), colour_data, cpu, tmp_path)
    assert [shape for train, shape in shapes if train] == [
        (48, 3, side, side) for side in (8, 8, 10, 10, 12, 12, 16, 16)
    ]
    assert [shape for train, shape in shapes if not train] == [
        (30, 3, side, side) for side in (8, 10, 12, 16)
    ]
    assert [row.image_side for row in result.rows] == [8, 10, 12, 16]


def test_parts_of_equal_length_may_end_within_an_epoch(
    recipe: Recipe, colour_data: Data, cpu: Hardware, tmp_path: Path, shapes: Any
) -> None:
    growing = replace(recipe, epochs=3, batch_size=24, policy="none", image_scale=(0.5, 1.0))
    fit(Plan(growing), colour_data, cpu, tmp_path)
    assert [shape[2] for train, shape in shapes if train] == [8] * 6 + [16] * 6


def test_larger_images_may_be_windows_of_the_whole(
    recipe: Recipe, colour_data: Data, cpu: Hardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pixel's value is its place: 16 to the next row, 1 to the next column."""
    places = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), (96, 16, 16, 3)).copy()
    train = replace(colour_data.train, images=places)
    val = train.take(range(30), split="val")
    data = Data("places", train, val, preprocessing_for(train, (0.0,) * 3, (1.0,) * 3))
    seen: list[tuple[bool, torch.Tensor]] = []
    plain = Classifier.forward

    def forward(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        seen.append((self.training, 255 * images))
        return plain(self, images)

    monkeypatch.setattr(Classifier, "forward", forward)
    scales = (0.5, 0.75, 1.0)
    cut = replace(recipe, batch_size=24, policy="none", image_scale=scales, crop_from=0.75)
    fit(Plan(cut), data, cpu, tmp_path)

    def whole(side: int) -> torch.Tensor:
        return 255 * replace(data.preprocessing, side=side)(as_tensors(val)[0])

    trained = [images for training, images in seen if training]
    validated = [images for training, images in seen if not training]
    assert all(torch.allclose(images, whole(8)[:24]) for images in trained[:4])
    corners = [round(float(images[0, 0, 0, 0])) for images in trained[4:8]]
    for images, corner in zip(trained[4:8], corners, strict=True):
        assert torch.allclose(images, torch.tensor(corner) + whole(16)[:24, :, :12, :12])
    assert len(set(corners)) > 1
    assert all(corner // 16 <= 4 and corner % 16 <= 4 for corner in corners)
    assert all(torch.allclose(images, whole(16)[:24]) for images in trained[8:])
    assert all(
        torch.allclose(images, whole(side)) for images, side in zip(validated, (8, 12, 16), strict=True)
    )


@pytest.mark.parametrize(
    ("side", "share", "expected"),
    [(4, 1, 4), (32, 1, 32), (32, 0.5, 16), (32, 0.53, 17), (9, 0.5, 8), (4, 0.5, 4), (224, 0.8, 179)],
)
def test_a_share_of_a_side_is_never_more_than_the_side(side: int, share: float, expected: int) -> None:
    assert scaled_side(side, share) == expected


@pytest.mark.parametrize(("last_scale", "side", "looks_again"), [(0.625, 10, False), (1.0, 16, True)])
def test_a_checkpoint_is_asked_at_the_side_it_was_trained_at(
    recipe: Recipe,
    colour_data: Data,
    cpu: Hardware,
    tmp_path: Path,
    last_scale: float,
    side: int,
    looks_again: bool,
) -> None:
    """Whoever uses its weights and its preprocessing finds the accuracy that training reported."""
    small = replace(
        recipe,
        model="speednet-slim",
        policy="fast",
        epochs=2,
        batch_size=24,
        image_scale=(0.625, last_scale),
    )
    row = fit(Plan(small), colour_data, cpu, tmp_path).rows[-1]
    checkpoint = load_checkpoint(tmp_path / "last.ckpt")
    assert checkpoint.story.preprocessing.side == side
    assert checkpoint.network.tta is looks_again
    predictions = predict(checkpoint.network, colour_data.val, checkpoint.story.preprocessing)
    assert (predictions.predicted == predictions.labels).mean() == row.val_acc
    assert predictions.losses.mean() == pytest.approx(row.val_loss, rel=1e-5)


def test_later_epochs_show_the_images_with_the_highest_loss(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, watcher: Any
) -> None:
    choosy = replace(recipe, epochs=4, batch_size=50, keep_hardest=(1.0, 0.5))
    seen = watcher()
    result = fit(Plan(choosy), data, cpu, tmp_path / "whole", observers=[seen])
    epochs = len(data.train) // 50, len(data.train) // 100
    rates = read_rates(Path(result.last_checkpoint))
    assert [len(epoch) for epoch in rates] == [epochs[0], epochs[0], epochs[1], epochs[1]]
    assert [row.epoch for row in result.rows] == [1, 2, 3, 4]  # each of them with its validation
    # Resumed where a choice has been made, it makes the same.
    fit(Plan(replace(choosy), target_acc=result.rows[1].val_acc), data, cpu, tmp_path / "half")
    again = fit(Plan(choosy), data, cpu, tmp_path / "half", resume=tmp_path / "half" / "last.ckpt")
    assert [row.train_loss for row in again.rows] == [row.train_loss for row in result.rows]
    assert [row.val_loss for row in again.rows] == [row.val_loss for row in result.rows]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_any_number_of_processes_goes_on_within_an_epoch(recipe: Recipe, data: Data, processes: int) -> None:
    alone = EpochOrder(64, 16, shuffle=True)
    batches = [set(batch.tolist()) for batch in alone]
    saved = {"shown": alone.shown, "steps_done": 1}
    together: list[set[int]] = [set() for _ in batches[1:]]
    for rank in range(processes):
        order = EpochOrder(64, 16 // processes, shuffle=True, rank=rank, world_size=processes)
        module = Classifier(build_network(recipe, data), recipe, order=order, ends=[4], side=16, seed=0)
        module.on_load_checkpoint({"losses": alone.losses, WITHIN_EPOCH: saved})
        for step, batch in enumerate(order):
            assert together[step].isdisjoint(batch.tolist())
            together[step] |= set(batch.tolist())
    assert together == batches[1:]


def test_label_smoothing_is_of_the_training_loss_only(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path
) -> None:
    """With smoothing 1 the uniform distribution is learned; what is reported is plain cross entropy."""
    smoothed = replace(recipe, label_smoothing=1.0, epochs=30, lr=0.02, schedule=Linear())
    row = fit(Plan(smoothed), data, cpu, tmp_path).rows[-1]
    uniform = torch.log(torch.tensor(10.0)).item()
    assert row.train_loss == pytest.approx(uniform, abs=0.05)
    assert row.val_loss == pytest.approx(uniform, abs=0.05)


def test_reported_losses_are_without_smoothing(recipe: Recipe, data: Data) -> None:
    torch.manual_seed(0)
    half = replace(recipe, label_smoothing=0.5)
    order = EpochOrder(len(data.train), half.batch_size, shuffle=True)
    module = Classifier(build_network(half, data), half, order=order, ends=[10], side=8, seed=0).eval()
    images = data.preprocessing(torch.from_numpy(data.val.images[:50]).permute(0, 3, 1, 2))
    labels = torch.from_numpy(data.val.labels[:50])
    objective = module.training_step((images, labels), 0)
    expected = torch.nn.functional.cross_entropy(module(images), labels)
    assert module.train_totals.compute()[0] == pytest.approx(expected.item(), rel=1e-5)
    assert objective.item() != pytest.approx(expected.item(), rel=1e-5)


def test_whitening_sees_training_images(recipe: Recipe, colour_data: Data) -> None:
    white = replace(recipe, model="speednet-slim")
    torch.manual_seed(0)
    first: Any = build_network(white, colour_data)
    darker = replace(colour_data.train, images=colour_data.train.images // 2)
    second: Any = build_network(white, replace(colour_data, train=darker))
    assert not torch.equal(first.whiten.weight, second.whiten.weight)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_replayed_passes_train_as_others(
    recipe: Recipe,
    data: Data,
    cpu: Hardware,
    tmp_path: Path,
    optimizer: str,
    recorded: list[object],
    monkeypatch: pytest.MonkeyPatch,
    weights: Callable[[str], dict[str, torch.Tensor]],
) -> None:
    recipe = replace(recipe, optimizer=optimizer, keep_hardest=(1.0, 0.75, 0.75))
    expected = fit(Plan(recipe), data, cpu, tmp_path / "expected")
    fit_room = importlib.import_module("cifarkit.training.fit")
    monkeypatch.setattr(
        fit_room, "Classifier", lambda *given, **kw: Classifier(*given, **kw | {"replay": True})
    )
    replayed = fit(Plan(recipe), data, cpu, tmp_path / "replayed")
    assert recorded == [((48, 1, 8, 8), (48,))]
    assert replayed.best_val_acc == expected.best_val_acc
    for name, value in weights(expected.last_checkpoint).items():
        torch.testing.assert_close(weights(replayed.last_checkpoint)[name], value, rtol=0, atol=0)
