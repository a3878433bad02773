"""The Dirichlet relaxation of DrNAS and its anchor against their formulas."""

import math

import pytest
import torch
from scipy.special import betainc, digamma, gammaln
from scipy.stats import beta as beta_distribution
from torch import Tensor
from torch.distributions import kl_divergence

from lightning_nas.differentiable import Dirichlet, DirichletAnchor, SearchModel, SoftmaxScore
from lightning_nas.differentiable.objective import SearchObjective
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.darts.space import DARTSSpace


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shifted_elu(value: float) -> float:
    return 1 + value if value > 0 else math.exp(value)


@pytest.fixture
def alphas() -> Tensor:
    return torch.randn(9, 8, dtype=torch.float64, generator=generator(1))


def test_without_a_draw_the_factors_are_the_mean(alphas: Tensor) -> None:
    found = Dirichlet().relax(alphas)
    for edge in range(9):
        concentration = [shifted_elu(a) for a in alphas[edge].tolist()]
        assert found[edge].tolist() == pytest.approx([c / sum(concentration) for c in concentration])


def test_draws_have_the_moments_of_the_distribution() -> None:
    row = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
    concentration = torch.tensor([shifted_elu(a) for a in row.tolist()], dtype=torch.float64)
    before = torch.get_rng_state()
    draws = Dirichlet().drawn(0.0, generator(3)).relax(row.expand(20000, -1))
    assert torch.equal(before, torch.get_rng_state()), "a draw must not move the global generator"
    mean, total = concentration / concentration.sum(), concentration.sum()
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.01)
    torch.testing.assert_close(draws.var(0), mean * (1 - mean) / (total + 1), rtol=0.05, atol=0)
    torch.testing.assert_close(draws.sum(1), torch.ones(20000, dtype=torch.float64))


def test_the_gradient_of_a_draw_is_that_of_the_inverse_distribution_function() -> None:
    """With two operations the factor is a Beta variable x, and dx/da = -dF/da / f, which SciPy knows."""
    alphas = torch.tensor([[0.7, -0.4]], dtype=torch.float64, requires_grad=True)
    a, b = (shifted_elu(v) for v in alphas[0].tolist())
    for seed in range(5):
        factors = Dirichlet().drawn(0.0, generator(seed)).relax(alphas)
        x, step = factors[0, 0].item(), 1e-6
        density = beta_distribution.pdf(x, a, b)
        by_a = -(betainc(a + step, b, x) - betainc(a - step, b, x)) / (2 * step) / density
        by_b = -(betainc(a, b + step, x) - betainc(a, b - step, x)) / (2 * step) / density
        (found,) = torch.autograd.grad(factors[0, 0], alphas)
        # d(1 + alpha) = 1, d exp(alpha) = exp(alpha)
        assert found[0].tolist() == pytest.approx([by_a, by_b * b], rel=1e-3)


def test_operations_that_are_not_allowed_have_no_share(alphas: Tensor) -> None:
    masked = alphas.clone()
    masked[0, 3] = masked[2, :7] = -torch.inf
    masked[5] = -1e9  # what an edge without operations has
    masked.requires_grad_()
    for relaxation in (Dirichlet(), Dirichlet().drawn(0.0, generator())):
        found = relaxation.relax(masked)
        assert found[0, 3] == 0
        assert torch.equal(found[2, :7], torch.zeros(7, dtype=torch.float64))
        torch.testing.assert_close(found.sum(1), torch.ones(9, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(found.square().sum(), masked)
        assert torch.isfinite(gradient).all()


def test_the_anchor_is_the_divergence_from_the_uniform_distribution(alphas: Tensor) -> None:
    concentration = torch.where(alphas > 0, 1 + alphas, alphas.exp())
    expected = kl_divergence(
        torch.distributions.Dirichlet(concentration), torch.distributions.Dirichlet(torch.ones_like(concentration))
    ).sum()
    found = DirichletAnchor(weight=0.25).penalty({"normal": alphas, "reduce": alphas}, 0.5)
    torch.testing.assert_close(found, 0.5 * expected)
    assert DirichletAnchor().penalty({"normal": torch.zeros(4, 3)}, 0.5).item() == pytest.approx(0, abs=1e-6)


def test_the_anchor_counts_only_what_is_allowed() -> None:
    alphas = torch.tensor([[0.5, -torch.inf, -1.0], [-torch.inf] * 3], dtype=torch.float64)
    concentration = [1.5, math.exp(-1)]
    total = sum(concentration)
    expected = gammaln(total) - sum(gammaln(concentration)) - gammaln(2)
    expected += sum((c - 1) * (digamma(c) - digamma(total)) for c in concentration)
    assert DirichletAnchor(weight=1.0).penalty({"normal": alphas}, 0.5).item() == pytest.approx(expected)


def test_the_anchor_needs_the_relaxation() -> None:
    model = SearchModel(DARTSSpace(nodes=1), SoftmaxScore(), image_shape=(3, 8, 8), num_classes=3)
    with pytest.raises(ConfigError, match=r"but the relaxation is Softmax\. Use Dirichlet"):
        SearchObjective(model, [DirichletAnchor()], seed=0)
