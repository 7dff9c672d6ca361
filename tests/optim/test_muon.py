from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from cifarkit.optim.muon import Muon, orthogonalise

SHAPES = [(8, 8), (8, 72), (72, 8), (64, 27), (16, 576), (1, 9), (9, 1)]


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def gradients(like: Tensor, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(like.shape, generator=generator) for _ in range(count)]


def filters_group(*filters: nn.Parameter, lr: float = 0.2) -> dict[str, object]:
    return {"params": list(filters), "lr": lr, "momentum": 0.6, "filters": True}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_singular_values_come_near_1(shape: tuple[int, int], seed: int) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    rank = min(shape)
    # A square random matrix has singular values near 0, which three steps cannot lift all the way.
    steps = 5 if shape[0] == shape[1] else 3
    values = torch.linalg.svdvals(orthogonalise(matrix, steps=steps))[: max(1, rank - 1)]
    assert values.min() > 0.3
    assert values.max() < 1.6


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_singular_vectors_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.T @ orthogonalise(matrix) @ vh.T
    off_diagonal = turned - torch.diag(turned.diagonal())
    assert off_diagonal.abs().max() < 1e-4
    assert turned.diagonal().min() > 0


@pytest.mark.parametrize("factor", [1e-4, 1.0, 1e4])
def test_the_size_of_the_matrix_does_not_matter(factor: float) -> None:
    matrix = torch.randn(8, 27, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        orthogonalise(factor * matrix), orthogonalise(matrix), atol=1e-3 / min(1, 1e3 * factor), rtol=1e-3
    )


def test_tall_is_the_transpose_of_wide() -> None:
    matrix = torch.randn(30, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalise(matrix), orthogonalise(matrix.T).T)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_several_at_once_are_each_alone(shape: tuple[int, int]) -> None:
    several = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    several[1] *= 100
    alone = torch.stack([orthogonalise(matrix) for matrix in several])
    torch.testing.assert_close(orthogonalise(several), alone, atol=1e-4, rtol=1e-4)


def test_filters_of_one_shape_step_as_each_alone() -> None:
    together = [parameter(8, 4, 3, 3, seed=seed) for seed in range(3)] + [parameter(4, 8, 3, 3)]
    alone = [nn.Parameter(filters.detach().clone()) for filters in together]
    optimizers = [Muon([filters_group(*together)]), *(Muon([filters_group(one)]) for one in alone)]
    for step in range(3):
        for seed, (one, other) in enumerate(zip(together, alone, strict=True)):
            one.grad = gradients(one, 3 * len(together))[3 * seed + step]
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_type_and_input_are_kept(dtype: torch.dtype) -> None:
    matrix = torch.randn(4, 9).to(dtype)
    before = matrix.clone()
    assert orthogonalise(matrix).dtype is dtype
    assert torch.equal(matrix, before)


def test_no_gradient_no_direction() -> None:
    assert torch.equal(orthogonalise(torch.zeros(4, 9)), torch.zeros(4, 9))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_lr_0_leaves_the_direction_and_sets_the_norm(scale: float) -> None:
    filters = nn.Parameter(scale * parameter(16, 3, 3, 3).detach())
    before = filters.detach().clone()
    filters.grad = gradients(filters, 1)[0]
    Muon([filters_group(filters, lr=0.0)]).step()
    assert filters.norm().item() == pytest.approx(4.0, rel=1e-5)
    torch.testing.assert_close(filters.detach(), before * (4.0 / before.norm()))


def test_the_first_step_follows_the_orthogonalised_gradient() -> None:
    filters = parameter(16, 3, 3, 3)
    before = filters.detach() * (4.0 / filters.detach().norm())
    gradient = gradients(filters, 1)[0]
    filters.grad = gradient.clone()
    Muon([filters_group(filters, lr=0.1)]).step()
    step = (before - filters.detach()) / 0.1
    # Nesterov's direction at the first step is 1.6 times the gradient; its size falls out.
    torch.testing.assert_close(step.flatten(1), orthogonalise(gradient.flatten(1)), atol=1e-4, rtol=1e-4)


def test_in_bf16_it_steps_nearly_the_same_way_and_filters_keep_their_type() -> None:
    after = []
    for bf16 in (False, True):
        filters = parameter(16, 3, 3, 3)
        filters.grad = gradients(filters, 1)[0]
        Muon([filters_group(filters, lr=0.1)], bf16=bf16).step()
        assert filters.dtype is torch.float32
        after.append(filters.detach())
    torch.testing.assert_close(*after, atol=2e-3, rtol=0.0)
    assert not torch.equal(*after)


def test_momentum_is_nesterovs() -> None:
    filters = parameter(16, 3, 3, 3)
    optimizer = Muon([filters_group(filters, lr=0.1)])
    first, second = gradients(filters, 2)
    filters.grad = first.clone()
    optimizer.step()
    before = filters.detach() * (4.0 / filters.detach().norm())
    filters.grad = second.clone()
    optimizer.step()
    direction = second + 0.6 * (0.6 * first + second)
    expected = before - 0.1 * orthogonalise(direction.flatten(1)).view_as(filters)
    torch.testing.assert_close(filters.detach(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gradient_format", [torch.channels_last, torch.contiguous_format])
def test_memory_format_does_not_matter(gradient_format: torch.memory_format) -> None:
    plain = parameter(16, 8, 3, 3)
    last = nn.Parameter(plain.detach().clone(memory_format=torch.channels_last))
    optimizers = [Muon([filters_group(p)]) for p in (plain, last)]
    for gradient in gradients(plain, 3):
        plain.grad = gradient.clone()
        last.grad = gradient.clone(memory_format=gradient_format)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(plain.detach(), last.detach(), atol=1e-5, rtol=1e-5)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_other_groups_are_plain_sgd_bit_for_bit() -> None:
    settings = {"lr": 0.1, "momentum": 0.85, "nesterov": True, "weight_decay": 0.01}
    ours, theirs = parameter(10, 7), parameter(10, 7)
    filters = parameter(4, 3, 3, 3)
    muon = Muon([filters_group(filters), {"params": [ours], **settings}])
    sgd = torch.optim.SGD([theirs], **settings)  # type: ignore[arg-type]
    for gradient in gradients(ours, 5):
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        filters.grad = torch.ones_like(filters)
        muon.step()
        sgd.step()
        assert torch.equal(ours, theirs)


def test_state_survives_saving() -> None:
    filters, bias = parameter(8, 3, 3, 3), parameter(8)
    optimizer = Muon([filters_group(filters), {"params": [bias], "lr": 0.1, "momentum": 0.9}])
    steps = list(zip(gradients(filters, 6), gradients(bias, 6), strict=True))

    def go_on(optimizer: Muon, parameters: list[nn.Parameter], part: slice) -> None:
        for gradient_pair in steps[part]:
            for p, gradient in zip(parameters, gradient_pair, strict=True):
                p.grad = gradient.clone()
            optimizer.step()

    go_on(optimizer, [filters, bias], slice(3))
    saved = copy.deepcopy(optimizer.state_dict())
    copies = [nn.Parameter(p.detach().clone()) for p in (filters, bias)]
    other = Muon([filters_group(copies[0], lr=9.0), {"params": [copies[1]], "lr": 9.0}])
    other.load_state_dict(saved)
    go_on(optimizer, [filters, bias], slice(3, None))
    go_on(other, copies, slice(3, None))
    assert torch.equal(filters, copies[0])
    assert torch.equal(bias, copies[1])


def test_parameters_without_gradient_stay() -> None:
    filters, bias = parameter(8, 3, 3, 3), parameter(8)
    before = filters.detach().clone(), bias.detach().clone()
    Muon([filters_group(filters), {"params": [bias], "lr": 0.1}]).step()
    assert torch.equal(filters, before[0])
    assert torch.equal(bias, before[1])


def test_a_closure_is_evaluated_once_with_gradients() -> None:
    filters = parameter(8, 3, 3, 3)
    optimizer = Muon([filters_group(filters)])
    before, calls = filters.detach().clone(), []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (filters**3).sum()
        loss.backward()
        calls.append(loss)
        return loss

    assert optimizer.step(closure) is calls[0]
    assert len(calls) == 1
    assert not torch.equal(filters, before)


def test_filters_have_four_dimensions() -> None:
    with pytest.raises(ValueError, match="4-d"):
        Muon([filters_group(parameter(10, 7))])
