from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cifarkit.models import MODELS, Model
from cifarkit.training.summary import count_flops, model_table


class Choosy(nn.Module):
    """Holds a constant that is no buffer and looks at values, which nothing forbids."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.scale = torch.tensor([2.0])
        self.head = nn.Linear(image_shape[0] * image_shape[1] * image_shape[2], classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.flatten(1) * self.scale)
        return logits if logits.sum() > 0 else -logits


@pytest.fixture
def choosy(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(MODELS, "choosy", Model("for tests", Choosy, 1))
    return "choosy"


def test_flops_of_any_network_are_counted(choosy: str) -> None:
    assert count_flops(choosy, (3, 4, 4), 10) == 2 * 48 * 10
    assert model_table(choosy, (3, 4, 4), 10)[1].flops == 2 * 48 * 10


class Nested(nn.Module):
    """Has a layer beside the one that is called as the course project's whole network."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(16 * image_shape[0], 5))
        self.head = nn.Linear(5, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.network(images))
        return logits


def test_a_part_called_network_is_not_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "nested", Model("for tests", Nested, 1))
    _, table = model_table("nested", (3, 4, 4), 10)
    assert table.parameters == (48 + 1) * 5 + (5 + 1) * 10


@pytest.mark.parametrize("model", MODELS)
def test_counting_draws_no_random_numbers(model: str) -> None:
    before = torch.get_rng_state()
    assert count_flops(model, (3, 32, 32), 10) > count_flops(model, (3, 16, 16), 10) > 0
    assert torch.equal(torch.get_rng_state(), before)
