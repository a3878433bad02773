"""Hypergradients against automatic differentiation through the very step that the optimizer makes."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_nas.differentiable.hypergradient.base import BilevelProblem, Hypergradient, VirtualStep
from lightning_nas.differentiable.hypergradient.exact_second_order import ExactSecondOrder
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.differentiable.hypergradient.second_order import SecondOrder
from lightning_nas.errors import ConfigError

SGD = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.03},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.03},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.03, "nesterov": True},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.03, "dampening": 0.4},
]


def smooth_loss(weights: Mapping[str, Tensor], alphas: tuple[Tensor, ...], batch: tuple[Tensor, Tensor]) -> Tensor:
    """A smooth network with two mixed operations, and a weight that no loss depends on."""
    x, y = batch
    p, q = alphas[0].softmax(0), alphas[1].softmax(0)
    h = p[0] * torch.tanh(x @ weights["a"]) + p[1] * torch.sigmoid(x @ weights["b"]) + p[2] * x[:, :4]
    out = q[0] * torch.tanh(h @ weights["c"]) + q[1] * (h @ weights["c"])
    return ((out - y) ** 2).mean()


class Toy:
    def __init__(self, options: dict[str, Any], steps: int) -> None:
        generator = torch.Generator().manual_seed(3)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.weights = {
            n: draw(*s).requires_grad_() for n, s in {"a": (6, 4), "b": (6, 4), "c": (4, 2), "d": (3,)}.items()
        }
        self.alphas = (draw(3).requires_grad_(), draw(2).requires_grad_())
        self.train = (draw(16, 6), draw(16, 2))
        self.search = (draw(16, 6), draw(16, 2))
        self.optimizer = torch.optim.SGD(self.weights.values(), **options)
        for _ in range(steps):  # momentum buffers of a real run
            self.optimizer.zero_grad()
            smooth_loss(self.weights, self.alphas, self.train).backward()
            self.optimizer.step()
        self.optimizer.zero_grad()
        for alpha in self.alphas:
            alpha.grad = None

    def problem(self) -> BilevelProblem:
        def loss(batch: Any, weights: Mapping[str, Tensor] | None) -> Tensor:
            return smooth_loss(self.weights if weights is None else weights, self.alphas, batch)

        return BilevelProblem(
            self.weights, self.alphas, loss, loss, VirtualStep.of(self.optimizer, self.weights), lambda value: value
        )

    def by_autograd(self) -> tuple[Tensor, ...]:
        """Differentiates through a copy of torch's own SGD, written out here and checked against it below."""
        g = torch.autograd.grad(
            smooth_loss(self.weights, self.alphas, self.train),
            tuple(self.weights.values()),
            create_graph=True,
            allow_unused=True,
        )
        group = self.optimizer.param_groups[0]
        moved = {}
        for (name, w), gradient in zip(self.weights.items(), g, strict=True):
            d = (torch.zeros_like(w) if gradient is None else gradient) + group["weight_decay"] * w
            if group["momentum"]:
                buffer = self.optimizer.state[w].get("momentum_buffer") if w in self.optimizer.state else None
                m = d if buffer is None else group["momentum"] * buffer + (1 - group["dampening"]) * d
                d = d + group["momentum"] * m if group["nesterov"] else m
            moved[name] = w - group["lr"] * d
        self.moved = {n: w.detach() for n, w in moved.items()}
        return torch.autograd.grad(smooth_loss(moved, self.alphas, self.search), self.alphas)


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("options", SGD)
def test_exact_second_order_is_autograd_through_the_step(options: dict[str, Any], steps: int) -> None:
    toy = Toy(options, steps)
    found = ExactSecondOrder().gradient(toy.problem(), toy.train, toy.search)
    for mine, truth in zip(found, toy.by_autograd(), strict=True):
        torch.testing.assert_close(mine, truth, rtol=0, atol=1e-9 * float(truth.abs().max()))


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("options", SGD)
def test_virtual_step_is_the_step_of_torch(options: dict[str, Any], steps: int) -> None:
    toy = Toy(options, steps)
    toy.by_autograd()
    smooth_loss(toy.weights, toy.alphas, toy.train).backward()
    toy.weights["d"].grad = torch.zeros_like(toy.weights["d"])
    toy.optimizer.step()
    for name, w in toy.weights.items():
        torch.testing.assert_close(toy.moved[name], w.detach(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("options", SGD)
def test_finite_difference_is_near_the_exact_one_on_a_smooth_model(options: dict[str, Any]) -> None:
    toy = Toy(options, 3)
    exact = torch.cat(ExactSecondOrder().gradient(toy.problem(), toy.train, toy.search))
    found = torch.cat(SecondOrder().gradient(toy.problem(), toy.train, toy.search))
    first = torch.cat(FirstOrder().gradient(toy.problem(), toy.train, toy.search))
    assert (found - exact).norm() < 1e-3 * exact.norm()
    # the test can tell the orders apart
    assert (first - exact).norm() > 0.02 * exact.norm()


def test_first_order_is_the_partial_derivative_and_leaves_weights_alone() -> None:
    toy = Toy(SGD[2], 3)
    found = FirstOrder().gradient(toy.problem(), toy.train, toy.search)
    truth = torch.autograd.grad(smooth_loss(toy.weights, toy.alphas, toy.search), toy.alphas)
    for mine, expected in zip(found, truth, strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize("hypergradient", [FirstOrder(), SecondOrder(), ExactSecondOrder()])
def test_nothing_is_left_behind(hypergradient: Hypergradient) -> None:
    toy = Toy(SGD[2], 3)
    before = {n: w.detach().clone() for n, w in toy.weights.items()}
    hypergradient.gradient(toy.problem(), toy.train, toy.search)
    for name, w in toy.weights.items():
        assert torch.equal(w, before[name])
        assert w.grad is None
    assert all(alpha.grad is None for alpha in toy.alphas)


def test_only_sgd_can_be_unrolled() -> None:
    weights = {"w": torch.zeros(2, requires_grad=True)}
    with pytest.raises(ConfigError, match="Adam"):
        VirtualStep.of(torch.optim.Adam(weights.values()), weights)
    with pytest.raises(ConfigError, match="maximize"):
        VirtualStep.of(torch.optim.SGD(weights.values(), lr=0.1, maximize=True), weights)
    with pytest.raises(ConfigError, match="radius"):
        SecondOrder(radius=0)
