from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cifarkit.data.datasets import DATASETS, find_dataset
from cifarkit.data.torchvision_source import CifarSource, TorchvisionSource
from cifarkit.errors import UnknownName, UsageError


@pytest.mark.parametrize("name", DATASETS)
def test_record_is_consistent(name):
    dataset = DATASETS[name]
    assert dataset.name == name
    assert dataset.description
    assert dataset.recipe
    channels, height, width = dataset.image_shape
    assert channels in (1, 3)
    assert height == width > 0
    assert len(dataset.mean) == len(dataset.std) == channels
    assert all(0 < value < 1 for value in dataset.mean + dataset.std)
    assert len(set(dataset.classes)) == len(dataset.classes)
    assert find_dataset(name) is dataset


def test_checksums_are_those_of_torchvision():
    import torchvision.datasets

    for dataset in DATASETS.values():
        source = dataset.source
        if isinstance(source, CifarSource):
            publication = getattr(torchvision.datasets, source.published)
            assert publication.base_folder == source.folder
            assert [[file.name, file.md5] for file in source.train] == publication.train_list
            assert [[file.name, file.md5] for file in source.test] == publication.test_list
            assert [file.md5 for file in source.other] == [publication.meta["md5"]]
        elif isinstance(source, TorchvisionSource):
            publication = getattr(torchvision.datasets, source.published)
            names = [name for name, _ in publication.resources]
            assert [f"{file.name}.gz" for file in source.files] == names
    assert list(DATASETS["fashion-mnist"].classes) == torchvision.datasets.FashionMNIST.classes


def test_class_counts_of_the_published_sets():
    counts = {name: len(dataset.classes) for name, dataset in DATASETS.items()}
    assert counts == {"cifar10": 10, "cifar100": 100, "mnist": 10, "fashion-mnist": 10, "digits": 10}


def test_unknown_name_lists_the_names_and_the_folder_form():
    with pytest.raises(UnknownName, match=r"did you mean cifar10.*digits, folder:PATH"):
        find_dataset("cifar-10")


def test_a_folder_is_no_data_set_by_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownName, match=r"folder:photos"):
        find_dataset("photos")


def test_folder_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = find_dataset("folder:images", image_size=48)
    assert dataset.name == f"folder:{tmp_path / 'images'}"
    assert dataset.image_shape == (3, 48, 48)
    assert (dataset.classes, dataset.mean, dataset.std) == (None, None, None)
    assert dataset.recipe == "folder"
    # The stored name finds the same folder again, from anywhere.
    monkeypatch.chdir(Path("/"))
    assert find_dataset(dataset.name, image_size=48) == dataset


@pytest.mark.parametrize(("spec", "image_size"), [("folder:", 32), ("folder:images", 0)])
def test_wrong_folder_specs(spec, image_size):
    with pytest.raises(UsageError):
        find_dataset(spec, image_size)


@pytest.mark.parametrize("name", DATASETS)
def test_unknown_split(name, tmp_path):
    with pytest.raises(UnknownName, match="split"):
        DATASETS[name].load(tmp_path, "validation")


def test_the_table_loads_no_heavy_library():
    check = "import sys, cifarkit.data.loading; print({'torch', 'torchvision', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
