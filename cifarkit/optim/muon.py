"""Muon for convolution filters, SGD for everything else, as one optimiser."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cifarkit.replay import Replayed, Work


def orthogonalise(matrix: Tensor, steps: int = 3) -> Tensor:
    """Push the singular values of matrices towards 1 by a quintic Newton-Schulz iteration.

    The coefficients trade exactness for slope at zero: singular values end up near 0.5..1.5, which
    trains as well as exact orthogonalisation (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    Args:
        matrix: (rows, columns), or several of one shape (N, rows, columns), any floating type; computed in
            that type.
        steps: iterations; 3 are enough here.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrix / (matrix.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    add_product = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(steps):
        gram = x @ x.mT
        x = add_product(x, add_product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.SGD):
    """Orthogonalised Nesterov momentum on groups marked ``filters``, plain SGD on the other groups.

    `torch.optim.Muon` takes matrices only and orthogonalises in bf16 always, which a CPU without bf16 units
    does a hundred times slower; here a filter (out, in, h, w) is the matrix (out, in*h*w), and each filter
    tensor is rescaled to norm sqrt(out) before its step, so that the learning rate is relative to the
    weights (airbench94_muon).

    Args:
        groups: parameter groups; those with ``filters=True`` hold 4-d tensors only.
        bf16: orthogonalise in bf16, which is exact enough; else in the filters' own type.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, bf16: bool = False) -> None:
        super().__init__(groups, lr=0.0, momentum=0.0)
        self.bf16 = bf16
        self._replayed: dict[object, Replayed] = {}
        for group in self.param_groups:
            group.setdefault("filters", False)
            if group["filters"] and any(p.ndim != 4 for p in group["params"]):
                raise ValueError("a group of filters holds 4-d tensors only")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._replayed.clear()  # the momenta lie elsewhere now

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["filters"]:
                self._step_filters(group["params"], group["lr"], group["momentum"])
        # The filters' gradients are gone, so SGD's own step finds the other parameters only.
        super().step()
        return loss

    def _step_filters(self, params: Sequence[Tensor], lr: float, momentum: float) -> None:
        filters = [p for p in params if p.grad is not None]
        if not filters:
            return
        gradients = [p.grad for p in filters if p.grad is not None]
        for each, gradient in zip(filters, gradients, strict=True):
            if self.state[each].get("momentum_buffer") is None:
                self.state[each]["momentum_buffer"] = torch.zeros_like(gradient)
        averages = [self.state[each]["momentum_buffer"] for each in filters]
        directions: Work = partial(_directions, filters, averages, momentum, self.bf16)
        if filters[0].is_cuda:
            # Not once for all: a part of the filters may be frozen at times.
            key = momentum, *map(id, filters)
            directions = self._replayed.setdefault(key, Replayed(directions))
        torch._foreach_add_(filters, list(directions(*gradients)), alpha=-lr)
        for each in filters:
            each.grad = None


def _directions(
    filters: list[Tensor], averages: list[Tensor], momentum: float, bf16: bool, *gradients: Tensor
) -> tuple[Tensor, ...]:
    """The orthogonalised Nesterov momenta, shaped as the filters; moves the averages on and gives the filters
    their norms."""
    torch._foreach_mul_(averages, momentum)
    torch._foreach_add_(averages, gradients)
    alike: dict[torch.Size, list[tuple[int, Tensor]]] = defaultdict(list)
    for at, direction in enumerate(torch._foreach_add(gradients, averages, alpha=momentum)):
        # The order of a matrix's columns does not change its orthogonalisation, so channels-last
        # filters are flattened in the order they lie in memory.
        matrix = direction.permute(0, 2, 3, 1).flatten(1)
        alike[matrix.shape].append((at, matrix.bfloat16() if bf16 else matrix))
    turned = list(filters)
    for group in alike.values():
        # Matrices of one shape at once: a GPU spends longer on starting small products than on them.
        matrices = [matrix for _, matrix in group]
        one = len(matrices) == 1
        orthogonal = orthogonalise(matrices[0])[None] if one else orthogonalise(torch.stack(matrices))
        for (at, _), update in zip(group, orthogonal, strict=True):
            out, in_, height, width = filters[at].shape
            turned[at] = update.view(out, height, width, in_).permute(0, 3, 1, 2).to(filters[at].dtype)
    for each, norm in zip(filters, torch._foreach_norm(filters), strict=True):
        each.mul_(each.shape[0] ** 0.5 / norm.clamp(min=1e-12))
    return tuple(turned)
