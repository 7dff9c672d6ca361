"""Muon for convolution filters, SGD for everything else, as one optimiser."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


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
        for group in self.param_groups:
            group.setdefault("filters", False)
            if group["filters"] and any(p.ndim != 4 for p in group["params"]):
                raise ValueError("a group of filters holds 4-d tensors only")

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
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for filters in params:
            if filters.grad is not None:
                flat = self._direction(filters, momentum)
                alike[flat.shape].append((filters, flat))
        for group in alike.values():
            # Matrices of one shape at once: a GPU spends longer on starting small products than on them.
            one = len(group) == 1
            flats = [flat for _, flat in group]
            orthogonal = orthogonalise(flats[0])[None] if one else orthogonalise(torch.stack(flats))
            for (filters, _), update in zip(group, orthogonal, strict=True):
                out, in_, height, width = filters.shape
                filters.mul_(out**0.5 / filters.norm().clamp(min=1e-12))
                filters.add_(update.view(out, height, width, in_).permute(0, 3, 1, 2), alpha=-lr)
                filters.grad = None

    def _direction(self, filters: Tensor, momentum: float) -> Tensor:
        """Nesterov momentum of the gradient, as a matrix (out, height * width * in)."""
        gradient = filters.grad
        assert gradient is not None
        state = self.state[filters]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average = state["momentum_buffer"].mul_(momentum).add_(gradient)
        direction = gradient.add(average, alpha=momentum)
        # The order of a matrix's columns does not change its orthogonalisation, so channels-last
        # filters are flattened in the order they lie in memory.
        matrix = direction.permute(0, 2, 3, 1).flatten(1)
        return matrix.bfloat16() if self.bf16 else matrix
