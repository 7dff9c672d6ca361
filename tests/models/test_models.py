from __future__ import annotations

import copy

import pytest
import torch
from kept import kept_by

from cifarkit.errors import UnknownName, UsageError
from cifarkit.models import MODELS, build_model, find_model, lean

SMALLEST = [(name, entry.min_side) for name, entry in MODELS.items()]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "side"), SMALLEST)
def test_output_is_one_row_of_logits_per_image(name: str, side: int, channels: int) -> None:
    network = build_model(name, (channels, side, side), 7)
    logits = network(torch.randn(2, channels, side, side))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("name", "side"), SMALLEST)
def test_gradients_reach_every_trainable_parameter(name: str, side: int) -> None:
    torch.manual_seed(0)
    side = 2 * side
    network = build_model(name, (3, side, side), 5)
    logits = network(torch.randn(4, 3, side, side))
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    for parameter_name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            assert parameter.grad.abs().sum() > 0, parameter_name
        else:
            assert parameter.grad is None, parameter_name


@pytest.mark.parametrize("name", MODELS)
def test_layers_taken_together_train_as_they_do_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = build_model(name, (3, 20, 20), 5).to(memory_format=torch.channels_last)
    images = torch.randn(8, 3, 20, 20).contiguous(memory_format=torch.channels_last)
    started = copy.deepcopy(network.state_dict())
    results, kept = [], []
    for together in (True, False):
        monkeypatch.setattr(lean, "pays", lambda x, together=together: together)
        network.load_state_dict(started)
        torch.manual_seed(1)
        loss = network(images).square().mean()
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        kept.append(kept_by(network, images))
        gradients = torch.autograd.grad(loss, list(trained.values()))
        results.append(
            dict(zip(trained, gradients, strict=True)) | copy.deepcopy(dict(network.named_buffers()))
        )
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)
    together, alone = kept
    assert (together < alone) == (name != "resnet18")


@pytest.mark.parametrize("name", ["speednet", "custom-resnet"])
def test_compilers_take_a_training_as_a_whole(name: str) -> None:
    network, images = build_model(name, (3, 16, 16), 5), torch.randn(4, 3, 16, 16)
    logits = torch.compile(network, backend="eager", fullgraph=True)(images)
    logits.sum().backward()
    assert logits.shape == (4, 5)


@pytest.mark.parametrize(("name", "side"), SMALLEST)
def test_a_network_takes_smaller_images_than_it_was_built_for(name: str, side: int) -> None:
    """As training does that begins with small images (`Recipe.image_scale`)."""
    network = build_model(name, (3, 32, 32), 5).eval()
    for smaller in (max(side, 16), 20, 24):
        assert network(torch.randn(1, 3, smaller, smaller)).shape == (1, 5)


@pytest.mark.parametrize(("name", "side"), SMALLEST)
def test_too_small_images_are_refused_by_name(name: str, side: int) -> None:
    with pytest.raises(
        UsageError, match=rf"{name} needs images of at least {side} x {side}.* 32 x {side - 1}"
    ):
        build_model(name, (3, 32, side - 1), 10)


@pytest.mark.parametrize("name", MODELS)
def test_equal_seeds_build_equal_networks(name: str) -> None:
    side = MODELS[name].min_side
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(build_model(name, (1, side, side), 4).state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UnknownName, match=r"unknown model 'resnet': did you mean .*resnet18"):
        find_model("resnet")
    with pytest.raises(UnknownName, match=r"did you mean .*speednet"):
        build_model("spednet", (3, 32, 32), 10)


def test_every_entry_describes_itself() -> None:
    assert all(entry.description for entry in MODELS.values())
