from __future__ import annotations

import errno
import importlib
import os
import pickle
import signal
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifarkit.analysis.predictions import Predictions, predict
from cifarkit.checkpoint import load_checkpoint, read_rates, read_story
from cifarkit.errors import CheckpointError, Interrupted
from cifarkit.recipes import RECIPES, Plan, Recipe
from cifarkit.subjects import Subject
from cifarkit.training.checkpoint_files import CheckpointFiles
from cifarkit.training.data import Data, build_network
from cifarkit.training.fit import fit
from cifarkit.training.hardware import Hardware


@pytest.fixture
def saved(recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path) -> Path:
    return Path(fit(Plan(recipe, target_acc=0.001), data, cpu, tmp_path).last_checkpoint)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A small checkpoint and what is in it."""
    from cifarkit.data.datasets import find_dataset
    from cifarkit.data.loading import load_splits
    from cifarkit.recipes import find_recipe

    folder = tmp_path_factory.mktemp("whole")
    source = find_dataset("digits")
    digits = find_recipe("digits").override(epochs=1, batch_size=512, optimizer="sgd", lr=0.01)
    fit(Plan(digits), Data.of(source, load_splits(source, folder)), Hardware("cpu", 1, 1, "fp32"), folder)
    return folder / "last.ckpt", read_story(folder / "last.ckpt")[1]


@pytest.fixture
def edited(saved: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """The checkpoint with its content changed."""

    def edit(change: Callable[[dict[str, Any]], object]) -> Path:
        content = torch.load(saved, weights_only=True)
        change(content)
        torch.save(content, saved)
        return saved

    return edit


def test_it_holds_no_code(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    assert {"state_dict", "optimizer_states", "lr_schedulers", "cifarkit"} <= set(content)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.floats(0, 1, exclude_max=True), flipped=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_file_is_refused_or_as_good_as_whole(
    at: float, flipped: int, cut: bool, whole: tuple[Path, dict[str, Any]]
) -> None:
    path, expected = whole
    content = bytearray(path.read_bytes())
    place = int(at * len(content))
    content[place] ^= flipped
    damaged = path.with_name("damaged.ckpt")
    damaged.write_bytes(content[:place] if cut else content)
    try:
        _, found = read_story(damaged)
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:  # where the archive is padded
        assert found.keys() == expected.keys()
        for name, weights in expected["state_dict"].items():
            assert torch.equal(found["state_dict"][name], weights)


def test_a_packed_file_is_refused_before_it_is_unpacked(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = saved.with_name("packed.ckpt")
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in whole.namelist():
            archive.writestr(part, whole.read(part))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *given: pytest.fail("it was read"))
    with pytest.raises(CheckpointError, match="packed, which torch never does"):
        read_story(packed)


def test_a_full_disk_is_said_whatever_the_writer_says(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", fails)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(CheckpointError, match="No space left on device"):
        fit(Plan(recipe), data, cpu, tmp_path)


def test_a_full_disk_keeps_the_checkpoints_before(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watcher: Any
) -> None:
    def fill(epoch: int) -> None:
        def full(*arguments: object, **more: object) -> None:
            (tmp_path / ".fresh.ckpt").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(torch, "save", full)

    with pytest.raises(CheckpointError, match=r"No space left on device\); what was saved before"):
        fit(Plan(recipe), data, cpu, tmp_path, observers=[watcher(fill)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert len(read_story(tmp_path / "last.ckpt")[0].rows) == 1


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are written on a thread, as they are where a GPU trains."""

    class Event:
        def record(self) -> None: ...
        def wait(self) -> None: ...

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", object)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    room = importlib.import_module("cifarkit.training.fit")
    monkeypatch.setattr(room, "CheckpointFiles", lambda folder, behind: CheckpointFiles(folder, behind=True))


def test_checkpoints_written_behind_are_the_same(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, request: pytest.FixtureRequest, watcher: Any,
    without_times: Any, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    expected = fit(Plan(recipe), data, cpu, tmp_path / "expected")
    request.getfixturevalue("behind")
    save = torch.save
    threads: list[int] = []

    def slowly(*arguments: Any) -> None:
        threads.append(threading.get_ident())
        time.sleep(0.05)
        save(*arguments)

    monkeypatch.setattr(torch, "save", slowly)
    heard = watcher(lambda epoch: assert_written(tmp_path / "behind", epoch))
    result = fit(Plan(recipe), data, cpu, tmp_path / "behind", observers=[heard])
    assert len(threads) == 3
    assert threading.get_ident() not in threads
    assert without_times(heard.rows) == without_times(result.rows) == without_times(expected.rows)
    for name in ("best", "last", "previous"):
        one, other = (read_story(tmp_path / where / f"{name}.ckpt")[1] for where in ("expected", "behind"))
        assert one["state_dict"].keys() == other["state_dict"].keys()
        assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())


def assert_written(folder: Path, epoch: int) -> None:
    assert len(read_story(folder / "last.ckpt")[0].rows) == epoch


@pytest.mark.usefixtures("behind")
def test_a_disk_that_fills_up_behind_ends_the_training(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watcher: Any
) -> None:
    def fill(epoch: int) -> None:
        def full(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(torch, "save", full)

    with pytest.raises(CheckpointError, match=r"No space left on device\); what was saved before"):
        fit(Plan(recipe), data, cpu, tmp_path, observers=[watcher(fill)])
    assert len(read_story(tmp_path / "last.ckpt")[0].rows) == 1


@pytest.mark.usefixtures("behind")
def test_a_stop_is_written_before_it_is_told(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, watcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifarkit.training.callbacks.STEP_REPORT_SECONDS", 0.0)
    heard = watcher(at_step=lambda epoch, step: os.kill(os.getpid(), signal.SIGINT) if step == 2 else None)
    with pytest.raises(Interrupted):
        fit(Plan(recipe), data, cpu, tmp_path, observers=[heard])
    assert heard.stops == [(1, 2, 4)]
    content = read_story(tmp_path / "last.ckpt")[1]
    assert content["within_epoch"]["steps_done"] == 2
    assert "val_logits" not in content  # these weights have not been validated


def test_what_looks_again_is_kept_with_the_weights(
    colour_data: Data, cpu: Hardware, tmp_path: Path, watcher: Any
) -> None:
    recipe = replace(RECIPES["fast"], epochs=2, batch_size=48, image_scale=(1.0,), keep_hardest=(1.0,))
    looks: dict[int, object] = {}

    def look(epoch: int) -> None:
        looks[epoch] = load_checkpoint(tmp_path / "last.ckpt").network.tta

    fit(Plan(recipe), colour_data, cpu, tmp_path, observers=[watcher(look)])
    assert looks == {1: False, 2: True}  # at the end of the training only


def test_a_loaded_network_predicts_what_validation_saw(saved: Path, data: Data) -> None:
    checkpoint = load_checkpoint(saved)
    predictions = predict(checkpoint.network, data.val, checkpoint.story.preprocessing)
    assert (predictions.predicted == data.val.labels).mean() == checkpoint.story.rows[-1].val_acc
    assert predictions.losses.mean() == pytest.approx(checkpoint.story.rows[-1].val_loss, rel=1e-5)
    kept = Predictions.of(checkpoint.val_logits, data.val)
    np.testing.assert_allclose(kept.probabilities, predictions.probabilities, atol=1e-6)
    assert np.array_equal(kept.labels, predictions.labels)


def test_what_validation_saw_is_not_asked_again(saved: Path, data: Data) -> None:
    def say_nothing(*images: object) -> None:
        raise AssertionError

    checkpoint = load_checkpoint(saved)
    checkpoint.network.register_forward_pre_hook(say_nothing)
    said = Subject(checkpoint, data.val).predictions()
    assert (said.predicted == data.val.labels).mean() == checkpoint.story.rows[-1].val_acc
    fewer = data.val.take(range(9))
    for asking in (Subject(checkpoint, fewer).predictions, Subject(checkpoint, data.val).predict):
        with pytest.raises(AssertionError):
            asking()
    assert len(Subject(load_checkpoint(saved), fewer).predictions().labels) == 9


def test_much_that_validation_saw_is_not_kept(
    recipe: Recipe, data: Data, cpu: Hardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifarkit.training.module.MAX_LOGITS", len(data.val) * 10 - 1)
    path = Path(fit(Plan(recipe, target_acc=0.001), data, cpu, tmp_path).last_checkpoint)
    assert load_checkpoint(path).val_logits is None


def test_loading_twice_gives_the_same_predictions(saved: Path, data: Data) -> None:
    first, second = (
        predict(load_checkpoint(saved).network, data.val, data.preprocessing).probabilities for _ in range(2)
    )
    assert np.array_equal(first, second)


def test_a_loaded_network_is_ready_to_evaluate(saved: Path) -> None:
    checkpoint = load_checkpoint(saved)
    assert checkpoint.path == saved
    assert not checkpoint.network.training
    assert {p.device.type for p in checkpoint.network.parameters()} == {"cpu"}


def test_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "no.ckpt", tmp_path):
        with pytest.raises(CheckpointError, match=f"no checkpoint at {path}"):
            read_story(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(100)]
)
def test_something_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    plain, zipped = tmp_path / "plain.ckpt", tmp_path / "zipped.ckpt"
    plain.write_bytes(pickle.dumps({"cifarkit": Trap(sprung)}, protocol=2))
    torch.save({"cifarkit": Trap(sprung)}, zipped)
    for path in (plain, zipped):
        with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
            load_checkpoint(path)
    assert not sprung.exists()


def test_a_stranger(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
    torch.save([1, 2, 3], tmp_path / "b.ckpt")
    for name in ("a.ckpt", "b.ckpt"):
        with pytest.raises(CheckpointError, match="was not written by cifarkit"):
            load_checkpoint(tmp_path / name)


def test_another_format(edited: Any) -> None:
    path = edited(lambda content: content["cifarkit"].update(format=99))
    with pytest.raises(CheckpointError, match="written by another version"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["cifarkit"].pop("fingerprint"),
        lambda content: content["cifarkit"].pop("rows"),
        lambda content: content["cifarkit"].pop("preprocessing"),
        lambda content: content["cifarkit"].pop("format"),
        lambda content: content["cifarkit"].update(surprise=1),
        lambda content: content.update(cifarkit=5),
        lambda content: content["cifarkit"]["rows"][0].pop("val_acc"),
        lambda content: content["cifarkit"].update(dataset=5),
        lambda content: content["cifarkit"]["plan"].update(model=["small-cnn"]),
        lambda content: content["cifarkit"]["plan"].pop("policy"),
    ],
    ids=[
        "fingerprint",
        "rows",
        "preprocessing",
        "format",
        "more",
        "no-record",
        "part-of-a-row",
        "number-for-a-name",
        "list-for-a-name",
        "no-policy",
    ],
)
def test_an_incomplete_record(edited: Any, change: Any) -> None:
    with pytest.raises(CheckpointError):
        read_story(edited(change))


def nested(deep: int) -> Any:
    """A list of two references to a list of two references, and so on: small, and endless to look through."""
    inner: Any = 0
    for _ in range(deep):
        inner = (inner, inner)
    return inner


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("epochs", -1), ("epochs", "15"), ("epochs", None), ("epochs", 10**9), ("epochs", 2.5),
        ("batch_size", 0), ("max_epochs", "12"), ("max_epochs", 10**400), ("max_epochs", float("inf")),
        ("seed", [1]), ("seed", None), ("target_acc", "0.9"), ("lr", "0.1"), ("workers", 1.5),
        ("optimizer", 5), ("image_scale", "abc"), ("image_scale", torch.zeros(1).expand(10**12)),
        ("keep_hardest", torch.zeros(3)), ("schedule", nested(60)), ("schedule", ["OneCycle"]),
        ("schedule.rise", "x"), ("model", nested(60)), ("model", ["small-cnn"]), (5, 5), ("surprise", 1),
        ("deterministic", "no"), ("precision", "fp8"),
    ],
)  # fmt: skip
def test_a_plan_of_wrong_values(edited: Any, name: Any, value: Any) -> None:
    path = edited(lambda content: content["cifarkit"]["plan"].update({name: value}))
    with pytest.raises(CheckpointError, match="lacks part of its record, or has a wrong one"):
        read_story(path)


@pytest.mark.parametrize("plan", ["abc", [["recipe", "digits"]], 5, None, torch.zeros(2)], ids=repr)
def test_what_is_no_plan(edited: Any, plan: Any) -> None:
    path = edited(lambda content: content["cifarkit"].update(plan=plan))
    with pytest.raises(CheckpointError, match="lacks part of its record, or has a wrong one"):
        read_story(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(rows=torch.zeros(1).expand(10**12)),
        lambda record: record.update(rows=nested(60)),
        lambda record: record["rows"][0].update(val_acc="1"),
        lambda record: record.update(format=torch.zeros(2)),
        lambda record: record["preprocessing"].update(side=float("inf")),
        lambda record: record["preprocessing"].update(image_shape=(1.0, 8.0, 8.0)),
        lambda record: record["preprocessing"].update(mean=torch.zeros(1).expand(10**12)),
        lambda record: record["preprocessing"].update(classes=[nested(60)]),
    ],
    ids=["rows", "nested", "row", "format", "side", "shape", "mean", "classes"],
)
def test_a_record_of_wrong_values(edited: Any, change: Any) -> None:
    path = edited(lambda content: change(content["cifarkit"]))
    with pytest.raises(CheckpointError, match="lacks part of its record, or has a wrong one"):
        read_story(path)


@pytest.mark.parametrize("rates", [None, 5, ["a"], {"a": 1}], ids=str)
def test_wrong_learning_rates(edited: Any, rates: Any) -> None:
    path = edited(lambda content: content.update(learning_rates=rates))
    with pytest.raises(CheckpointError, match="lacks its learning rates"):
        read_rates(path)


@pytest.mark.parametrize("side", [0, 9, 100_000])
def test_images_are_not_shown_larger_than_they_are(edited: Any, side: int) -> None:
    path = edited(lambda content: content["cifarkit"]["preprocessing"].update(side=side))
    with pytest.raises(CheckpointError, match=f"images of 8 pixels shown at {side}"):
        load_checkpoint(path)


@pytest.mark.parametrize("shape", [(4000, 8, 8), (1, 10**6, 10**6), (1, 8, 0), (-1, 8, 8)])
def test_absurd_images_get_no_network(edited: Any, shape: tuple[int, int, int]) -> None:
    path = edited(lambda content: content["cifarkit"]["preprocessing"].update(image_shape=shape))
    with pytest.raises(CheckpointError, match="lacks part of its record"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("state_dict"),
        lambda content: content.update(state_dict=[1]),
        lambda content: content["state_dict"].update({5: 5}),
        lambda content: content["state_dict"].pop("network.6.bias"),
        lambda content: content["state_dict"].update({"network.6.bias": torch.zeros(11)}),
        lambda content: content["cifarkit"]["plan"].update(model="small-cnn"),
        lambda content: content["cifarkit"]["plan"].update(model="gone"),
        lambda content: content["cifarkit"]["plan"].pop("model"),
        lambda content: content.update(val_logits=[0.0]),
        lambda content: content.update(val_logits=torch.zeros(100, 9)),
        lambda content: content.update(val_logits=torch.full((100, 10), torch.nan)),
        lambda content: content.update(val_logits=torch.zeros(1, 10).expand(2**45, 10)),
        lambda content: content.update(val_logits=torch.zeros(1, 10).expand(100, 10)),
        lambda content: content.update(val_logits=torch.zeros(100, 10, device="meta")),
        lambda content: content.update(val_logits=torch.zeros(100, 10, requires_grad=True)),
    ],
    ids=[
        "no-weights",
        "list-of-weights",
        "number-for-a-weight",
        "one-missing",
        "other-shape",
        "other-model",
        "unknown-model",
        "no-model",
        "no-logits",
        "other-classes",
        "no-numbers",
        "endless",
        "repeated",
        "nowhere",
        "to-be-trained",
    ],
)
def test_weights_and_logits_that_do_not_fit(edited: Any, change: Any) -> None:
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(edited(change))
    assert "\n" not in str(error.value)


def test_a_model_of_another_program_is_said_to_be_that(edited: Any) -> None:
    path = edited(lambda content: content["cifarkit"]["plan"].update(model="mine"))
    with pytest.raises(CheckpointError, match=r"weights of 'mine'.* ask the program that added it"):
        load_checkpoint(path)


def test_a_network_from_a_recipe_depends_on_the_generator_alone(recipe: Recipe, data: Data) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(1)
        states.append(build_network(recipe, data).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
