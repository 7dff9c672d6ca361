from __future__ import annotations

import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from cifarkit.analysis.predictions import predict
from cifarkit.checkpoint import Checkpoint, load_checkpoint, read_rates, read_story
from cifarkit.data.image_set import ImageSet
from cifarkit.errors import CheckpointError, DivergedError, Interrupted, Stopped, Terminated, UsageError
from cifarkit.optim import build_optimizer
from cifarkit.optim.schedules import Linear
from cifarkit.pipeline import eval_loader
from cifarkit.recipes import RECIPES, Plan, Recipe
from cifarkit.results import EpochRow
from cifarkit.training import module
from cifarkit.training.data import Data
from cifarkit.training.fit import fit
from cifarkit.training.hardware import Hardware, has_native_bf16
from cifarkit.training.module import sample

bf16_is_slow = pytest.mark.skipif(not has_native_bf16("cpu"), reason="this processor has no bf16 units")

State = dict[str, torch.Tensor]
Read = Callable[[str | Path], State]
Strip = Callable[[Sequence[EpochRow]], list[EpochRow]]


class Crash(Exception):
    pass


def crash_in(epoch: int) -> Callable[[int], None]:
    def crash(done: int) -> None:
        if done == epoch:
            raise Crash

    return crash


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# -- what comes out -------------------------------------------------------------------------------


def test_result_is_consistent(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, watcher: Any
) -> None:
    seen = watcher()
    result = fit(Plan(recipe, seed=5), data, cpu, tmp_path, observers=[seen])
    accs = [row.val_acc for row in result.rows]
    assert (result.dataset, result.model, result.recipe, result.seed) == ("digits", recipe.model, "test", 5)
    assert result.run_id is None
    assert result.precision == "fp32"
    assert result.val_split == "test"
    assert result.epochs == len(result.rows) == 3
    assert result.best_val_acc == max(accs) == accs[result.best_epoch - 1]
    assert result.best_epoch == accs.index(max(accs)) + 1
    assert result.last_val_acc == accs[-1]
    assert (result.target_acc, result.target_reached, result.time_to_target_seconds) == (None, None, None)
    assert result.train_seconds == result.rows[-1].train_seconds
    assert result.peak_memory_bytes > 2**20
    assert Path(result.best_checkpoint).is_file()
    assert Path(result.last_checkpoint).is_file()
    assert tuple(seen.rows) == result.rows


def test_rows_count_epochs_and_add_up(recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path) -> None:
    rows = fit(Plan(recipe), data, cpu, tmp_path).rows
    assert [row.epoch for row in rows] == [1, 2, 3]
    for row in rows:
        assert row.val_split == "test"
        assert row.train_acc * 192 == pytest.approx(round(row.train_acc * 192))
        assert row.val_acc * 100 == pytest.approx(round(row.val_acc * 100))
        assert row.images_per_second > 0
    ends = [row.train_seconds for row in rows]
    assert ends == sorted(ends)
    assert sum(row.epoch_seconds for row in rows) <= ends[-1]


def test_it_learns(recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path) -> None:
    rows = fit(Plan(replace(recipe, epochs=8)), data, cpu, tmp_path).rows
    assert rows[-1].train_loss < rows[0].train_loss / 2
    assert rows[-1].val_acc > 0.6


def test_observers_hear_everything_in_order(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, watcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifarkit.training.callbacks.STEP_REPORT_SECONDS", 0.0)
    seen = watcher()
    result = fit(Plan(recipe), data, cpu, tmp_path, observers=[seen])
    assert seen.steps == [(epoch, step, 4) for epoch in (1, 2, 3) for step in (1, 2, 3, 4)]
    assert seen.validations == [1, 2, 3]
    accs = [row.val_acc for row in result.rows]
    assert seen.best == [acc > max(accs[:i], default=-1) for i, acc in enumerate(accs)]


def test_learning_rates_follow_the_schedule(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path
) -> None:
    linear = replace(recipe, schedule=Linear())
    result = fit(Plan(linear), data, cpu, tmp_path)
    rates = [step[0] for epoch in read_rates(tmp_path / "last.ckpt") for step in epoch]
    assert rates == pytest.approx([0.02 * (1 - i / 12) for i in range(12)])
    assert [row.lr for row in result.rows] == [rates[i] for i in (3, 7, 11)]


def test_checkpoints_hold_the_rows_up_to_them(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, watcher: Any
) -> None:
    held = []
    seen = watcher(lambda epoch: held.append(read_story(tmp_path / "last.ckpt")[0].rows))
    result = fit(Plan(recipe), data, cpu, tmp_path, observers=[seen])
    assert held == [result.rows[:1], result.rows[:2], result.rows]
    assert len(read_story(tmp_path / "best.ckpt")[0].rows) == result.best_epoch
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]


def test_an_epoch_that_is_no_better_is_last_but_not_best(
    recipe: Recipe, flat_data: Data, cpu: Hardware, tmp_path: Path, watcher: Any
) -> None:
    held = []
    seen = watcher(lambda epoch: held.append(len(read_story(tmp_path / "last.ckpt")[0].rows)))
    result = fit(Plan(recipe), flat_data, cpu, tmp_path, observers=[seen])
    assert [row.val_acc for row in result.rows] == [0.1] * 3
    assert held == [1, 2, 3]
    assert result.best_epoch == 1
    assert seen.best == [True, False, False]
    assert len(read_story(tmp_path / "best.ckpt")[0].rows) == 1


def test_the_story_is_complete(recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path) -> None:
    plan = Plan(recipe, seed=3, target_acc=1.0)
    fit(plan, data, cpu, tmp_path)
    story, _ = read_story(tmp_path / "last.ckpt")
    assert story.plan == plan
    assert story.preprocessing == data.preprocessing
    assert story.fingerprint == data.train.fingerprint
    assert (story.dataset, story.val_split, story.val_size) == ("digits", "test", 0)


# -- randomness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [False, True])
def test_equal_seeds_give_equal_weights(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, weights: Read, without_times: Strip,
    deterministic: bool,
) -> None:  # fmt: skip
    results = []
    for run in range(2):
        torch.manual_seed(run)  # what was drawn before must not matter
        results.append(fit(Plan(recipe, seed=7, deterministic=deterministic), data, cpu, tmp_path / str(run)))
    assert same(weights(results[0].last_checkpoint), weights(results[1].last_checkpoint))
    assert without_times(results[0].rows) == without_times(results[1].rows)


def test_different_seeds_give_different_weights(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, weights: Read
) -> None:
    short = replace(recipe, epochs=1)
    states = [weights(fit(Plan(short, seed=s), data, cpu, tmp_path / str(s)).last_checkpoint) for s in (1, 2)]
    assert not any(torch.equal(states[0][key], states[1][key]) for key in states[0] if "weight" in key)


def test_the_number_of_workers_does_not_matter(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, weights: Read
) -> None:
    short = replace(recipe, epochs=2)
    states = [
        weights(fit(Plan(short, workers=w), data, cpu, tmp_path / str(w)).last_checkpoint) for w in (0, 2)
    ]
    assert same(*states)


# -- the target -----------------------------------------------------------------------------------


def test_it_stops_at_the_target(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, watcher: Any
) -> None:
    seen = watcher()
    result = fit(Plan(recipe, target_acc=0.001), data, cpu, tmp_path, observers=[seen])
    assert result.epochs == 1 == len(seen.rows)
    assert result.target_reached is True
    assert result.time_to_target_seconds == result.rows[0].train_seconds
    assert result.target_acc == 0.001


def test_validations_before_the_end_may_look_at_a_sample(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, watcher: Any, weights: Any
) -> None:
    """A fifth of 100 images; the weights do not depend on it."""
    told: dict[int, Checkpoint] = {}
    heard = watcher(lambda epoch: told.update({epoch: load_checkpoint(tmp_path / "part" / "last.ckpt")}))
    part = fit(Plan(replace(recipe, val_sample=20)), data, cpu, tmp_path / "part", observers=[heard])
    whole = fit(Plan(recipe), data, cpu, tmp_path / "whole")
    assert [row.val_sampled for row in part.rows] == [True, True, False]
    assert [row.val_sampled for row in whole.rows] == [False] * 3
    for row in part.rows:
        images = data.val.take(sample(100, 5).nonzero().flatten().tolist()) if row.val_sampled else data.val
        said = predict(told[row.epoch].network, images, data.preprocessing)
        assert row.val_acc == (said.predicted == said.labels).mean()
        assert row.val_loss == pytest.approx(said.losses.mean(), rel=1e-5)
        assert (told[row.epoch].val_logits is None) == row.val_sampled
    # Whatever the sample said before.
    assert (part.best_epoch, heard.best) == (3, [True, heard.best[1], True])
    assert part.best_val_acc == whole.rows[-1].val_acc
    ours, theirs = (weights(result.last_checkpoint) for result in (part, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_sample_is_of_all_classes_in_whatever_order_they_are() -> None:
    chosen = sample(10_000, 5)
    assert torch.equal(chosen, sample(10_000, 5))
    in_turn, one_by_one = torch.arange(10_000) % 10, torch.arange(10_000) // 1000
    for labels in in_turn, one_by_one:
        of_each = labels[chosen].bincount(minlength=10)
        assert of_each.sum() == 2000
        assert 150 < of_each.min() <= of_each.max() < 250
    assert sample(7, 1).all()


def test_a_sample_is_of_one_size_in_batches_of_any(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of images so large that a batch holds fewer than a sample skips."""
    sampled = Plan(replace(recipe, epochs=2, val_sample=20))
    whole = fit(sampled, data, cpu, tmp_path / "whole").rows[0]
    monkeypatch.setattr("cifarkit.training.fit.eval_loader", partial(eval_loader, batch_size=3))
    small = fit(sampled, data, cpu, tmp_path / "small").rows[0]
    assert small.val_acc == whole.val_acc
    assert small.val_loss == pytest.approx(whole.val_loss, rel=1e-5)


@pytest.mark.parametrize(("target", "epochs"), [(0.2, 1), (0.999, 3)])
def test_where_a_sample_may_reach_the_target_all_images_are_looked_at(
    target: float, epochs: int, recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path
) -> None:
    result = fit(Plan(replace(recipe, val_sample=20), target_acc=target), data, cpu, tmp_path)
    assert result.epochs == epochs
    assert result.target_reached == (epochs == 1)
    assert result.rows[0].val_sampled == (epochs > 1)
    assert not result.rows[-1].val_sampled
    checkpoint = load_checkpoint(Path(result.last_checkpoint))
    said = predict(checkpoint.network, data.val, data.preprocessing)
    assert result.last_val_acc == (said.predicted == said.labels).mean()
    assert checkpoint.val_logits is not None
    assert len(checkpoint.val_logits) == 100


def test_a_target_out_of_reach_is_said_so(recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path) -> None:
    result = fit(Plan(replace(recipe, epochs=1), target_acc=1.0), data, cpu, tmp_path)
    assert (result.target_reached, result.time_to_target_seconds) == (False, None)


# -- resume ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [None, 0, 2])
@pytest.mark.parametrize("stopped_after", [1, 2])
def test_a_resumed_training_equals_the_uninterrupted_one(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, watcher: Any, weights: Read,
    without_times: Strip, stopped_after: int, workers: int | None,
) -> None:  # fmt: skip
    expected = fit(Plan(recipe, seed=1, workers=workers), data, cpu, tmp_path / "whole")
    first, second = watcher(crash_in(stopped_after)), watcher()
    with pytest.raises(Crash):
        fit(Plan(recipe, seed=1, workers=workers), data, cpu, tmp_path / "first", observers=[first])
    resume = tmp_path / "first" / "last.ckpt"
    result = fit(
        Plan(recipe, seed=1, workers=workers),
        data,
        cpu,
        tmp_path / "second",
        resume=resume,
        observers=[second],
    )
    assert [row.epoch for row in second.rows] == list(range(stopped_after + 1, 4))
    assert read_rates(Path(result.last_checkpoint)) == read_rates(Path(expected.last_checkpoint))
    assert without_times(result.rows) == without_times(expected.rows)
    assert same(weights(result.last_checkpoint), weights(expected.last_checkpoint))
    assert result.rows[:stopped_after] == read_story(resume)[0].rows
    assert result.rows[-1].train_seconds > result.rows[stopped_after - 1].train_seconds


def test_a_training_stopped_by_its_target_goes_on(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, weights: Read
) -> None:
    expected = fit(Plan(recipe), data, cpu, tmp_path / "whole")
    fit(Plan(recipe, target_acc=0.001), data, cpu, tmp_path / "first")
    result = fit(Plan(recipe), data, cpu, tmp_path / "second", resume=tmp_path / "first" / "last.ckpt")
    assert result.epochs == 3
    assert same(weights(result.last_checkpoint), weights(expected.last_checkpoint))


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=bf16_is_slow)])
def test_a_resumed_whitening_network_equals_the_uninterrupted_one(
    recipe: Recipe, colour_data: Data, tmp_path: Path, watcher: Any, weights: Read, precision: str
) -> None:
    """Muon, growing images, alternating flips: the recipe of the speed records."""
    cpu = Hardware("cpu", 1, 1, precision)
    fast = replace(
        recipe, model="speednet-slim", policy="fast", optimizer="muon", lr=0.1, schedule=Linear(),
        weight_decay=1e-3, epochs=2, label_smoothing=0.2, image_scale=(0.75, 1.0), crop_from=0.75,
    )  # fmt: skip
    expected = fit(Plan(fast), colour_data, cpu, tmp_path / "whole")
    with pytest.raises(Crash):
        fit(Plan(fast), colour_data, cpu, tmp_path / "first", observers=[watcher(crash_in(1))])
    result = fit(Plan(fast), colour_data, cpu, tmp_path / "second", resume=tmp_path / "first" / "last.ckpt")
    assert same(weights(result.last_checkpoint), weights(expected.last_checkpoint))


@pytest.mark.parametrize("folder", ["first", "second"])
def test_the_best_weights_of_before_survive_a_resume(
    recipe: Recipe, flat_data: Data, cpu: Hardware, tmp_path: Path, watcher: Any, folder: str
) -> None:
    """Also in another folder: `fit --resume` fetches the checkpoints of a run into a new one."""
    with pytest.raises(Crash):
        fit(Plan(recipe), flat_data, cpu, tmp_path / "first", observers=[watcher(crash_in(2))])
    seen = watcher()
    resume = tmp_path / "first" / "last.ckpt"
    result = fit(Plan(recipe), flat_data, cpu, tmp_path / folder, resume=resume, observers=[seen])
    assert (result.best_epoch, result.epochs) == (1, 3)
    assert seen.best == [False]
    assert len(read_story(Path(result.best_checkpoint))[0].rows) == 1
    assert len(read_story(Path(result.last_checkpoint))[0].rows) == 3


def test_resume_refuses_other_images(recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path) -> None:
    fit(Plan(recipe, target_acc=0.001), data, cpu, tmp_path)
    other = replace(data, train=data.train.take(range(1, 200)))
    with pytest.raises(CheckpointError, match="trained on other images"):
        fit(Plan(recipe), other, cpu, tmp_path / "second", resume=tmp_path / "last.ckpt")
    other = replace(data, val=data.val.take(range(1, 20)))
    with pytest.raises(CheckpointError, match="validated on other images"):
        fit(Plan(recipe), other, cpu, tmp_path / "second", resume=tmp_path / "last.ckpt")


def test_resume_refuses_a_missing_file(recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        fit(Plan(recipe), data, cpu, tmp_path, resume=tmp_path / "last.ckpt")


def test_resume_refuses_a_checkpoint_of_another_model(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path
) -> None:
    fit(Plan(recipe, target_acc=0.001), data, cpu, tmp_path)
    with pytest.raises(CheckpointError):
        fit(
            Plan(replace(recipe, model="small-cnn")),
            data,
            cpu,
            tmp_path / "second",
            resume=tmp_path / "last.ckpt",
        )


# -- what goes wrong ------------------------------------------------------------------------------


def test_an_absurd_learning_rate_diverges(recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path) -> None:
    absurd = replace(recipe, lr=1e30, optimizer="sgd", schedule=Linear())
    with pytest.raises(DivergedError, match=r"has diverged \(epoch 1, step 2\).*--lr"):
        fit(Plan(absurd), data, cpu, tmp_path)
    assert not (tmp_path / "last.ckpt").exists()


def test_divergence_in_the_very_last_step_is_noticed(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path
) -> None:
    """Its own loss is still a number; that of the network it leaves behind is not."""
    absurd = replace(recipe, lr=1e30, optimizer="sgd", schedule=Linear(), epochs=1, batch_size=200)
    with pytest.raises(DivergedError):
        fit(Plan(absurd), data, cpu, tmp_path)
    assert not (tmp_path / "last.ckpt").exists()


def test_a_signal_keeps_no_weights_that_are_no_numbers(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, watcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifarkit.training.callbacks.STEP_REPORT_SECONDS", 0.0)
    step = torch.optim.SGD.step

    def spoil(optimizer: torch.optim.SGD, closure: Any) -> Any:
        loss = step(optimizer, closure)
        optimizer.param_groups[0]["params"][0].data.fill_(math.nan)
        return loss

    monkeypatch.setattr(torch.optim.SGD, "step", spoil)
    seen = watcher(at_step=lambda epoch, step: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(DivergedError, match="epoch 1, step 1"):  # whose loss was a number still
        fit(Plan(replace(recipe, optimizer="sgd")), data, cpu, tmp_path, observers=[seen])
    assert not (tmp_path / "last.ckpt").exists()


def test_checkpoints_of_before_the_divergence_stay(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, watcher: Any
) -> None:
    seen = watcher(crash_in(1))
    with pytest.raises(Crash):
        fit(Plan(recipe), data, cpu, tmp_path, observers=[seen])
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    for tensor in content["optimizer_states"][0]["state"].values():
        tensor["exp_avg"].fill_(math.nan)
    torch.save(content, tmp_path / "sick.ckpt")
    with pytest.raises(DivergedError, match=r"epoch 2.*the run keeps the weights after epoch 1"):
        fit(Plan(recipe), data, cpu, tmp_path, resume=tmp_path / "sick.ckpt")
    assert len(read_story(tmp_path / "last.ckpt")[0].rows) == 1
    network = load_checkpoint(tmp_path / "last.ckpt").network
    assert all(p.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Terminated)])
def test_a_signal_stops_the_training(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, watcher: Any, number: int, error: type[Stopped]
) -> None:
    before = signal.getsignal(number)
    seen = watcher(lambda epoch: os.kill(os.getpid(), number))
    with pytest.raises(error):
        fit(Plan(recipe), data, cpu, tmp_path, observers=[seen])
    assert len(seen.rows) == 1
    assert len(read_story(tmp_path / "last.ckpt")[0].rows) == 1
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Terminated)])
def test_a_signal_at_the_very_end_is_not_swallowed(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, watcher: Any, number: int, error: type[Stopped]
) -> None:
    seen = watcher(lambda epoch: os.kill(os.getpid(), number))
    with pytest.raises(error):
        fit(Plan(replace(recipe, epochs=1)), data, cpu, tmp_path, observers=[seen])


def test_a_second_signal_does_not_wait_for_the_step(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, watcher: Any
) -> None:
    reached = []

    def impatient(epoch: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(epoch)

    with pytest.raises(Interrupted):
        fit(Plan(recipe), data, cpu, tmp_path, observers=[watcher(impatient)])
    assert not reached


def test_an_interrupted_training_can_be_resumed(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, watcher: Any, weights: Read
) -> None:
    expected = fit(Plan(recipe), data, cpu, tmp_path / "whole")
    seen = watcher(lambda epoch: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        fit(Plan(recipe), data, cpu, tmp_path / "first", observers=[seen])
    result = fit(Plan(recipe), data, cpu, tmp_path / "second", resume=tmp_path / "first" / "last.ckpt")
    assert same(weights(result.last_checkpoint), weights(expected.last_checkpoint))


@pytest.mark.parametrize("workers", [None, 0], ids=["batched", "per image"])
@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (2, 2), (3, 1)])
def test_a_training_goes_on_within_an_epoch(
    recipe: Recipe,
    larger_data: Data,
    cpu: Hardware,
    tmp_path: Path,
    watcher: Any,
    weights: Read,
    without_times: Strip,
    monkeypatch: pytest.MonkeyPatch,
    epoch: int,
    step: int,
    workers: int | None,
) -> None:
    """As if nothing had been: images that grow, hard ones and dropout included; no step is done twice."""
    monkeypatch.setattr("cifarkit.training.callbacks.STEP_REPORT_SECONDS", 0)
    recipe = replace(recipe, image_scale=(0.5, 0.75, 1.0, 1.0), keep_hardest=(1.0, 0.75, 0.75), batch_size=40)
    expected = fit(Plan(recipe, workers=workers), larger_data, cpu, tmp_path / "whole")

    def stop(at_epoch: int, at_step: int) -> None:
        if (at_epoch, at_step) == (epoch, step):
            os.kill(os.getpid(), signal.SIGINT)

    first, second = watcher(at_step=stop), watcher()
    folder = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        fit(Plan(recipe, workers=workers), larger_data, cpu, folder, observers=[first])
    assert first.steps[-1][:2] == (epoch, step)
    assert [stopped[:2] for stopped in first.stops] == [(epoch, step)]
    assert len(read_story(folder / "last.ckpt")[0].rows) == epoch - 1
    resume = folder / "last.ckpt"
    result = fit(
        Plan(recipe, workers=workers), larger_data, cpu, tmp_path / "on", resume=resume, observers=[second]
    )
    steps = [5, 3, 3]
    every = [(e, s, n) for e, n in enumerate(steps, start=1) for s in range(1, n + 1)]
    assert first.steps + second.steps == every
    assert same(weights(result.last_checkpoint), weights(expected.last_checkpoint))
    assert same(weights(result.best_checkpoint), weights(expected.best_checkpoint))
    assert [row.image_side for row in expected.rows] == [12, 16, 16]  # from 8 on
    assert without_times(result.rows) == without_times(expected.rows)
    assert read_rates(Path(result.last_checkpoint)) == read_rates(Path(expected.last_checkpoint))
    assert result.rows[epoch - 1].train_seconds < 60
    assert result.rows[epoch - 1].epoch_seconds > 0


def test_a_signal_during_validation_waits_for_its_end(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, watcher: Any
) -> None:
    seen = watcher(at_validation=lambda epoch: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        fit(Plan(recipe), data, cpu, tmp_path, observers=[seen])
    assert [row.epoch for row in seen.rows] == [1]
    assert seen.stops == []
    assert len(read_story(tmp_path / "last.ckpt")[0].rows) == 1


def test_a_signal_in_the_last_step_of_an_epoch_keeps_the_epoch(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, watcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifarkit.training.callbacks.STEP_REPORT_SECONDS", 0)
    seen = watcher(at_step=lambda epoch, step: step == 4 and os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Terminated):
        fit(Plan(recipe), data, cpu, tmp_path, observers=[seen])
    assert ([row.epoch for row in seen.rows], seen.stops) == ([1], [])


def test_it_trains_outside_the_main_thread(recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path) -> None:
    """Where no signal handler can be set."""
    results = []
    short = replace(recipe, epochs=1)
    thread = threading.Thread(target=lambda: results.append(fit(Plan(short), data, cpu, tmp_path)))
    thread.start()
    thread.join()
    assert results[0].epochs == 1


def test_a_batch_larger_than_the_data_is_refused(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"a batch of 201 is larger than the 200 .*--batch-size 50"):
        fit(Plan(replace(recipe, batch_size=201)), data, cpu, tmp_path)


def test_a_batch_that_the_devices_cannot_share_is_refused(recipe: Recipe, data: Data, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="multiple of the 5 devices"):
        fit(Plan(recipe), data, Hardware("cuda", 5, 1, "fp32"), tmp_path)


def test_images_too_small_for_the_model_are_refused(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="needs images of at least 9 x 9"):
        fit(Plan(replace(recipe, model="speednet")), data, cpu, tmp_path)


# -- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_optimiser_computes_in_the_precision_of_the_training(
    recipe: Recipe, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    built = []

    def build(*arguments: Any, **options: Any) -> torch.optim.Optimizer:
        built.append(build_optimizer(*arguments, **options))
        return built[-1]

    monkeypatch.setattr(module, "build_optimizer", build)
    with_muon = replace(recipe, epochs=1, optimizer="muon")
    fit(Plan(with_muon), data, Hardware("cpu", 1, 1, precision), tmp_path)
    assert [optimizer.bf16 for optimizer in built] == [precision == "bf16"]


@pytest.mark.parametrize(
    ("optimizer", "lr"), [("adam", 6e-3), ("adamw", 6e-3), ("sgd", 0.03), ("muon", 0.06)]
)
def test_every_optimizer_trains_the_digits(
    digits: ImageSet, unseen_digits: ImageSet, data: Data, cpu: Hardware, tmp_path: Path,
    optimizer: str, lr: float,
) -> None:  # fmt: skip
    whole = replace(data, train=digits, val=unseen_digits)
    recipe = replace(RECIPES["digits"], optimizer=optimizer, lr=lr, epochs=3)
    assert fit(Plan(recipe), whole, cpu, tmp_path).rows[-1].val_acc > 0.9


def test_bf16_trains_and_keeps_fp32_weights(
    recipe: Recipe, data: Data, tmp_path: Path, weights: Read
) -> None:
    result = fit(Plan(replace(recipe, epochs=1)), data, Hardware("cpu", 1, 1, "bf16"), tmp_path)
    assert result.precision == "bf16"
    assert {value.dtype for value in weights(result.last_checkpoint).values()} <= {torch.float32, torch.int64}
    assert math.isfinite(result.rows[0].train_loss)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_compiled_steps_train_alike_but_for_rounding(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, weights: Read
) -> None:
    steady = replace(recipe, model="small-cnn", optimizer="sgd", policy="none", epochs=2)
    plain = fit(Plan(steady), data, cpu, tmp_path / "plain")
    compiled = fit(Plan(steady, compile=True), data, cpu, tmp_path / "compiled")
    for row, expected in zip(compiled.rows, plain.rows, strict=True):
        assert row.train_loss == pytest.approx(expected.train_loss, rel=0.01)
        assert row.val_loss == pytest.approx(expected.val_loss, rel=0.05)
    assert weights(compiled.last_checkpoint).keys() == weights(plain.last_checkpoint).keys()
    fit(Plan(steady, compile=True, target_acc=0.001), data, cpu, tmp_path / "part")
    resumed = fit(
        Plan(steady, compile=True), data, cpu, tmp_path / "part", resume=tmp_path / "part" / "last.ckpt"
    )
    assert same(weights(resumed.last_checkpoint), weights(compiled.last_checkpoint))


@pytest.mark.filterwarnings("ignore")
def test_without_a_compiler_nothing_is_compiled(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    with pytest.raises(UsageError, match=r"--compile fails here .*no-such-compiler.*; leave it out"):
        fit(Plan(recipe, compile=True), data, cpu, tmp_path)
