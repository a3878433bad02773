"""Steps of the plain supernets, which tests of the library's supernets compare with."""

import copy

import pytest
import torch
from torch import Tensor

from benchmarks import reference_darts as reference


@pytest.fixture
def net() -> reference.Network:
    return reference.Network(2, classes=3, cells=3, nodes=2).double()


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.arange(4) % 3


def alphas() -> dict[str, Tensor]:
    return {name: (0.1 * torch.randn(5, 8, dtype=torch.float64)).requires_grad_() for name in ("normal", "reduce")}


def test_the_exact_second_order_gradient_is_that_of_a_step(net: reference.Network) -> None:
    """Of the search loss after one step of SGD, by differences of the alphas."""
    train, search, arch = batch(), batch(), alphas()
    sgd = torch.optim.SGD(net.parameters(), 0.1)

    def after_a_step(shifted: dict[str, Tensor]) -> float:
        other = copy.deepcopy(net)
        loss = torch.nn.functional.cross_entropy(other(train[0], shifted), train[1])
        with torch.no_grad():
            for weight, gradient in zip(
                other.parameters(), torch.autograd.grad(loss, list(other.parameters())), strict=True
            ):
                weight -= 0.1 * gradient
            return float(torch.nn.functional.cross_entropy(other(search[0], shifted), search[1]))

    found = reference.second_order_gradient(net, arch, None, train, search, sgd, exact=True)
    direction = {name: torch.randn_like(alpha) for name, alpha in arch.items()}
    sides = [after_a_step({n: a.detach() + sign * 1e-6 * direction[n] for n, a in arch.items()}) for sign in (1, -1)]
    expected = sum(float((g * d).sum()) for g, d in zip(found, direction.values(), strict=True))
    assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("step", [reference.first_order_step, reference.second_order_step, reference.exact_step])
def test_steps_move_alphas_and_weights(net: reference.Network, step: object) -> None:
    arch = alphas()
    sgd, adam = torch.optim.SGD(net.parameters(), 0.1), torch.optim.Adam(arch.values(), 0.1)
    before = [p.detach().clone() for p in (*arch.values(), *net.parameters())]
    loss = step(net, arch, None, batch(), batch(), sgd, adam)  # type: ignore[operator]
    assert torch.isfinite(loss)
    moved = [not torch.equal(a, b) for a, b in zip(before, (*arch.values(), *net.parameters()), strict=True)]
    assert all(moved[:2])
    assert any(moved[2:])
