"""Curvature and rise of losses that are known."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_nas.errors import ConfigError
from lightning_nas.metrics.sharpness import largest_eigenvalue, loss_rise, smallest_eigenvalue


def test_the_eigenvalue_of_a_quadratic_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(7, 7, generator=generator, dtype=torch.float64))
    values = torch.tensor([-9.0, -1.0, 0.0, 0.5, 1.0, 2.0, 5.0], dtype=torch.float64)
    matrix = basis @ torch.diag(values) @ basis.T
    first, second = torch.randn(3, generator=generator).double(), torch.randn(2, 2, generator=generator).double()
    first.requires_grad_(), second.requires_grad_()
    vector = torch.cat([first, second.flatten()])
    # the largest, not that of largest size
    assert largest_eigenvalue(vector @ matrix @ vector / 2, (first, second), 1e-10) == pytest.approx(5.0, rel=1e-8)
    assert smallest_eigenvalue(vector @ matrix @ vector / 2, (first, second), 1e-10) == pytest.approx(-9.0, rel=1e-8)
    assert largest_eigenvalue(vector.sum(), (first, second)) == 0.0
    assert smallest_eigenvalue(vector.sum(), (first, second)) == 0.0
    assert smallest_eigenvalue(first.square().sum(), (first,)) == pytest.approx(2.0)
    unused = torch.zeros(3, requires_grad=True)
    assert largest_eigenvalue(3.0 * first.square().sum() / 2, (unused, first), 1e-10) == pytest.approx(3.0)


def test_near_a_minimum_the_smallest_eigenvalue_takes_few_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of these lie within a small part of the spread, and those close to 0 close together."""
    values = torch.logspace(-6, 0, 40, dtype=torch.float64)
    basis, _ = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    vector = torch.ones(40, dtype=torch.float64, requires_grad=True)
    loss, counts, whole = vector @ basis @ torch.diag(values) @ basis.T @ vector / 2, [0], torch.autograd.grad

    def counted(*arguments: Any, **options: Any) -> Any:
        counts[-1] += 1
        return whole(*arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    for largest in (None, 1.0):
        counts.append(0)
        assert smallest_eigenvalue(loss, (vector,), largest=largest) == pytest.approx(0.0, abs=0.01)
    assert counts[2] < counts[1] < 100


def test_the_rise_of_a_sphere_is_its_radius() -> None:
    weights = {"a": torch.tensor([3.0, 0.0]).double(), "b": torch.tensor([[0.0, 4.0]]).double()}

    def sphere(w: dict[str, Tensor]) -> Tensor:
        return sum(((w[n] - weights[n]).square().sum() for n in w), torch.zeros(()))

    # |w| is 5, and every direction is as steep as any
    assert loss_rise(sphere, weights, 0.1, directions=3) == pytest.approx(0.25)
    assert loss_rise(sphere, weights, 0.2) == pytest.approx(1.0)


def test_the_rise_is_the_mean_over_directions() -> None:
    weights = {"a": torch.ones(4, dtype=torch.float64)}

    def bowl(w: dict[str, Tensor]) -> Tensor:
        return (torch.tensor([1.0, 2.0, 3.0, 10.0]) * (w["a"] - 1).square()).sum()

    # over many directions, the mean of the curvatures
    assert loss_rise(bowl, weights, 0.5, directions=4000) == pytest.approx(4.0, rel=0.05)
    assert loss_rise(bowl, weights, 0.5, seed=1) == loss_rise(bowl, weights, 0.5, seed=1)
    assert loss_rise(bowl, weights, 0.5, seed=1) != loss_rise(bowl, weights, 0.5, seed=2)


def test_numbers_out_of_range_are_refused() -> None:
    for radius, directions, match in ((0.0, 1, "radius is 0.0"), (0.1, 0, "directions is 0")):
        with pytest.raises(ConfigError, match=match):
            loss_rise(lambda w: w["a"].sum(), {"a": torch.ones(1)}, radius, directions)
