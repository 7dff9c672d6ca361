from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from cifarkit.errors import UnknownName
from cifarkit.models import MODELS, build_model
from cifarkit.optim import OPTIMIZERS, build_optimizer


@pytest.fixture(scope="module", params=MODELS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    side = MODELS[request.param].min_side
    return build_model(request.param, (3, side, side), 10)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_trainable_parameter_is_in_exactly_one_group(name: str, network: nn.Module) -> None:
    optimizer = build_optimizer(name, network, 0.1, 1e-3, batch_size=8)
    held = Counter(id(p) for group in optimizer.param_groups for p in group["params"])
    assert held == Counter(id(p) for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_lr_is_that_of_the_first_group_and_the_others_keep_their_ratio(name: str, network: nn.Module) -> None:
    small, large = (build_optimizer(name, network, lr, 1e-3, batch_size=8) for lr in (0.1, 0.3))
    assert small.param_groups[0]["lr"] == 0.1
    ratios = [b["lr"] / a["lr"] for a, b in zip(small.param_groups, large.param_groups, strict=True)]
    assert ratios == pytest.approx([3.0] * len(ratios))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_fits_a_linear_function(name: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 3))
    images, labels = torch.randn(12, 1, 4, 4), torch.arange(12) % 3
    optimizer = build_optimizer(name, network, 0.02, 1e-4, batch_size=12)
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3


def test_muon_takes_filters_and_sgd_the_rest() -> None:
    network = build_model("speednet-slim", (3, 16, 16), 10)
    groups = build_optimizer("muon", network, 0.24, 4e-3, batch_size=2000).param_groups
    dimensions = [{p.ndim for p in group["params"]} for group in groups]
    assert dimensions == [{4}, {1}, {2}]
    assert [group["filters"] for group in groups] == [True, False, False]
    assert groups[0]["lr"] == 0.24
    assert len(groups[0]["params"]) == 6


def test_muon_leaves_no_parameter_untrained() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv1d(4, 4, 3), nn.Conv3d(4, 4, 3), nn.Linear(4, 2))
    network.register_parameter("places", nn.Parameter(torch.zeros(1, 9, 4)))
    groups = build_optimizer("muon", network, 0.1, 0.0, batch_size=8).param_groups
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, network.parameters()))


def test_muons_rates_at_the_records_settings() -> None:
    """airbench94_muon: 0.24 for filters, 0.053 for biases and 0.67 for the head per image of a loss that
    is summed over a batch of 2000, and a weight decay of 2e-6 per image."""
    network = build_model("speednet-slim", (3, 16, 16), 10)
    groups = build_optimizer("muon", network, 0.24, 2e-6 * 2000, batch_size=2000).param_groups
    assert [g["lr"] for g in groups] == pytest.approx([0.24, 0.053 * 2000, 0.67 * 2000])
    assert [g["momentum"] for g in groups] == [0.6, 0.85, 0.85]
    decay_per_step = [g["lr"] * g["weight_decay"] for g in groups]
    assert decay_per_step == pytest.approx([0.0, 4e-3, 4e-3])
    assert [g["nesterov"] for g in groups[1:]] == [True, True]


def test_other_networks_train_biases_and_head_at_half_of_muons_rate() -> None:
    network = build_model("small-cnn", (3, 16, 16), 10)
    groups = build_optimizer("muon", network, 0.1, 1e-2, batch_size=64).param_groups
    assert [g["lr"] for g in groups] == pytest.approx([0.1, 0.05, 0.05])
    assert [g["weight_decay"] for g in groups] == [0.0, 1e-2, 1e-2]


@pytest.mark.parametrize("batch_size", [125, 500, 2000])
def test_sgds_rates_per_image_do_not_depend_on_the_batch(batch_size: int) -> None:
    """Muon's does, with its square root: the length of its step is the same for any gradient."""
    network = build_model("speednet-slim", (3, 16, 16), 10)
    lr = 0.24 * (batch_size / 2000) ** 0.5
    groups = build_optimizer("muon", network, lr, 1e-3, batch_size=batch_size).param_groups
    assert [g["lr"] / batch_size for g in groups[1:]] == pytest.approx([0.053, 0.67])


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_weight_decay_is_handed_on(name: str) -> None:
    optimizer = build_optimizer(name, nn.Linear(2, 2), 0.1, 0.03, batch_size=8)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.03]


def test_an_unknown_optimizer_is_named() -> None:
    with pytest.raises(UnknownName, match=r"unknown optimizer 'adamx': did you mean .*adam"):
        build_optimizer("adamx", nn.Linear(2, 2), 0.1, 0.0, batch_size=8)
