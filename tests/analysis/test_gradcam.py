from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cifarkit.analysis import METHODS
from cifarkit.analysis.gradcam import (
    class_maps,
    find_layer,
    flaw,
    map_sides,
    scale,
)
from cifarkit.errors import UnknownName, UsageError
from cifarkit.models import MODELS, build_model

# Methods whose map is the evidence for a class, place by place.
LOCAL = ("gradcam", "hirescam", "gradcam++", "layercam", "xgradcam")


class BrightSpots(nn.Module):
    """Class 0 is evidence by brightness, class 1 by darkness, wherever in the image it is."""

    def __init__(self) -> None:
        super().__init__()
        self.spots = nn.Conv2d(1, 2, 4, stride=4, bias=False)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.spots.weight.copy_(torch.stack([torch.ones(1, 4, 4), -torch.ones(1, 4, 4)]))
            self.head.weight.copy_(torch.eye(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.pool(self.relu(self.spots(x))).flatten(1))
        return out


def spot(row: int, column: int, value: float = 1.0) -> Tensor:
    """One 32 x 32 image, weak noise and a patch of 4 x 4 pixels."""
    image = 0.01 * torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(row * 8 + column))
    image[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = value
    return image


@pytest.fixture
def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))


# -- maps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_maps_of_the_layers_size(tiny: nn.Module, images: Tensor, method: str) -> None:
    maps = class_maps(tiny, tiny.get_submodule("4"), images, [0, 1, 2], method)
    assert len(maps) == 3
    for one in maps:
        assert one.shape == (6, 6)
        assert one.dtype == np.float32
        assert one.min() >= 0
        assert one.max() <= 1
        assert flaw(one) or (one.min() == 0 and one.max() == 1)
    assert any(flaw(one) is None for one in maps)


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_may_have_no_weights_before_it(images: Tensor, method: str) -> None:
    torch.manual_seed(0)
    linear = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(3 * 64, 4)).eval()
    name, layer, size = find_layer(linear, images, None)
    maps = class_maps(linear, layer, images, [0] * len(images), method)
    assert (name, size) == ("0", (8, 8))
    assert [one.shape for one in maps] == [(8, 8)] * len(images)
    assert not images.requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_the_network_stays_as_it_is(tiny: nn.Module, images: Tensor, method: str) -> None:
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    expected, untouched = tiny(images).detach(), images.clone()
    class_maps(tiny, tiny.get_submodule("4"), images, [0, 1, 2], method)
    assert all(torch.equal(value, before[key]) for key, value in tiny.state_dict().items())
    assert torch.equal(tiny(images).detach(), expected)
    assert torch.equal(images, untouched)
    assert not tiny.training
    assert not any(m._forward_hooks or m._backward_hooks for m in tiny.modules())


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "eigencam"])
def test_many_images_are_the_same_as_one_by_one(tiny: nn.Module, method: str) -> None:
    images = torch.randn(23, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    targets = [i % 4 for i in range(23)]
    layer = tiny.get_submodule("4")
    together = class_maps(tiny, layer, images, targets, method)
    for i in (0, 19, 20, 22):
        (alone,) = class_maps(tiny, layer, images[i : i + 1], targets[i : i + 1], method)
        np.testing.assert_allclose(together[i], alone, atol=1e-4)


@pytest.mark.parametrize("place", [(0, 0), (2, 5), (7, 3)], ids=str)
@pytest.mark.parametrize("layer", ["spots", "relu"])
@pytest.mark.parametrize("method", LOCAL)
def test_the_map_peaks_where_the_evidence_is(method: str, layer: str, place: tuple[int, int]) -> None:
    network = BrightSpots().eval()
    (one,) = class_maps(network, network.get_submodule(layer), spot(*place)[None], [0], method)
    assert one.shape == (8, 8)
    assert np.unravel_index(one.argmax(), one.shape) == place
    assert one[place] == 1.0
    assert (one > 0.2).sum() == 1


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam"])
def test_each_class_has_its_own_evidence(method: str) -> None:
    network = BrightSpots().eval()
    image = spot(1, 1)
    image[0, 24:28, 20:24] = -1.0
    both = torch.stack([image, image])
    bright, dark = class_maps(network, network.get_submodule("relu"), both, [0, 1], method)
    assert np.unravel_index(bright.argmax(), (8, 8)) == (1, 1)
    assert np.unravel_index(dark.argmax(), (8, 8)) == (6, 5)


def by_hand(network: nn.Sequential, layer: int, image: Tensor, target: int, method: str) -> np.ndarray:
    """Activation times gradient (HiResCAM) or mean gradient (Grad-CAM), summed over channels, above 0."""
    activation = network[: layer + 1](image[None]).detach().clone().requires_grad_()
    network[layer + 1 :](activation.clone())[0, target].backward()
    gradient = activation.grad
    assert gradient is not None
    weights = gradient.mean((2, 3), keepdim=True) if method == "gradcam" else gradient
    return scale((weights * activation).sum(1)[0].clamp(min=0).detach().numpy())


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_what_comes_after_a_layer_does_not_change_its_map(
    layer: int, inplace: bool, method: str, images: Tensor
) -> None:
    """An activation in place would overwrite the values that the library has kept."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=inplace), nn.Flatten(),
        nn.Linear(6 * 144, 4),
    ).eval()  # fmt: skip
    expected = by_hand(network, layer, images[0], 2, method)
    (one,) = class_maps(network, network.get_submodule(str(layer)), images[:1], [2], method)
    np.testing.assert_allclose(one, expected, atol=1e-4)


def test_unknown_methods_get_a_suggestion(tiny: nn.Module, images: Tensor) -> None:
    with pytest.raises(UnknownName, match=r"unknown method 'grad-cam': did you mean .*gradcam"):
        class_maps(tiny, tiny.get_submodule("4"), images, [0, 0, 0], "grad-cam")


# -- flaws ----------------------------------------------------------------------------------------


def test_flaws_are_named() -> None:
    good = np.array([[0.0, 1.0], [0.5, 0.25]], dtype=np.float32)
    assert flaw(good) is None
    assert flaw(np.zeros((2, 2), np.float32)) == "constant"
    assert flaw(np.ones((2, 2), np.float32)) == "constant"
    for value in (np.nan, np.inf):
        broken = good.copy()
        broken[0, 0] = value
        assert flaw(broken) == "nan"


def test_scaling_stretches_over_0_to_1() -> None:
    np.testing.assert_allclose(scale(np.array([[2.0, 4.0], [3.0, 2.5]], np.float32)), [[0, 1], [0.5, 0.25]])


@pytest.mark.parametrize("value", [0.0, 1e-8, 5.0, 1e6])
def test_scaling_does_not_blow_rounding_up_into_a_picture(value: float) -> None:
    nearly = np.full((4, 4), value, np.float32)
    nearly[1, 1] = np.nextafter(nearly[1, 1], np.float32(np.inf))
    assert flaw(scale(nearly)) == "constant"


def test_maps_that_say_nothing_are_found(images: Tensor) -> None:
    dead = BrightSpots().eval()
    with torch.no_grad():
        dead.head.weight.zero_()
    (constant,) = class_maps(dead, dead.relu, spot(1, 1)[None], [0])
    assert flaw(constant) == "constant"
    with torch.no_grad():
        dead.head.weight.fill_(torch.nan)
    (broken,) = class_maps(dead, dead.relu, spot(1, 1)[None], [0])
    assert flaw(broken) == "nan"


# -- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_the_default_layer_has_the_last_map_nearest_to_8x8(name: str) -> None:
    torch.manual_seed(0)
    network = build_model(name, (3, 32, 32), 10)
    images = torch.randn(2, 3, 32, 32)
    chosen, module, size = find_layer(network, images, None)
    sides = {
        layer: side
        for layer, side in map_sides(network, images).items()
        if not isinstance(network.get_submodule(layer), nn.Conv2d | nn.BatchNorm2d)
    }
    assert module is network.get_submodule(chosen)
    assert size == sides[chosen]
    assert size in ((8, 8), (7, 7))
    distances = {layer: abs(max(side) - 8) for layer, side in sides.items()}
    assert distances[chosen] == min(distances.values())
    later = list(sides)[list(sides).index(chosen) + 1 :]
    assert all(distances[layer] > distances[chosen] for layer in later)


@pytest.mark.parametrize("side", [16, 64, 224])
@pytest.mark.parametrize("name", ["speednet-slim", "small-cnn"])
def test_the_default_layer_has_a_map_at_every_image_size(name: str, side: int) -> None:
    network = build_model(name, (3, side, side), 4).eval()
    _, _, (height, width) = find_layer(network, torch.zeros(1, 3, side, side), None)
    assert height >= 4
    assert height == width


def test_a_network_of_nothing_but_a_convolution_has_its_map() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(128, 2))
    assert find_layer(network, torch.zeros(1, 1, 8, 8), None)[0] == "0"


def test_a_network_without_maps_has_no_default_layer() -> None:
    with pytest.raises(UsageError, match="no layer"):
        find_layer(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(1, 3, 2, 2), None)


def test_a_residual_sum_in_place_does_not_change_the_map() -> None:
    # torchvision adds the shortcut to bn2's output in place, after grad-cam has noted it.
    torch.manual_seed(0)
    network = build_model("resnet18", (3, 32, 32), 4).eval()
    image, layer = torch.randn(1, 3, 32, 32), network.get_submodule("layer3.1.bn2")
    noted: list[Tensor] = []

    def note(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        output.retain_grad()
        noted.append(output)
        return output.clone()

    with layer.register_forward_hook(note):
        network(image)[0, 1].backward()
    assert noted[0].grad is not None
    expected = (noted[0] * noted[0].grad).sum(1)[0].relu().detach().numpy()
    (found,) = class_maps(network, layer, image, [1], "hirescam")
    np.testing.assert_allclose(found, scale(expected), atol=1e-5)


def test_a_layer_that_runs_twice_has_no_map_of_its_own() -> None:
    network = build_model("resnet18", (3, 32, 32), 4).eval()
    with pytest.raises(UsageError, match=r"layer3.1.relu.*try 'layer3"):
        find_layer(network, torch.zeros(1, 3, 32, 32), "layer3.1.relu")


@pytest.mark.parametrize("name", MODELS)
def test_the_default_layer_can_be_drawn(name: str) -> None:
    torch.manual_seed(0)
    network = build_model(name, (3, 32, 32), 10).eval()
    images = torch.randn(1, 3, 32, 32)
    _, module, size = find_layer(network, images, None)
    (one,) = class_maps(network, module, images, [3])
    assert one.shape == size


def test_layers_are_listed_in_the_order_they_run() -> None:
    sides = map_sides(BrightSpots(), spot(0, 0)[None])
    assert sides == {"spots": (8, 8), "relu": (8, 8), "pool": (1, 1)}
    assert list(sides) == ["spots", "relu", "pool"]


def test_maps_may_be_oblong() -> None:
    assert map_sides(BrightSpots(), torch.zeros(1, 1, 16, 32))["spots"] == (4, 8)


def test_a_layer_by_name() -> None:
    network = BrightSpots()
    assert find_layer(network, spot(0, 0)[None], "spots") == ("spots", network.spots, (8, 8))
    assert find_layer(network, spot(0, 0)[None], None)[0] == "relu"


def test_looking_for_a_layer_leaves_no_hooks() -> None:
    network = BrightSpots()
    find_layer(network, spot(0, 0)[None], None)
    assert not any(m._forward_hooks for m in network.modules())


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_an_unknown_layer(name: str) -> None:
    with pytest.raises(UnknownName, match=f"unknown layer '{name}'.*valid: spots, relu, pool"):
        find_layer(BrightSpots(), spot(0, 0)[None], name)


def test_a_layer_without_a_map() -> None:
    with pytest.raises(
        UsageError, match="layer 'head' has no map over the image that is its own; try 'relu'"
    ):
        find_layer(BrightSpots(), spot(0, 0)[None], "head")
