"""The data sets by name: one table, one record each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cifarkit.data.digits import DigitsSource
from cifarkit.data.folder import FolderSource
from cifarkit.data.image_set import ImageSet
from cifarkit.data.published import PublishedFile
from cifarkit.data.source import Source
from cifarkit.data.torchvision_source import CifarSource, IdxSource
from cifarkit.errors import DataError, UnknownName, UsageError

PUBLISHED_SPLITS = ("train", "test")


@dataclass(frozen=True)
class Dataset:
    """One data set: what its images are like, and where they come from.

    Attributes:
        name: as typed after ``--dataset`` and stored with a run.
        description: one line.
        image_shape: (C, H, W).
        mean: of each channel of the training split, on the 0..1 scale; None: computed when loaded.
        std: likewise.
        recipe: name of the recipe used when none is asked for.
        source: reads the files.
    """

    name: str
    description: str
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    recipe: str
    source: Source

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in label order; None where only the files can say."""
        return self.source.classes

    def load(self, data_dir: Path, split: str) -> ImageSet:
        """Read ``"train"`` or ``"test"`` as published. Never downloads.

        Raises:
            DataError: files are missing, damaged or altered.
        """
        if split not in PUBLISHED_SPLITS:
            raise UnknownName("split", split, PUBLISHED_SPLITS)
        return self.source.load(self.name, data_dir, split)

    def mean_std(self, train: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std to normalise with: those of the table, else those of the images trained on.

        Raises:
            DataError: a channel has the same value everywhere, so nothing can be divided by its std.
        """
        if self.mean is not None and self.std is not None:
            return self.mean, self.std
        mean, std = train.channel_stats()
        if min(std) == 0:
            raise DataError(f"{self.name}: a colour channel has the same value in every training image")
        return mean, std


CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
CIFAR100_CLASSES = tuple(_CIFAR100.split())

_FASHION = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
FASHION_CLASSES = tuple(_FASHION.split(", "))

DATASETS: dict[str, Dataset] = {
    "cifar10": Dataset(
        name="cifar10",
        description="60,000 colour photographs of 32x32 pixels in 10 classes (Krizhevsky 2009)",
        image_shape=(3, 32, 32),
        mean=(0.49139968, 0.48215827, 0.44653124),
        std=(0.24703233, 0.24348505, 0.26158768),
        recipe="fast",
        source=CifarSource(
            published="CIFAR10",
            folder="cifar-10-batches-py",
            classes=CIFAR10_CLASSES,
            label_key="labels",
            train=(
                PublishedFile("data_batch_1", "c99cafc152244af753f735de768cd75f", 31035704),
                PublishedFile("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec", 31035320),
                PublishedFile("data_batch_3", "54ebc095f3ab1f0389bbae665268c751", 31035999),
                PublishedFile("data_batch_4", "634d18415352ddfa80567beed471001a", 31035696),
                PublishedFile("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb", 31035623),
            ),
            test=(PublishedFile("test_batch", "40351d587109b95175f43aff81a1287e", 31035526),),
            other=(PublishedFile("batches.meta", "5ff9c542aee3614f3951f8cda6e48888", 158),),
        ),
    ),
    "cifar100": Dataset(
        name="cifar100",
        description="60,000 colour photographs of 32x32 pixels in 100 classes (Krizhevsky 2009)",
        image_shape=(3, 32, 32),
        mean=(0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
        std=(0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
        recipe="fast",
        source=CifarSource(
            published="CIFAR100",
            folder="cifar-100-python",
            classes=CIFAR100_CLASSES,
            label_key="fine_labels",
            train=(PublishedFile("train", "16019d7e3df5f24257cddd939b257f8d"),),
            test=(PublishedFile("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
            other=(PublishedFile("meta", "7973b15100ade9c7d40fb424638fde48"),),
        ),
    ),
    "mnist": Dataset(
        name="mnist",
        description="70,000 grey handwritten digits of 28x28 pixels in 10 classes (LeCun et al. 1998)",
        image_shape=(1, 28, 28),
        mean=(0.13066047627384286,),
        std=(0.3081078038564627,),
        recipe="mnist",
        source=IdxSource(
            published="MNIST",
            folder="MNIST/raw",
            classes=tuple("0123456789"),
            train=(
                PublishedFile("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb", 47040016),
                PublishedFile("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624", 60008),
            ),
            test=(
                PublishedFile("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea", 7840016),
                PublishedFile("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637", 10008),
            ),
            other=(),
        ),
    ),
    "fashion-mnist": Dataset(
        name="fashion-mnist",
        description="70,000 grey pictures of clothes of 28x28 pixels in 10 classes (Xiao et al. 2017)",
        image_shape=(1, 28, 28),
        mean=(0.28604059698879553,),
        std=(0.35302424451492237,),
        recipe="mnist",
        source=IdxSource(
            published="FashionMNIST",
            folder="FashionMNIST/raw",
            classes=FASHION_CLASSES,
            train=(
                PublishedFile("train-images-idx3-ubyte", "f4a8712d7a061bf5bd6d2ca38dc4d50a", 47040016),
                PublishedFile("train-labels-idx1-ubyte", "9018921c3c673c538a1fc5bad174d6f9", 60008),
            ),
            test=(
                PublishedFile("t10k-images-idx3-ubyte", "8181f5470baa50b63fa0f6fddb340f0a", 7840016),
                PublishedFile("t10k-labels-idx1-ubyte", "15d484375f8d13e6eb1aabb0c3f46965", 10008),
            ),
            other=(),
        ),
    ),
    "digits": Dataset(
        name="digits",
        description="1,797 grey handwritten digits of 8x8 pixels in 10 classes, part of scikit-learn",
        image_shape=(1, 8, 8),
        mean=(0.3053459771173605,),
        std=(0.3757445075396211,),
        recipe="digits",
        source=DigitsSource(),
    ),
}


def find_dataset(spec: str, image_size: int = 32) -> Dataset:
    """The data set that ``--dataset`` names.

    Args:
        spec: a name in the table, or ``folder:PATH`` for a folder of class folders of images.
        image_size: side in pixels to which the images of a folder are scaled; no other data set is.

    Raises:
        UnknownName: neither of the two.
        UsageError: ``folder:`` without a path, or a size below 1.
        DataError: a path that cannot be.
    """
    kind, _, path = spec.partition(":")
    if kind != "folder":
        if spec not in DATASETS:
            folder = f"folder:{spec}" if os.path.isdir(spec) else "folder:PATH"
            raise UnknownName("data set", spec, [*DATASETS, folder])
        return DATASETS[spec]
    if not path:
        raise UsageError("folder: needs a path, as in folder:PATH")
    if image_size < 1:
        raise UsageError(f"the image size must be 1 or more, not {image_size}")
    try:
        root = Path(path).expanduser().resolve()
        str(root).encode()
    except UnicodeEncodeError:
        raise DataError("folder: the path is not UTF-8; move the folder, or rename it") from None
    except (OSError, RuntimeError) as error:  # nobody's home, links in a circle
        raise DataError(f"{spec}: no such folder ({error})") from error
    return Dataset(
        name=f"folder:{root}",
        description=f"images in the class folders of {root}",
        image_shape=(3, image_size, image_size),
        mean=None,
        std=None,
        recipe="folder",
        source=FolderSource(root, image_size),
    )
