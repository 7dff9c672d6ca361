from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from cifarkit.augment.ops import Cutout, FlipLR, Normalize, PadCrop, Policy, Rotate, ToGray
from cifarkit.augment.per_image import PerImage
from cifarkit.augment.policies import POLICIES
from cifarkit.errors import UsageError

from .cases import MEAN, SEED, STD, noise


class Images(torch.utils.data.Dataset[torch.Tensor]):
    def __init__(self, augment: PerImage) -> None:
        self.augment, self.images = augment, noise(12, 32, 32, 3)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.augment(self.images[index], index, epoch=2))


def test_pixels_depend_on_seed_epoch_and_index_alone(policy: Policy) -> None:
    images = noise(8, 32, 32, 3)
    forwards, backwards = PerImage(policy, MEAN, STD, SEED), PerImage(policy, MEAN, STD, SEED)
    expected = [forwards(image, index, 5) for index, image in enumerate(images)]
    backwards(images[0], 0, 4)
    for index in reversed(range(8)):
        assert np.array_equal(backwards(images[index], index, 5), expected[index])


@pytest.mark.parametrize("other", [{"seed": SEED + 1}, {"epoch": 1}, {"index": 1000}], ids=str)
def test_another_seed_epoch_or_index_makes_other_pixels(other: dict[str, int]) -> None:
    image = noise(1, 32, 32, 3)[0]
    policy = POLICIES["original-cifar10"]
    first = PerImage(policy, MEAN, STD, SEED)
    second = PerImage(policy, MEAN, STD, other.get("seed", SEED))
    differing = [
        not np.array_equal(
            first(image, index, 0), second(image, index + other.get("index", 0), other.get("epoch", 0))
        )
        for index in range(10)
    ]
    assert sum(differing) >= 9


def test_draws_of_different_ops_are_not_correlated() -> None:
    policy = (Normalize(), ToGray(0.5), FlipLR(0.5), FlipLR(0.5), PadCrop(4), Rotate(10.0, p=1.0), Cutout(8))
    augment = PerImage(policy, MEAN, STD, SEED)
    image = noise(1, 32, 32, 3)[0]
    count, rows = 600, []
    for index in range(count):
        augment(image, index % 300, index // 300)
        rows.append(
            torch.cat([v.double() for drawn in augment.draws() for k, v in drawn.items() if k != "rotate"])
        )
    table = torch.stack(rows)
    correlation = torch.corrcoef(table.T) - torch.eye(table.shape[1], dtype=torch.float64)
    assert correlation.abs().max() < 4.5 / count**0.5
    between_epochs = torch.corrcoef(torch.cat([table[:300], table[300:]], dim=1).T)
    assert between_epochs[: table.shape[1], table.shape[1] :].abs().max() < 4.5 / 300**0.5


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (20, 40, 3)], ids=str)
def test_returns_float32_channels_first_and_leaves_the_image(
    policy: Policy, shape: tuple[int, int, int]
) -> None:
    image = noise(1, *shape)[0]
    before = image.copy()
    augmented = PerImage(policy, MEAN[: shape[2]], STD[: shape[2]], SEED)(image, 0, 0)
    assert augmented.shape == (shape[2], *shape[:2])
    assert augmented.dtype == np.float32
    assert augmented.flags["C_CONTIGUOUS"]
    assert np.array_equal(image, before)


def test_a_pickled_copy_makes_the_same_pixels(policy: Policy) -> None:
    image = noise(1, 32, 32, 3)[0]
    augment = PerImage(policy, MEAN, STD, SEED)
    expected = augment(image, 3, 1)
    copy: PerImage = pickle.loads(pickle.dumps(augment))
    assert np.array_equal(copy(image, 3, 1), expected)


def test_worker_processes_make_the_same_batches() -> None:
    dataset = Images(PerImage(POLICIES["original-cifar10"], MEAN, STD, SEED))
    dataset[0]
    batches = [
        torch.cat(list(torch.utils.data.DataLoader(dataset, batch_size=size, num_workers=workers)))
        for size, workers in [(5, 0), (5, 2), (3, 1)]
    ]
    assert torch.equal(batches[0], batches[1])
    assert torch.equal(batches[0], batches[2])


def test_an_image_that_is_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 9 x 9"):
        PerImage((Normalize(), Cutout(8)), MEAN, STD, 0)(noise(1, 8, 7, 3)[0], 0, 0)
    with pytest.raises(UsageError, match="begins with"):
        PerImage((FlipLR(),), MEAN, STD, 0)
