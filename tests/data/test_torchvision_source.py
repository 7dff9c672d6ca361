"""Reading, checking and fetching CIFAR and MNIST files, on tiny files in the official formats."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from cifarkit.data.loading import download, stats, verify
from cifarkit.data.torchvision_source import CifarSource
from cifarkit.errors import DataError


def silent(name, done, total):
    pass


def leftovers(folder):
    return [path for path in folder.rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize("split", ["train", "test"])
def test_load(tiny, split, tmp_path):
    tiny.write(tmp_path)
    images = tiny.dataset.load(tmp_path, split)
    np.testing.assert_array_equal(images.images, tiny.images[split])
    np.testing.assert_array_equal(images.labels, tiny.labels[split])
    assert images.image_shape == tiny.dataset.image_shape
    assert (images.name, images.split, images.classes) == (tiny.dataset.name, split, tiny.dataset.classes)
    assert images.images.flags.c_contiguous
    assert images.images.flags.writeable
    np.testing.assert_array_equal(images.indices, np.arange(len(images)))
    assert stats(tiny.dataset, tmp_path).splits[split == "test"].fingerprint == images.fingerprint


def test_same_images_as_torchvision(tiny, tmp_path, monkeypatch):
    import torchvision.datasets

    tiny.write(tmp_path)
    publication = getattr(torchvision.datasets, tiny.source.published)
    if isinstance(tiny.source, CifarSource):
        meta = {**publication.meta, "md5": tiny.source.other[0].md5}
        monkeypatch.setattr(publication, "_load_meta", lambda self: None)
        monkeypatch.setattr(publication, "meta", meta)
        monkeypatch.setattr(publication, "train_list", [[f.name, f.md5] for f in tiny.source.train])
        monkeypatch.setattr(publication, "test_list", [[f.name, f.md5] for f in tiny.source.test])
    theirs = publication(tmp_path, train=True)
    ours = tiny.dataset.load(tmp_path, "train")
    np.testing.assert_array_equal(np.asarray(theirs.data).reshape(ours.images.shape), ours.images)
    np.testing.assert_array_equal(np.asarray(theirs.targets), ours.labels)


def test_missing_file(tiny, tmp_path):
    tiny.write(tmp_path)
    name = tiny.source.train[-1].name
    tiny.path(tmp_path, name).unlink()
    with pytest.raises(DataError) as caught:
        tiny.dataset.load(tmp_path, "train")
    message = str(caught.value)
    assert f"no {tiny.source.folder}/{name} in {tmp_path}" in message
    assert f"cifarkit data download {tiny.dataset.name}" in message
    assert "CIFARKIT_DATA_DIR" in message
    assert "\n" not in message
    report = verify(tiny.dataset, tmp_path)
    assert not report.ok
    assert {file.path: file.status for file in report.files if file.status != "ok"} == {
        str(tiny.path(tmp_path, name)): "missing"
    }
    # The other split is intact and still loads.
    assert len(tiny.dataset.load(tmp_path, "test")) == 4


@pytest.mark.parametrize("harm", ["truncated", "altered"])
def test_damaged_file(tiny, harm, tmp_path):
    tiny.write(tmp_path)
    name = tiny.source.test[0].name
    path = tiny.path(tmp_path, name)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content[:-1] if harm == "truncated" else content)
    with pytest.raises(DataError, match=rf"{name}: .*{harm}.*cifarkit data download") as caught:
        tiny.dataset.load(tmp_path, "test")
    assert "\n" not in str(caught.value)
    assert [file.status for file in verify(tiny.dataset, tmp_path).files].count("damaged") == 1


def test_a_file_that_grew_is_not_read(tiny, tmp_path, monkeypatch):
    """It may be larger than the memory."""
    tiny.write(tmp_path)
    file = tiny.source.test[0]
    if file.size is None:
        pytest.skip("its size was not published")
    with tiny.path(tmp_path, file.name).open("r+b") as grown:
        grown.truncate(2**40)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail(f"read {self}"))
    content, check = file.read(tiny.path(tmp_path, file.name).parent)
    assert (content, check.status) == (b"", "damaged")
    assert f"{2**40} instead of {file.size} bytes" in check.detail


def test_unreadable_file(tiny, tmp_path):
    tiny.write(tmp_path)
    path = tiny.path(tmp_path, tiny.source.test[0].name)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        tiny.dataset.load(tmp_path, "test")


def test_altered_file_is_never_unpickled(tiny, tmp_path):
    witness = tmp_path / "executed"

    class Attack:
        def __reduce__(self):
            return (witness.mkdir.__func__, (witness,))

    attack = pickle.dumps(Attack())
    pickle.loads(attack)
    assert witness.exists(), "the attack must work, or the test shows nothing"
    witness.rmdir()

    tiny.write(tmp_path)
    for file in tiny.source.files:
        tiny.path(tmp_path, file.name).write_bytes(attack)
    for split in ("train", "test"):
        with pytest.raises(DataError):
            tiny.dataset.load(tmp_path, split)
    assert not verify(tiny.dataset, tmp_path).ok
    assert not witness.exists()


def test_verify_intact(tiny, tmp_path):
    tiny.write(tmp_path)
    report = verify(tiny.dataset, tmp_path)
    assert report.ok
    assert report.dataset == tiny.dataset.name
    assert len(report.files) == len(tiny.contents)


def test_download(tiny, publish, tmp_path):
    server = publish(tiny)
    data_dir = tmp_path / "new" / "data"
    seen = {}

    def progress(name, done, total):
        assert done >= seen.get(name, (0, 0))[0]
        seen[name] = (done, total)

    assert download(tiny.dataset, data_dir, progress) == data_dir / tiny.source.folder
    assert verify(tiny.dataset, data_dir).ok
    assert seen == {name: (len(content), len(content)) for name, content in server.files.items()}
    # Neither archives nor temporary files stay.
    assert sorted(p.name for p in data_dir.rglob("*") if p.is_file()) == sorted(tiny.contents)

    server.requests.clear()
    download(tiny.dataset, data_dir, progress)
    assert server.requests == []


def test_download_mends_damaged_files(tiny, publish, tmp_path):
    publish(tiny)
    tiny.write(tmp_path)
    tiny.path(tmp_path, tiny.source.train[0].name).write_bytes(b"damaged")
    download(tiny.dataset, tmp_path, silent)
    assert verify(tiny.dataset, tmp_path).ok


@pytest.mark.parametrize("failure", ["cut", "altered", "absent"])
def test_failed_download_changes_nothing(tiny, publish, failure, tmp_path):
    server = publish(tiny)
    name = list(server.files)[-1]
    target = tiny.path(tmp_path, tiny.source.test[-1].name)
    target.parent.mkdir(parents=True)
    target.write_bytes(b"what was there before")
    if failure == "cut":
        server.cut.add(name)
    elif failure == "altered":
        server.files[name] = b"altered" * 10
    else:
        del server.files[name]
    said = {"cut": r"connection closed after \d+ of \d+ bytes", "altered": "checksum", "absent": "404"}
    with pytest.raises(DataError, match=said[failure]) as caught:
        download(tiny.dataset, tmp_path, silent)
    message = str(caught.value)
    assert f"cannot download {name}" in message
    assert f"place {name} in" in message
    assert "\n" not in message
    assert target.read_bytes() == b"what was there before"
    assert not (tmp_path / name).exists()
    assert not leftovers(tmp_path)


def test_interrupted_download_leaves_nothing(tiny, publish, tmp_path):
    publish(tiny)

    def interrupt(name, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(tiny.dataset, tmp_path, interrupt)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_archive_placed_by_hand_needs_no_network(tiny, publish, tmp_path):
    server = publish(tiny)
    folder = tmp_path if isinstance(tiny.source, CifarSource) else tmp_path / tiny.source.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in server.files.items():
        (folder / name).write_bytes(content)
    download(tiny.dataset, tmp_path, silent)
    assert server.requests == []
    assert verify(tiny.dataset, tmp_path).ok
    assert all((folder / name).exists() for name in server.files)


def test_data_folder_that_cannot_be_written(tiny, publish, tmp_path):
    publish(tiny)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write to"):
        download(tiny.dataset, tmp_path / "file" / "data", silent)


@pytest.mark.parametrize("tiny", ["cifar10", "cifar100"], indirect=True)
def test_archive_without_the_files(tiny, publish, tmp_path):
    del tiny.contents[tiny.source.test[0].name]
    publish(tiny)
    with pytest.raises(DataError, match="archive"):
        download(tiny.dataset, tmp_path, silent)
    assert not leftovers(tmp_path)
