from __future__ import annotations

import pytest
import torch

from cifarkit.models import build_model
from cifarkit.results import ModelTable
from cifarkit.training.summary import model_table


def conv_layer(name: str, *, pool: bool) -> list[tuple[str, str]]:
    types = ["Conv2d", *(["MaxPool2d"] if pool else []), "BatchNorm2d", "ReLU", "Dropout"]
    layers = [(f"{name}.all_layers.{i}", type_name) for i, type_name in enumerate(types)]
    return [(name, "ConvLayer"), (f"{name}.all_layers", "Sequential"), *layers]


def custom_layer(name: str, *, pool: bool, residual: bool) -> list[tuple[str, str]]:
    rows = [(name, "CustomLayer"), *conv_layer(f"{name}.pool_block", pool=pool)]
    if residual:
        rows.append((f"{name}.res_block", "Sequential"))
        rows += conv_layer(f"{name}.res_block.0", pool=False)
        rows += conv_layer(f"{name}.res_block.1", pool=False)
    return rows


ORIGINAL = [
    ("network", "Sequential"),
    *custom_layer("network.0", pool=False, residual=False),
    *custom_layer("network.1", pool=True, residual=True),
    *custom_layer("network.2", pool=True, residual=False),
    *custom_layer("network.3", pool=True, residual=True),
    ("network.4", "MaxPool2d"),
    ("network.5", "Flatten"),
    ("network.6", "Linear"),
]


@pytest.fixture(scope="module", params=["custom-resnet", "custom-resnet-replicate"])
def table(request: pytest.FixtureRequest) -> ModelTable:
    return model_table(request.param, (3, 32, 32), 10)[1]


def test_size_is_the_originals(table: ModelTable) -> None:
    assert table.parameters == table.trainable_parameters == 6_573_130
    assert f"{table.size_bytes / 1e6:.3f}" == "26.293"


def test_layer_table_is_the_originals(table: ModelTable) -> None:
    assert len(ORIGINAL) == 61
    assert [(row.name, row.type) for row in table.rows] == ORIGINAL


def test_rows_count_their_parameters(table: ModelTable) -> None:
    counts = {row.name: row.parameters for row in table.rows}
    assert counts["network"] == 6_573_130
    assert counts["network.0.pool_block.all_layers.0"] == 3 * 64 * 9
    assert counts["network.1"] == 64 * 128 * 9 + 2 * 128 * 128 * 9 + 3 * 2 * 128
    assert counts["network.2"] == 128 * 256 * 9 + 2 * 256
    assert counts["network.3.res_block"] == 2 * (512 * 512 * 9 + 2 * 512)
    assert counts["network.6"] == 512 * 10 + 10
    assert {row.parameters for row in table.rows if row.type in ("Dropout", "ReLU", "MaxPool2d")} == {0}


def test_flops_count_multiply_and_add_for_one_image(table: ModelTable) -> None:
    convolutions = (
        (3, 64, 32), (64, 128, 32), (128, 128, 16), (128, 128, 16),
        (128, 256, 16), (256, 512, 8), (512, 512, 4), (512, 512, 4),
    )  # fmt: skip
    expected = sum(2 * 9 * i * o * side * side for i, o, side in convolutions) + 2 * 512 * 10
    assert table.flops == expected


def test_table_and_record_count_the_same_flops() -> None:
    # speednet looks again at images that it is unsure about; that is no property of the network.
    text, table = model_table("speednet", (3, 32, 32), 10)
    assert f"{table.flops / 1e6:.0f} M     Total Flops" in text
    assert "[1, 3, 32, 32]" in text


def test_text_has_the_layout_of_lightnings_summary() -> None:
    text, table = model_table("custom-resnet", (3, 32, 32), 10)
    lines = text.splitlines()
    assert "network.3.res_block.1.all_layers.3" in text
    assert [line.split(" | ")[1].strip() for line in lines[2:63]] == [row.name for row in table.rows]
    assert any(line.startswith("26.293") for line in lines)


@pytest.mark.parametrize(("depth", "rows"), [(0, 0), (1, 1), (2, 8), (-1, 61)])
def test_depth_limits_the_rows_and_changes_no_total(depth: int, rows: int) -> None:
    table = model_table("custom-resnet", (3, 32, 32), 10, depth)[1]
    assert len(table.rows) == rows
    assert table.parameters == 6_573_130


def test_both_paddings_have_the_same_weights_but_not_the_same_borders() -> None:
    torch.manual_seed(0)
    zeros = build_model("custom-resnet", (3, 32, 32), 10).eval()
    replicate = build_model("custom-resnet-replicate", (3, 32, 32), 10).eval()
    shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (zeros, replicate)]
    assert shapes[0] == shapes[1]
    assert list(shapes[0]) == list(shapes[1])
    replicate.load_state_dict(zeros.state_dict())
    images = torch.randn(1, 3, 32, 32)
    first = [n.get_submodule("network.0.pool_block.all_layers.0")(images) for n in (zeros, replicate)]
    torch.testing.assert_close(first[0][..., 1:-1, 1:-1], first[1][..., 1:-1, 1:-1])
    assert not torch.allclose(first[0], first[1])


def test_the_shortcut_adds_what_goes_around_it() -> None:
    torch.manual_seed(0)
    layer = build_model("custom-resnet", (3, 32, 32), 10).eval().get_submodule("network.1")
    images = torch.randn(1, 64, 16, 16)
    x = layer.pool_block(images)
    torch.testing.assert_close(layer(images), x + layer.res_block(x))


def test_dropout_is_5_percent_everywhere() -> None:
    network = build_model("custom-resnet", (3, 32, 32), 10)
    rates = [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)]
    assert rates == [0.05] * 8
