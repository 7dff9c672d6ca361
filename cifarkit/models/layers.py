"""Layers one after the other, of which some are cheaper together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cifarkit.models import fused, lean
from cifarkit.models.conv import Conv2d, conv_pool


class BatchNorm(nn.BatchNorm2d):
    """Batch norm without a learned scale, whose running statistics follow the last few batches only:
    runs are so short that slower statistics would lag behind the weights."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad = False


class Sequential(nn.Sequential):
    """``nn.Sequential`` that takes neighbours together in training: on a GPU where it saves time, on a CPU
    where it saves memory. Hooks of what is taken together are not called; compilers see layers one by one."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(x)  # type: ignore[no-any-return, no-untyped-call]
        coming = list(self)
        while coming:
            match coming:
                case [nn.MaxPool2d(), BatchNorm() as norm, nn.GELU(), *rest] if fused.pays(x, norm):
                    x = fused.norm_gelu(x, norm, pool=True)
                case [BatchNorm() as norm, nn.GELU(), *rest] if fused.pays(x, norm):
                    x = fused.norm_gelu(x, norm, pool=False)
                case [nn.ReLU(), lean.Dropout() as dropout, *rest] if dropout.draws and lean.pays(x):
                    x = lean.relu_dropout(x, dropout)
                case [Conv2d() as conv, lean.MaxPool2d(kernel_size=2), *rest] if (
                    conv.can_be_taken_over(x) and lean.unpools(x) and min(x.shape[2:]) > 1
                ):
                    x = conv_pool(x, conv)
                case [layer, *rest]:
                    x = layer(x)
            coming = rest
        return x
