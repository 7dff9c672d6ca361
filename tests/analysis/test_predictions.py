from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cifarkit.analysis.predictions import Predictions, predict
from cifarkit.data.image_set import ImageSet
from cifarkit.models import build_model
from cifarkit.pipeline import Preprocessing, as_tensors

PREPROCESSING = Preprocessing((0.3,), (0.4,), (1, 8, 8), tuple("0123456789"), 8)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_model("small-cnn", (1, 8, 8), 10)


@pytest.fixture
def images(unseen_digits: ImageSet) -> ImageSet:
    return unseen_digits.take(range(5, 48))


def test_probabilities_are_those_of_the_network(network: nn.Module, images: ImageSet) -> None:
    predictions = predict(network, images, PREPROCESSING)
    with torch.no_grad():
        logits = network.eval()(PREPROCESSING(as_tensors(images)[0]))
    np.testing.assert_allclose(predictions.probabilities, logits.double().softmax(1).numpy(), atol=1e-6)
    assert predictions.probabilities.dtype == np.float64
    np.testing.assert_allclose(predictions.probabilities.sum(1), 1.0, rtol=1e-12)


def test_images_keep_their_place_in_the_published_split(network: nn.Module, images: ImageSet) -> None:
    predictions = predict(network, images, PREPROCESSING)
    assert np.array_equal(predictions.indices, images.indices)
    assert np.array_equal(predictions.labels, images.labels)
    assert predictions.classes == images.classes


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 43, 1000])
def test_the_batch_size_does_not_matter(
    network: nn.Module, images: ImageSet, batch_size: int, tta: bool
) -> None:
    reference = predict(network, images, PREPROCESSING, tta=tta)
    other = predict(network, images, PREPROCESSING, tta=tta, batch_size=batch_size)
    np.testing.assert_allclose(other.probabilities, reference.probabilities, atol=1e-6)
    assert np.array_equal(other.predicted, reference.predicted)


def test_every_batch_is_reported(network: nn.Module, images: ImageSet) -> None:
    heard: list[tuple[int, int]] = []
    predict(network, images, PREPROCESSING, batch_size=20, on_batch=lambda *at: heard.append(at))
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_predicting_changes_nothing(network: nn.Module, images: ImageSet) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    pixels = images.images.copy()
    predict(network.train(), images, PREPROCESSING)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert np.array_equal(images.images, pixels)


class Corner(nn.Module):
    """Logits are the top left pixel and the mean: what shifts and mirrors change, and what they do not."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0, 0, 0], x.mean((1, 2, 3))], dim=1)


@pytest.fixture
def letters() -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 1), dtype=np.uint8)
    return ImageSet("letters", "test", pixels, np.zeros(6, np.int64), ("a", "b"), np.arange(6))


@pytest.mark.parametrize("mirror", [True, False])
def test_tta_averages_mirrored_and_shifted_views(letters: ImageSet, mirror: bool) -> None:
    preprocessing = Preprocessing((0.0,), (1.0,), (1, 5, 5), ("a", "b"), 5)
    predictions = predict(Corner(), letters, preprocessing, tta=True, mirror=mirror)
    x = letters.images[..., 0] / 255
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    weighted = [(x, 1 / 2), (padded[:, :5, :5], 1 / 4), (padded[:, 2:, 2:], 1 / 4)]
    corners = (0, -1) if mirror else (0,)
    first = sum(w * view[:, 0, corners].mean(1) for view, w in weighted)
    second = sum(w * view.mean((1, 2)) for view, w in weighted)
    expected = np.exp(first) / (np.exp(first) + np.exp(second))
    np.testing.assert_allclose(predictions.probabilities[:, 0], expected, atol=1e-6)


def test_scores_of_each_image() -> None:
    predictions = Predictions(
        np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([0, 1]), np.array([8, 9]), ("a", "b")
    )
    assert predictions.predicted.tolist() == [1, 0]
    assert predictions.confidence.tolist() == [0.75, 0.5]
    np.testing.assert_allclose(predictions.losses, [np.log(4), np.log(2)])
