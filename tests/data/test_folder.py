from __future__ import annotations

import os
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from cifarkit.data import folder
from cifarkit.data.datasets import find_dataset
from cifarkit.data.loading import download, load_splits, stats, verify
from cifarkit.errors import DataError


def fill(path, count=5, size=(8, 8), shade=0, suffix=".png"):
    """``count`` noisy images in one class folder."""
    path.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(shade)
    for number in range(count):
        pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{number:03}{suffix}")


def load(path, split="train", image_size=8):
    return find_dataset(f"folder:{path}", image_size).load(path, split)


def refused(path, split="train"):
    """The message of the DataError that loading raises; one line."""
    with pytest.raises(DataError) as caught:
        load(path, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def shared(tmp_path):
    """A folder without train and test folders."""
    for shade, (name, count) in enumerate([("cat", 20), ("dog", 10), ("ibis", 2)]):
        fill(tmp_path / name, count, shade=shade)
    return tmp_path


@pytest.fixture
def split(tmp_path):
    for shade, name in enumerate(["cat", "dog"]):
        fill(tmp_path / "train" / name, 4, shade=shade)
        fill(tmp_path / "test" / name, 2, shade=10 + shade)
    return tmp_path


def test_pixels_labels_and_order(split):
    train = load(split)
    assert (train.name, train.split, train.classes) == (f"folder:{split}", "train", ("cat", "dog"))
    assert train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    paths = [split / "train" / name / f"00{n}.png" for name in ("cat", "dog") for n in range(4)]
    np.testing.assert_array_equal(train.images, [np.asarray(Image.open(path)) for path in paths])
    test = load(split, "test")
    assert test.class_counts() == {"cat": 2, "dog": 2}
    assert test.indices.tolist() == [0, 1, 2, 3]
    assert test.take([3, 0]).files.tolist() == ["test/dog/001.png", "test/cat/000.png"]


def test_a_folder_that_would_be_left_out_is_named(split):
    fill(split / "validation" / "cat", 1)
    assert "validation would not be used; call it test or val" in refused(split)


def test_val_folder_serves_as_test_where_there_is_no_test_folder(split):
    fill(split / "val" / "cat", 1)
    assert len(load(split, "test")) == 4
    (split / "test").rename(split / "elsewhere")
    assert load(split, "test").class_counts() == {"cat": 1, "dog": 0}


def test_train_folder_alone_is_shared(split):
    (split / "test").rename(split / "elsewhere")
    assert (len(load(split)), len(load(split, "test"))) == (6, 2)


def test_class_called_train_is_a_class(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "bus")
    assert load(tmp_path).classes == ("bus", "train")


def test_shared_folder_is_stratified_and_complete(shared):
    train, test = load(shared), load(shared, "test")
    assert train.class_counts() == {"cat": 16, "dog": 8, "ibis": 1}
    assert test.class_counts() == {"cat": 4, "dog": 2, "ibis": 1}
    assert sorted([*train.indices, *test.indices]) == list(range(32))


def test_sharing_depends_on_names_alone(shared, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy")
    for name in ("ibis", "dog", "cat"):
        for path in sorted((shared / name).iterdir(), reverse=True):
            (copy / name).mkdir(exist_ok=True)
            (copy / name / path.name).write_bytes(path.read_bytes())
    for part in ("train", "test"):
        assert load(copy, part).fingerprint == load(shared, part).fingerprint


def test_hold_out_and_statistics(shared):
    dataset = find_dataset(f"folder:{shared}", 8)
    splits = load_splits(dataset, shared, val_size=6)
    assert (len(splits.train), len(splits.val), splits.val.split) == (19, 6, "val")
    assert dataset.mean_std(splits.train) == splits.train.channel_stats()
    described = stats(dataset, shared)
    assert [row.samples for row in described.splits] == [25, 7]
    assert described.image_shape == (3, 8, 8)


def test_images_of_one_colour_cannot_be_normalised(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name)
        for path in (tmp_path / name).iterdir():
            Image.new("RGB", (8, 8), "red").save(path)
    with pytest.raises(DataError, match="same value"):
        find_dataset(f"folder:{tmp_path}", 8).mean_std(load(tmp_path))


def test_unicode_names_hidden_and_other_files(tmp_path):
    fill(tmp_path / "katzen größer")
    fill(tmp_path / "犬", suffix=".JPG")
    (tmp_path / "犬" / "labels.csv").write_text("no image")
    (tmp_path / "犬" / ".DS_Store").write_text("hidden")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.txt").write_text("no class")
    train = load(tmp_path)
    assert train.classes == ("katzen größer", "犬")
    assert len(train) + len(load(tmp_path, "test")) == 10


def test_missing_folder(tmp_path):
    assert "no such folder" in refused(tmp_path / "absent")


def test_no_class_folders(tmp_path):
    assert "no class folders" in refused(tmp_path)


def test_single_class(tmp_path):
    fill(tmp_path / "cat")
    assert "only one class folder, cat" in refused(tmp_path)


def test_empty_class_folder(split):
    (split / "test" / "dog").rename(split / "away")
    (split / "test" / "dog").mkdir()
    (split / "test" / "dog" / "notes.txt").touch()
    message = refused(split, "test")
    assert f"{split / 'test' / 'dog'}: an empty class folder" in message
    assert ".jpeg" in message


def test_test_folder_without_classes(split):
    for name in ("cat", "dog"):
        (split / "test" / name).rename(split / name)
    assert f"{split / 'test'}: no class folders" in refused(split, "test")


def test_test_class_unknown_to_train(split):
    fill(split / "test" / "ibis", 1)
    for part in ("train", "test"):
        assert "class ibis is not in" in refused(split, part)


def test_folder_inside_a_class_folder(split):
    fill(split / "train" / "cat" / "more")
    assert "holds the folder more" in refused(split)


def test_class_with_one_image_cannot_be_shared(shared):
    (shared / "ibis" / "001.png").unlink()
    assert "class ibis has a single image" in refused(shared)


@pytest.mark.parametrize("harm", ["truncated", "no image", "empty"])
def test_unreadable_image_is_named(split, harm):
    path = split / "train" / "dog" / "002.png"
    content = {"truncated": path.read_bytes()[:-60], "no image": b"MZ" * 100, "empty": b""}[harm]
    path.write_bytes(content)
    assert refused(split).startswith(f"{path}: cannot be read: ")
    report = verify(find_dataset(f"folder:{split}", 8), split)
    assert not report.ok
    assert [file.path for file in report.files if file.status == "damaged"] == [str(path)]
    assert len(report.files) == 12


def test_verify_intact(shared):
    report = verify(find_dataset(f"folder:{shared}"), shared)
    assert report.ok
    assert len(report.files) == 32


def test_verify_tells_what_is_left_out(shared):
    notes = [shared / "ibis" / "notes.txt", shared / "stray.png"]
    for note in notes:
        note.write_text("taken in 1996")
    report = verify(find_dataset(f"folder:{shared}"), shared)
    assert report.ok
    assert {file.path for file in report.files if file.status == "ignored"} == set(map(str, notes))
    assert len(report.files) == 34


@pytest.mark.parametrize("colours", [False, True])
def test_sixteen_bit_image(split, colours):
    """Pillow would keep the upper half of what is in colours: of twelve bits nothing but the darkest."""
    path = split / "train" / "cat" / "000.png"
    if colours:
        cv2.imwrite(str(path), np.full((8, 8, 3), 3000, dtype=np.uint16))
    else:
        Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16)).save(path)
    assert f"{path}: more than 8 bits" in refused(split)


def test_class_name_that_no_report_could_hold(split):
    os.rename(split / "train" / "cat", os.fsencode(split / "train") + b"/caf\xe9")
    assert "the name of the class folder caf? is not UTF-8" in refused(split)


def test_paths_that_cannot_be(tmp_path):
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    for path in ("~nobody-of-this-name/photos", tmp_path / "one", os.fsdecode(b"/caf\xe9")):
        with pytest.raises(DataError, match=r"no such folder|not UTF-8"):
            find_dataset(f"folder:{path}").load(tmp_path, "train")


def test_format_that_could_run_a_program(split):
    """Pillow would hand PostScript to an interpreter, whatever the file is called."""
    (split / "train" / "cat" / "000.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    assert "not an image" in refused(split)


def test_decompression_bomb(split, monkeypatch):
    monkeypatch.setattr(folder, "MAX_PIXELS", 8 * 8 - 1)
    assert "more than 63 pixels" in refused(split)
    assert not verify(find_dataset(f"folder:{split}"), split).ok


def test_large_images_are_decoded_one_at_a_time(split, monkeypatch):
    at_once, most = [], []
    scale = folder.ImageOps.fit

    def fit(image, size):
        at_once.append(image)
        most.append(len(at_once))
        time.sleep(0.01)
        at_once.remove(image)
        return scale(image, size)

    monkeypatch.setattr(folder.ImageOps, "fit", fit)
    monkeypatch.setattr(folder, "LARGE_PIXELS", 8 * 8 - 1)
    assert verify(find_dataset(f"folder:{split}"), split).ok
    assert max(most) == 1


def test_memory_limit_is_checked_before_reading(split, monkeypatch):
    monkeypatch.setattr(folder, "read_image", lambda *_, **__: pytest.fail("an image was read"))
    monkeypatch.setattr(folder, "MAX_BYTES", 8 * 8 * 8 * 3 - 1)
    assert "8 train images of 8x8 take" in refused(split)


@pytest.mark.parametrize("what", ["image", "class", "split", "broken"])
def test_link_that_leads_out(split, what, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    fill(outside / "cat")
    link, target = {
        "image": (split / "train" / "cat" / "link.png", outside / "cat" / "000.png"),
        "class": (split / "train" / "emu", outside / "cat"),
        "split": (split / "val", outside),
        "broken": (split / "train" / "cat" / "link.png", outside / "absent.png"),
    }[what]
    link.symlink_to(target)
    assert f"{link}: a symbolic link that leads out" in refused(split)


def test_link_within_the_folder_and_link_to_it(split, tmp_path_factory):
    (split / "train" / "cat" / "again.png").symlink_to(split / "train" / "cat" / "000.png")
    link = tmp_path_factory.mktemp("links") / "data"
    link.symlink_to(split)
    train = load(link)
    assert train.class_counts() == {"cat": 5, "dog": 4}
    assert train.name == f"folder:{split}"


def test_link_loop_and_pipe(split):
    loop = split / "train" / "cat" / "loop.png"
    loop.symlink_to(loop)
    assert f"{loop}: cannot be read" in refused(split)
    loop.unlink()
    os.mkfifo(split / "train" / "cat" / "pipe.png")
    assert "not a regular file" in refused(split)


def test_download_only_checks_the_folder(split, tmp_path):
    dataset = find_dataset(f"folder:{split}")
    assert download(dataset, tmp_path, lambda *_: pytest.fail("nothing to download")) == split
    with pytest.raises(DataError, match="no such folder"):
        download(find_dataset(f"folder:{tmp_path / 'absent'}"), tmp_path, lambda *_: None)
