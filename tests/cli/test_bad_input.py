"""What people get wrong: the right exit code, one line that helps, nothing left behind."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_harness import COLOURS, Outcome, Trained, colour_folder, leftovers, run
from run_store import Store

from cifarkit import results

pytestmark = pytest.mark.filterwarnings("default")

Cli = Callable[..., Outcome]
FIT = "fit --dataset digits --epochs 1"

WRONG_USAGE = [
    # unknown names: the nearest and the valid ones are named
    ("fit --dataset cifar1O", ["unknown data set 'cifar1O'", "did you mean cifar10", "folder:PATH"]),
    ("data stats mnits", ["unknown data set", "did you mean", "mnist"]),
    ("data preview digits --policy fats", ["unknown policy", "did you mean fast", "original-cifar10"]),
    ("data preview digits --split val", ["unknown split 'val'", "train, test"]),
    ("summary", ["Missing argument", "resnet18"]),
    ("summary resnet", ["unknown model 'resnet'", "resnet18", "speednet"]),
    ("fit --dataset digits --model smallcnn", ["unknown model", "did you mean small-cnn"]),
    ("fit --dataset digits --recipe quick", ["unknown recipe 'quick'", "fast", "onecycle", "digits"]),
    ("fit --dataset digits --policy heavy", ["unknown policy 'heavy'", "original-cifar10"]),
    ("fit --dataset digits --optimizer adamm", ["unknown optimizer", "did you mean adam", "muon"]),
    ("fit --dataset digits --precision fp64", ["unknown precision 'fp64'", "bf16"]),
    ("lr-find --dataset digits --rule deepest", ["unknown rule 'deepest'", "steepest", "valley"]),
    # numbers no training can use
    ("fit --dataset digits --epochs 0", ["epochs must be at least 1"]),
    ("fit --dataset digits --epochs -3", ["epochs must be at least 1"]),
    ("fit --dataset digits --epochs many", ["valid int", "--epochs"]),
    ("fit --dataset digits --batch-size 1", ["batch size must be at least 2"]),
    ("fit --dataset digits --batch-size 5000", ["5000", "1437 training images", "--batch-size 359"]),
    (
        "fit --dataset digits --recipe fast --model small-cnn --batch-size 1100",
        ["1100", "1006 of 1437 training images that an epoch shows", "--batch-size 251"],
    ),
    ("fit --dataset digits --policy airbench96", ["Cutout", "at least 13 x 13 pixels, not 8 x 8"]),
    ("fit --dataset digits --val-size 5000", ["cannot hold out 5000", "between 10 and 1427"]),
    ("fit --dataset digits --val-size 3", ["cannot hold out 3"]),
    ("fit --dataset digits --val-size -1", ["--val-size"]),
    ("fit --dataset digits --workers -1", ["--workers"]),
    ("fit --dataset digits --seed -1", ["--seed"]),
    ("fit --dataset digits --lr 0", ["positive number, not 0"]),
    ("fit --dataset digits --lr -1", ["positive number, not -1"]),
    ("fit --dataset digits --lr nan", ["positive number, not nan"]),
    ("fit --dataset digits --lr inf", ["positive number, not inf"]),
    ("fit --dataset digits --lr abc", ["number or 'auto', not 'abc'"]),
    ("fit --dataset digits --target-acc 90", ["fraction", "did you mean 0.9?"]),
    ("fit --dataset digits --target-acc 1.01", ["fraction between 0 and 1, not 1.01"]),
    ("fit --dataset digits --target-acc 0", ["fraction between 0 and 1, not 0"]),
    ("fit --dataset digits --target-acc -1", ["fraction between 0 and 1, not -1"]),
    ("fit --dataset digits --max-epochs 9", ["--max-epochs goes with --target-acc"]),
    ("fit --target-acc 0.9 --epochs 5 --max-epochs 4", ["--max-epochs 4 is less than --epochs 5"]),
    ("fit --dataset digits --target-acc nan", ["fraction between 0 and 1, not nan"]),
    ("lr-find --dataset digits --min-lr 1 --max-lr 0.1", ["0 < min < max"]),
    ("lr-find --dataset digits --min-lr 0", ["0 < min < max"]),
    ("lr-find --dataset digits --max-lr 0", ["0 < min < max"]),
    ("lr-find --dataset digits --max-lr nan", ["0 < min < max"]),
    ("lr-find --dataset digits --steps 3", ["at least 10 steps"]),
    ("lr-find --dataset digits --batch-size 5000", ["larger than the 1437 training images"]),
    ("data preview digits --count 0", ["--count"]),
    ("fit --dataset digits --image-size 64", ["--image-size is for folder:PATH", "digits are 8 x 8"]),
    ("data stats mnist --image-size 8", ["--image-size is for folder:PATH", "mnist are 28 x 28"]),
    ("summary small-cnn --channels 7", ["--channels"]),
    ("summary speednet --image-size 8", ["at least 9 x 9", "small-cnn"]),
    ("fit --dataset digits --model speednet", ["speednet needs images of at least 9 x 9 pixels"]),
    # what cannot be
    ("fit --dataset folder:", ["folder: needs a path"]),
    ("fit --dataset digits --nodes 2 --gpus 0", ["--nodes needs GPUs"]),
    ("fit --dataset digits --gpus -1", ["--gpus"]),
    ("fit --dataset digits --experiment ''", ["experiment", "empty"]),
    ("gradcam --index 1 --correct", ["choose one of image files, --index and --correct"]),
    ("gradcam picture.png --split test", ["belong to no data set", "--split"]),
    ("gradcam picture.png --correct", ["choose one of image files, --index and --correct"]),
    # words that are no command, option or value
    ("fti", ["no such command 'fti'", "fit"]),
    ("data verfy", ["no such command 'verfy'", "verify"]),
    ("fit --epoch 3", ["no such option", "--epochs"]),
    ("fit --epochs", ["--epochs", "argument"]),
    ("fit digits", ["unexpected extra argument"]),
    ("summary", ["missing argument", "model"]),
]

# Asked of a finished fit on digits.
WRONG_QUESTIONS = [
    ("eval --split validation", 2, ["unknown split 'validation'", "train, val, test"]),
    ("eval --split val", 2, ["no images are held out"]),
    ("eval --dataset digts", 2, ["unknown data set", "did you mean digits"]),
    ("eval --run 00000000", 1, ["'00000000'", "{run}"]),
    ("eval --run 0123456789abcdef0123456789abcdef", 1, ["0123456789abcdef", "{run}"]),
    ("eval --run ''", 2, ["a run is named by", "'best'"]),
    ("fit --resume ''", 2, ["a run is named by its id, a prefix of one, or 'last'"]),
    (
        "fit --resume last",
        1,
        ["no interrupted fit", "is finished; `--resume", "with a higher --target-acc and --max-epochs"],
    ),
    ("eval --run last --experiment nosuch", 1, ["'nosuch'"]),
    ("misclassified --sort size", 2, ["unknown sort order 'size'", "confidence, loss, index"]),
    ("misclassified --true 11", 2, ["unknown class '11'", "0, 1, 2"]),
    ("misclassified --true 3 --pred 3", 2, ["no mistake"]),
    ("misclassified --pred seven", 2, ["unknown class 'seven'", "7"]),
    ("misclassified --limit 0", 2, ["--limit"]),
    ("gradcam --method gradcamm", 2, ["unknown method 'gradcamm'", "did you mean gradcam", "eigencam"]),
    ("gradcam --layer features.99", 2, ["unknown layer 'features.99'", "features.0"]),
    ("gradcam --layer head", 2, ["layer 'head' has no map"]),
    ("gradcam --index 99999", 2, ["no image 99999", "test split of digits", "360 images"]),
    ("gradcam --index -1", 2, ["--index", "or equal to 0"]),
    ("gradcam nosuch.png", 1, ["nosuch.png", "no such file"]),
    ("gradcam text.png", 1, ["text.png", "not an image"]),
    ("gradcam .", 1, ["."]),
    ("eval --gpus -1", 2, ["--gpus"]),
]

# Of these, what is refused before the seconds that torch takes to load.
AT_ONCE = {
    "fit --dataset cifar1O",
    "fit --dataset digits --lr abc",
    "fit --dataset digits --batch-size 5000",
    "fit --dataset digits --val-size 5000",
    "fit --dataset digits --model speednet",
    "fit --dataset digits --policy airbench96",
    "lr-find --dataset digits --batch-size 5000",
    "lr-find --dataset digits --rule deepest",
    "lr-find --dataset digits --min-lr 0",
    "lr-find --dataset digits --steps 3",
    "eval --split validation",
    "misclassified --sort size",
    "misclassified --true 3 --pred 3",
    "gradcam --method gradcamm",
    "gradcam --index -1",
    "gradcam nosuch.png",
}
assert {line for line, *_ in (*WRONG_USAGE, *WRONG_QUESTIONS)} >= AT_ONCE


def words(line: str) -> list[str]:
    return ["" if word == "''" else word for word in line.split()]


@pytest.mark.parametrize(("line", "parts"), WRONG_USAGE, ids=[line for line, _ in WRONG_USAGE])
def test_wrong_usage(line: str, parts: list[str], cli: Cli, tmp_path: Path) -> None:
    outcome = cli(*words(line)).failed(2, *parts)
    assert outcome.out == ""
    assert not (line in AT_ONCE and "loading torch" in outcome.err)
    assert Store(tmp_path).statuses == []
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("line", "code", "parts"), WRONG_QUESTIONS, ids=[line for line, _, _ in WRONG_QUESTIONS]
)
def test_wrong_questions(
    line: str, code: int, parts: list[str], cli: Cli, trained: Trained, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    outcome = cli(*words(line), store=trained)
    outcome.failed(code, *(part.format(run=trained.run_id[:8]) for part in parts))
    assert outcome.out == ""
    assert not (line in AT_ONCE and "loading torch" in outcome.err)
    assert not (tmp_path / "figures").exists()
    assert trained.statuses == ["FINISHED"]


@pytest.mark.parametrize(
    ("line", "code"),
    [("fit --dataset digits --epochs 0", 2), ("fit --dataset nosuch", 2), ("data stats cifar10", 1)],
)
def test_the_process_ends_with_the_same_code(line: str, code: int, tmp_path: Path) -> None:
    assert run(line.split(), tmp_path).failed(code).out == ""


def test_nothing_to_look_at_yet(cli: Cli) -> None:
    for command in ("eval", "misclassified", "gradcam"):
        for reference in ("last", "best"):
            cli(command, "--run", reference).failed(1, "no finished fit", "cifarkit fit")


def test_gpus_that_are_not_there(
    cli: Cli, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("cifarkit.tracking.RunRecorder", None)  # nothing is to be recorded
    here = torch.cuda.device_count()
    for command in (f"{FIT} --runs 2", FIT, "lr-find --dataset digits", "eval"):
        outcome = cli(*command.split(), "--gpus", here + 1, store=trained)
        outcome.failed(2, f"--gpus {here + 1}", f"--gpus {here}", "would run")
    assert list(tmp_path.iterdir()) == []


# -- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["fit", "lr-find", "data stats", "data preview"])
def test_missing_data_says_how_to_get_it(command: str, cli: Cli, tmp_path: Path) -> None:
    name = ("--dataset", "cifar10") if " " not in command else ("cifar10",)
    outcome = cli(*command.split(), *name, "--data-dir", tmp_path / "empty")
    outcome.failed(
        1, "cifar-10-batches-py/data_batch_1", "cifarkit data download cifar10", "CIFARKIT_DATA_DIR"
    )
    assert "loading" not in outcome.err
    assert Store(tmp_path).statuses == []


@pytest.mark.parametrize(
    ("size", "reason"), [(1000, "truncated: 1000 of 31035704 bytes"), (31035704, "altered: md5 is")]
)
def test_damaged_data_is_never_parsed(size: int, reason: str, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "data" / "cifar-10-batches-py" / "data_batch_1"
    file.parent.mkdir(parents=True)
    # A pickle that would make a folder, if anyone ran it.
    attack = b"cos\nmkdir\n(S'attacked'\ntR."
    file.write_bytes(attack.ljust(size, b"."))
    for command in (["fit"], ["data", "stats"]):
        cli(*command).failed(1, "data_batch_1", reason, "data download cifar10")
    assert not (tmp_path / "attacked").exists()
    assert Store(tmp_path).statuses == []


def test_verify_lists_what_is_wrong(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "data" / "cifar-10-batches-py" / "data_batch_1"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"short")
    outcome = cli("data", "verify", "cifar10", "--json")
    outcome.failed(1, "7 of 7 files are missing or damaged")
    report = outcome.validated(results.VerifyReport)
    assert report["ok"] is False
    assert [check["status"] for check in report["files"]] == ["damaged"] + ["missing"] * 6
    plain = cli("data", "verify", "cifar10").failed(1)
    assert plain.line == "damaged"
    assert "missing: " in plain.err


def test_verify_says_what_fetches_missing_files(cli: Cli) -> None:
    outcome = cli("data", "verify", "cifar100").failed(1, "missing; `cifarkit data download cifar100`")
    assert outcome.line == "missing"


def test_download_without_a_network(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    outcome = cli("data", "download", "cifar10").failed(1, "cifar-10-python.tar.gz", "without a network")
    assert outcome.out == ""
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def no_folder(root: Path) -> None:
    """Leaves the folder missing."""


def one_class(root: Path) -> None:
    colour_folder(root, {"red": COLOURS["red"]}, 3, 16)


def an_empty_class(root: Path) -> None:
    (colour_folder(root, COLOURS, 3, 16) / "yellow").mkdir()


def an_unreadable_image(root: Path) -> None:
    (colour_folder(root, COLOURS, 3, 16) / "red" / "00.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")


def a_truncated_image(root: Path) -> None:
    file = colour_folder(root, COLOURS, 3, 16) / "red" / "00.png"
    file.write_bytes(file.read_bytes()[:200])


def a_class_of_one(root: Path) -> None:
    (colour_folder(root, COLOURS, 2, 16) / "red" / "00.png").unlink()


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (no_folder, ["no such folder"]),
        (one_class, ["only one class folder, red"]),
        (an_empty_class, ["yellow", "empty class folder"]),
        (an_unreadable_image, ["00.png", "cannot be read", "`cifarkit data verify folder:"]),
        (a_truncated_image, ["00.png", "cannot be read"]),
        (a_class_of_one, ["class red has a single image"]),
    ],
)
def test_folders_that_hold_no_data_set(
    spoil: Callable[[Path], None], parts: list[str], cli: Cli, tmp_path: Path
) -> None:
    spoil(tmp_path / "images")
    outcome = cli("fit", "--dataset", f"folder:{tmp_path / 'images'}").failed(1, *parts)
    assert "loading torch" not in outcome.err
    assert Store(tmp_path).statuses == []


# -- checkpoints ----------------------------------------------------------------------------------


def garbage(checkpoint: bytes) -> bytes:
    return b"garbage" * 100


def truncated(checkpoint: bytes) -> bytes:
    return checkpoint[: len(checkpoint) // 2]


def empty(checkpoint: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("spoil", [garbage, truncated, empty])
def test_a_spoilt_checkpoint(
    spoil: Callable[[bytes], bytes], cli: Cli, trained: Trained, tmp_path: Path
) -> None:
    (tmp_path / "bad.ckpt").write_bytes(spoil(trained.checkpoint.read_bytes()))
    for command in ("eval", "gradcam"):
        cli(command, "--checkpoint", "bad.ckpt").failed(1, "bad.ckpt", "damaged or not a checkpoint")
    assert not (tmp_path / "figures").exists()


def test_a_spoilt_checkpoint_in_a_run(cli: Cli, own_trained: Trained) -> None:
    own_trained.checkpoint.write_bytes(b"garbage")
    cli("eval", store=own_trained).failed(1, "best.ckpt", "damaged")
    own_trained.checkpoint.unlink()
    cli("eval", store=own_trained).failed(1, own_trained.run_id[:8], "best.ckpt")


def test_a_checkpoint_is_never_run(cli: Cli, tmp_path: Path) -> None:
    import torch

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "attacked"),)

    torch.save({"cifarkit": Attack()}, tmp_path / "attack.ckpt")
    cli("eval", "--checkpoint", "attack.ckpt").failed(1, "attack.ckpt")
    assert not (tmp_path / "attacked").exists()


def test_checkpoints_of_others(cli: Cli, tmp_path: Path) -> None:
    import torch

    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    cli("eval", "--checkpoint", "other.ckpt").failed(1, "other.ckpt", "not written by cifarkit")
    torch.save({"cifarkit": {"format": 1, "dataset": "digits"}}, tmp_path / "part.ckpt")
    cli("eval", "--checkpoint", "part.ckpt").failed(1, "part.ckpt")
    torch.save({"cifarkit": {}}, tmp_path / "bare.ckpt")
    cli("eval", "--checkpoint", "bare.ckpt").failed(1, "bare.ckpt")
    cli("eval", "--checkpoint", "nosuch.ckpt").failed(1, "no checkpoint at nosuch.ckpt")
    cli("eval", "--checkpoint", ".").failed(1, "no checkpoint at .")


def test_a_data_set_with_other_classes(cli: Cli, trained: Trained, tmp_path: Path) -> None:
    root = colour_folder(tmp_path / "colours", COLOURS, 3, 16)
    outcome = cli("eval", "--dataset", f"folder:{root}", store=trained)
    outcome.failed(1, "was trained on digits (10 classes", "(3 classes", "; 'blue' for '0')")


# -- places that cannot be used -------------------------------------------------------------------


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]  # bound, never listening


@pytest.mark.parametrize("command", [FIT, "lr-find --dataset digits", "eval"])
def test_a_server_that_does_not_answer(command: str, cli: Cli, closed_port: int) -> None:
    started = time.monotonic()
    address = f"http://127.0.0.1:{closed_port}"
    outcome = cli(*command.split(), "--tracking-uri", address)
    outcome.failed(1, address, "does not answer", "mlflow server")
    assert outcome.out == ""
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("command", "address"),
    [
        (FIT, "sqlite:///{file}/mlflow.db"),
        ("eval", "sqlite:///{file}"),
        ("eval", "nosuch://x"),
    ],
)
def test_a_store_that_cannot_be(command: str, address: str, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way " * 100)
    cli(*command.split(), "--tracking-uri", address.format(file=file)).failed(1, "store", "cannot be used")
    assert file.read_text() == "in the way " * 100


@pytest.mark.parametrize(
    "command",
    ["data preview digits", "eval", "misclassified", "gradcam --correct", "lr-find --dataset digits"],
)
def test_an_output_folder_that_cannot_be(
    command: str, cli: Cli, own_trained: Trained, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    outcome = cli(*command.split(), "--output", "file/figures", store=own_trained)
    outcome.failed(1, "file/figures")
    assert outcome.out == ""
    assert "RUNNING" not in own_trained.statuses
    assert leftovers(tmp_path) == []


def test_what_the_store_does_not_take_is_kept(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mlruns").write_text("a file where the artifacts should go")
    outcome = cli(*FIT.split()).succeeded()
    kept = tmp_path / ".cifarkit" / outcome.line
    assert "warning: MLflow did not take everything" in outcome.err
    assert f".cifarkit/{outcome.line}" in outcome.err.replace("\n", "")
    assert Store(tmp_path).statuses == ["FINISHED"]
    cli("eval", "--checkpoint", kept / "checkpoints" / "best.ckpt").succeeded()
    assert leftovers(kept) == []


def test_asking_makes_no_store(cli: Cli, tmp_path: Path) -> None:
    for command in ("eval", "runs list", "fit --resume last"):
        outcome = cli(*command.split(), "--tracking-uri", f"sqlite:///{tmp_path}/nowhere/mlflow.db")
        outcome.failed(1, f"there is no store at {tmp_path}/nowhere/mlflow.db")
    assert list(tmp_path.iterdir()) == []


# -- debugging ------------------------------------------------------------------------------------


def test_debug_shows_the_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("fit", "--dataset", "cifar10", "--data-dir", "empty")
    shown = cli(*command, "--debug")
    assert shown.code == 1
    assert "Traceback (most recent call last)" in shown.err
    assert shown.err.splitlines()[-1] == cli(*command).failed(1).errors[0]
    monkeypatch.setenv("CIFARKIT_DEBUG", "1")
    assert "Traceback (most recent call last)" in cli(*command).err
