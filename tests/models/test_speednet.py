from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cifarkit.augment.policies import POLICIES, mirrors
from cifarkit.data.image_set import ImageSet
from cifarkit.models import allow_tta, build_model, one_view, speednet
from cifarkit.models.speednet import SpeedNet, shifted
from cifarkit.optim import build_optimizer
from cifarkit.recipes import RECIPES
from cifarkit.training.data import Data, build_network, preprocessing_for


def correlated_images(channels: int, count: int = 200, side: int = 12) -> Tensor:
    """Smooth images whose channels resemble each other, as photographs are."""
    torch.manual_seed(0)
    noise = torch.randn(count, channels + 1, side + 2, side + 2)
    smooth = torch.nn.functional.avg_pool2d(noise, 3, stride=1) * 3
    return smooth[:, :1] + 0.5 * smooth[:, 1:]


@pytest.fixture(params=[1, 3])
def images(request: pytest.FixtureRequest) -> Tensor:
    return correlated_images(request.param)


@pytest.fixture
def network(images: Tensor) -> SpeedNet:
    built = build_model("speednet-slim", (images.shape[1], 12, 12), 10)
    assert isinstance(built, SpeedNet)
    built.initialise(images)
    return built


def responses(network: SpeedNet, images: Tensor) -> Tensor:
    """Filter responses without bias, (filters, places)."""
    with torch.no_grad():
        return torch.nn.functional.conv2d(images, network.whiten.weight).transpose(0, 1).flatten(1).double()


def test_patches_come_out_white(network: SpeedNet, images: Tensor) -> None:
    out = responses(network, images)
    half = len(out) // 2
    covariance = out[:half] @ out[:half].T / out.shape[1]
    torch.testing.assert_close(covariance, torch.eye(half).double(), atol=0.02, rtol=0)


def test_the_images_themselves_are_not_white(images: Tensor) -> None:
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)
    values = torch.linalg.eigvalsh(patches.T @ patches / len(patches))
    assert values[-1] > 20 * values[0]


def test_the_second_half_is_the_first_with_its_sign_turned(network: SpeedNet) -> None:
    first, second = network.whiten.weight.chunk(2)
    assert torch.equal(second, -first)
    assert len(network.whiten.weight) == 2 * 4 * network.whiten.in_channels


def test_large_eps_bounds_the_filters(images: Tensor) -> None:
    network = SpeedNet((images.shape[1], 12, 12), 10, widths=(8, 8, 8))
    network.initialise(images, eps=100.0)
    assert network.whiten.weight.flatten(1).norm(dim=1).max() <= 0.1


def test_whitening_is_frozen_through_training(network: SpeedNet, images: Tensor) -> None:
    before = network.whiten.weight.clone()
    optimizer = build_optimizer("muon", network, 0.2, 1e-3, batch_size=8)
    torch.nn.functional.cross_entropy(network(images[:8]), torch.arange(8)).backward()
    optimizer.step()
    assert torch.equal(network.whiten.weight, before)
    assert not network.whiten.weight.requires_grad
    assert network.whiten.bias is not None
    assert network.whiten.bias.requires_grad


def test_a_whitening_layer_may_stay_as_it_is_drawn(images: Tensor) -> None:
    network = build_model("speednet-silu", (images.shape[1], 12, 12), 3)
    network(images).sum().backward()
    untrained = {name for name, p in network.named_parameters() if p.grad is None}
    assert {name for name in untrained if name.startswith("whiten")} == {"whiten.weight", "whiten.bias"}
    assert not any(isinstance(module, nn.GELU) for module in network.modules())
    trained = {
        name for name, p in build_model("speednet", (3, 12, 12), 3).named_parameters() if p.requires_grad
    }
    assert "whiten.bias" in trained
    assert "whiten.weight" not in trained


def test_of_larger_images_fewer_initialise_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def note(network: SpeedNet, images: Tensor) -> None:
        seen.append(len(images))

    monkeypatch.setattr(SpeedNet, "initialise", note)
    for number, side in ((5001, 32), (9999, 32), (2000, 64), (3, 512)):
        pixels = np.zeros((number, side, side, 1), np.uint8)
        images = ImageSet("some", "train", pixels, np.zeros(number, np.int64), ("a", "b"), np.arange(number))
        data = Data("some", images, images, preprocessing_for(images, (0.5,), (0.5,)))
        build_network(RECIPES["fast"], data)
    assert seen == [2501, 5000, 1000, 3]


def test_initialise_depends_on_the_images_alone(images: Tensor) -> None:
    weights = []
    for seed in range(2):
        torch.manual_seed(seed)
        network = SpeedNet((images.shape[1], 12, 12), 10, widths=(8, 8, 8))
        network.initialise(images)
        weights.append(network.whiten.weight)
    assert torch.equal(weights[0], weights[1])


def test_filters_start_as_the_identity() -> None:
    network = build_model("speednet", (3, 16, 16), 10)
    convolution = network.eval().get_submodule("groups.2.0")  # 64 channels to 256
    x = torch.randn(1, 64, 5, 5)
    torch.testing.assert_close(convolution(x)[:, :64], x)


def test_a_deep_group_adds_its_first_convolution_to_what_two_more_make_of_it() -> None:
    network = build_model("speednet-deep", (3, 16, 16), 10).eval()
    convolutions = [m for m in network.modules() if isinstance(m, speednet.Conv)]
    assert [c.out_channels for c in convolutions] == [128] * 3 + [384] * 3 + [512] * 3
    group = network.get_submodule("groups.2")
    first, second, third = (m for m in group.modules() if isinstance(m, speednet.Conv))
    norms = [m for m in group.modules() if isinstance(m, speednet.BatchNorm)]
    for norm in norms:
        torch.nn.init.uniform_(norm.bias)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    x = torch.randn(2, 128, 8, 8)
    gelu = torch.nn.functional.gelu
    begun = gelu(norms[0](torch.nn.functional.max_pool2d(first(x), 2)))
    expected = gelu(begun + norms[2](third(gelu(norms[1](second(begun))))))
    torch.testing.assert_close(group(x), expected)


def test_batch_norms_learn_a_shift_only() -> None:
    network = build_model("speednet-slim", (3, 16, 16), 10)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 6
    assert all(not norm.weight.requires_grad and norm.bias.requires_grad for norm in norms)


def test_the_first_logits_are_small_whatever_the_width() -> None:
    torch.manual_seed(0)
    for width in (16, 64, 256):
        network = SpeedNet((3, 16, 16), 10, widths=(width, width, width))
        images = correlated_images(3, 32, 16)
        network.initialise(images)
        assert network(images).abs().max() < 1.5


@pytest.fixture
def lopsided(network: SpeedNet, images: Tensor) -> Tensor:
    """A few images, with running statistics that make the network's answer depend on left and right."""
    network(images)
    return images[:6]


def test_after_training_it_looks_again_where_it_is_unsure(
    network: SpeedNet, lopsided: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.eval()
    with one_view(network):
        once = network(lopsided)
        views = [lopsided.flip(3), shifted(lopsided, 1), shifted(lopsided.flip(3), -1)]
        mean = (once + sum(network(view) for view in views)) / 4
    assert not torch.allclose(once, mean, atol=1e-4)
    top = once.softmax(1).sort(1, descending=True).values
    margins = top[:, 0] - top[:, 1]
    monkeypatch.setattr(speednet, "UNSURE", margins.median().item())
    unsure = (margins < margins.median())[:, None]
    assert 0 < unsure.sum() < len(unsure)
    torch.testing.assert_close(network(lopsided), torch.where(unsure, mean, once))
    assert network.tta


def test_an_answer_does_not_depend_on_the_other_images(network: SpeedNet, lopsided: Tensor) -> None:
    network.eval()
    together, alone = network(lopsided), torch.cat([network(image[None]) for image in lopsided])
    torch.testing.assert_close(together, alone)


def test_a_sure_network_looks_once(
    network: SpeedNet, lopsided: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speednet, "UNSURE", 0.0)
    with one_view(network.eval()):
        once = network(lopsided)
    assert torch.equal(network(lopsided), once)


def test_a_shift_moves_the_image_and_reflects_the_border() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3)
    assert shifted(image, 1)[0, 0].tolist() == [[4, 5, 4], [7, 8, 7], [4, 5, 4]]
    assert shifted(image, -1)[0, 0].tolist() == [[4, 3, 4], [1, 0, 1], [4, 3, 4]]


def test_training_looks_at_the_image_alone(network: SpeedNet, lopsided: Tensor) -> None:
    network.train()
    trained = network(lopsided)
    with one_view(network):
        torch.testing.assert_close(network(lopsided), trained)


def test_a_network_turned_to_one_view_stays_so(network: SpeedNet) -> None:
    network.tta = False
    with one_view(network):
        assert not network.tta
    assert not network.tta


def test_an_error_does_not_leave_a_network_at_one_view(network: SpeedNet) -> None:
    with pytest.raises(ValueError, match="oops"), one_view(network):
        raise ValueError("oops")
    assert network.tta


@pytest.mark.parametrize(
    ("policy", "mirrored"), [("fast", True), ("original-cifar10", True), ("shift", False)]
)
def test_only_training_with_mirrors_allows_them(
    policy: str, mirrored: bool, network: SpeedNet, lopsided: Tensor
) -> None:
    allow_tta(network.eval(), mirrors(POLICIES[policy]))
    with one_view(network):
        once = network(lopsided)
    assert torch.equal(network(lopsided), once) is not mirrored


def test_networks_that_do_not_mirror_are_left_alone() -> None:
    network = build_model("small-cnn", (1, 8, 8), 10)
    with one_view(network):
        assert not hasattr(network, "tta")
    assert not hasattr(network, "tta")
