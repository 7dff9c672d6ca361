"""The layer table of a model, in the style of Lightning's ModelSummary."""

from __future__ import annotations

import warnings

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_summary import ModelSummary
from torch.utils.flop_counter import FlopCounterMode

from cifarkit.models import build_model, one_view
from cifarkit.results import LayerRow, ModelTable


def model_table(
    model: str, image_shape: tuple[int, int, int], classes: int, depth: int = -1
) -> tuple[str, ModelTable]:
    """Lightning's table as text, and the same as a record.

    Args:
        model: a name in MODELS.
        image_shape: (C, H, W).
        depth: levels of modules to show, -1 for all of them.

    Raises:
        UnknownName: no such model.
        UsageError: the images are too small for it.
    """
    module = _Shell(build_model(model, image_shape, classes), image_shape)
    with one_view(module.network), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning = ModelSummary(module, max_depth=depth)
        text = str(lightning)
    parameters = list(module.parameters())
    rows = zip(
        lightning.layer_names,
        lightning.layer_types,
        lightning.param_nums,
        lightning.out_sizes,
        strict=True,
    )
    table = ModelTable(
        model=model,
        input_shape=image_shape,
        classes=classes,
        parameters=sum(p.numel() for p in parameters),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        size_bytes=sum(p.numel() * p.element_size() for p in parameters),
        flops=count_flops(model, image_shape, classes),
        rows=tuple(
            LayerRow(n, t, int(p), tuple(out) if isinstance(out, list) else None) for n, t, p, out in rows
        ),
    )
    return text, table


def count_flops(model: str, image_shape: tuple[int, int, int], classes: int) -> int:
    """Multiplications and additions for one image (C, H, W), forward only.

    Raises:
        UnknownName: no such model.
        UsageError: the images are too small for it.
    """
    with torch.random.fork_rng(devices=[]):  # who asks may be in the middle of a training
        network = build_model(model, image_shape, classes).eval()
    with one_view(network), FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *image_shape))
    return int(counter.get_total_flops())


class _Shell(pl.LightningModule):
    """What Lightning wants around a network to summarise it."""

    def __init__(self, network: torch.nn.Module, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        # The course project's class was the LightningModule itself, with its layers under `network`.
        children = dict(network.named_children())
        self.network = children["network"] if list(children) == ["network"] else network
        self.example_input_array = torch.zeros(1, *image_shape)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)
        return logits
