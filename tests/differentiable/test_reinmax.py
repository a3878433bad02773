"""ReinMax against its algorithm and against the exact gradient of an expectation."""

import pytest
import torch
from scipy.stats import chisquare

from lightning_nas.differentiable import HardGumbelSoftmax, ReinMax
from lightning_nas.errors import ConfigError


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_draws_are_one_hot_with_the_probabilities_of_the_softmax() -> None:
    alphas = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5], dtype=torch.float64)
    drawn = ReinMax().drawn(0.3, generator(3)).relax(alphas.expand(20000, -1))
    assert torch.equal((drawn == 1).sum(1), torch.ones(20000, dtype=torch.long))
    assert torch.equal((drawn == 0).sum(1), torch.full((20000,), 4))
    assert chisquare(drawn.sum(0).tolist(), (20000 * alphas.softmax(0)).tolist()).pvalue > 0.01
    assert torch.equal(ReinMax().relax(alphas[None]), alphas[None].softmax(1))


@pytest.mark.parametrize("temperature", [1.0, 1.4])
def test_the_gradient_is_that_of_the_algorithm(temperature: float) -> None:
    alphas = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(6, 5, dtype=torch.float64)
    drawn = ReinMax(temperature).drawn(0.0, generator(1)).relax(alphas)
    (found,) = torch.autograd.grad((drawn * upstream).sum(), alphas)
    for edge in range(6):
        p, d = alphas[edge].detach().softmax(0), drawn[edge].detach()
        q = (d + (alphas[edge].detach() / temperature).softmax(0)) / 2
        # the gradient of a softmax with the values v is v * (g - v . g)
        expected = 2 * q * (upstream[edge] - q @ upstream[edge]) - p * (upstream[edge] - p @ upstream[edge]) / 2
        torch.testing.assert_close(found[edge], expected)


def test_the_gradient_of_a_quadratic_loss_has_no_bias() -> None:
    """Over all draws, weighted by their probabilities, it is the gradient of the expected loss."""
    torch.manual_seed(2)
    alphas = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    matrix, vector = torch.randn(4, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)

    def loss(factors: torch.Tensor) -> torch.Tensor:
        return (factors @ matrix * factors).sum() + factors[0] @ vector

    p = alphas.softmax(1)[0]
    (truth,) = torch.autograd.grad(sum(p[i] * loss(torch.eye(4).double()[i : i + 1]) for i in range(4)), alphas)
    biased = []
    for relaxation in (ReinMax(), HardGumbelSoftmax(1.0, end=1.0)):
        by_choice = {}
        for seed in range(200):
            drawn = relaxation.drawn(0.0, generator(seed)).relax(alphas)
            (gradient,) = torch.autograd.grad(loss(drawn), alphas)
            by_choice.setdefault(int(drawn.argmax()), gradient)
        assert len(by_choice) == 4
        mean = sum(p[i].detach() * by_choice[i] for i in range(4))
        biased.append(float((mean - truth).norm() / truth.norm()))
    assert biased[0] < 1e-12
    assert biased[1] > 0.01, "the test could not tell another estimator"


def test_what_is_not_allowed_is_never_drawn_and_gradients_are_finite() -> None:
    alphas = torch.tensor([[0.3, -torch.inf, 1.0], [-1e9, -1e9, -1e9]], requires_grad=True)
    for seed in range(10):
        drawn = ReinMax().drawn(0.0, generator(seed)).relax(alphas)
        assert drawn[0, 1] == 0
        (gradient,) = torch.autograd.grad(drawn.square().sum(), alphas)
        assert torch.isfinite(gradient).all()
    with pytest.raises(ConfigError, match="temperature is 0"):
        ReinMax(temperature=0)
