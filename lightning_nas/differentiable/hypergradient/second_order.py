"""Second-order DARTS: one virtual step of the weights, its curvature by finite differences."""

import torch
from torch import Tensor

from lightning_nas.differentiable.hypergradient.base import Batch, BilevelProblem, Hypergradient, Weights
from lightning_nas.errors import ConfigError


def unrolled(
    problem: BilevelProblem, train_gradients: Weights, search: Batch
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The direct part of the hypergradient, and the vector that the mixed second derivative meets.

    With ``w' = step(w, dL_train/dw)``: ``dL_search(w', alpha) / dalpha`` averaged over processes, and
    ``dL_search(w', alpha) / dw'`` times the factor of the gradient in the step.
    """
    assert problem.step is not None, "the task checks that the weights are trained by SGD"
    weights = {name: w.detach() for name, w in problem.weights.items()}
    moved = {n: w.detach().requires_grad_() for n, w in problem.step(weights, train_gradients).items()}
    loss = problem.search_loss(search, moved)
    found = problem.gradients(loss, (*problem.alphas, *moved.values()))
    count = len(problem.alphas)
    direct = tuple(problem.mean(g) for g in found[:count])
    vector = {name: problem.step.factor(name) * problem.mean(g) for name, g in zip(moved, found[count:], strict=True)}
    return direct, vector


class SecondOrder(Hypergradient):
    """``dL_search(w', alpha)/dalpha - xi * h`` with ``w'`` one SGD step from ``w``.

    ``h = (dL_train(w + eps v)/dalpha - dL_train(w - eps v)/dalpha) / (2 eps)``, ``v = dL_search/dw'``,
    ``eps = radius / ||v||``. The step is the weight optimizer's: momentum, Nesterov and weight decay included. Kinks of
    ReLU and max pooling between the two points can make ``h`` wrong; ``ExactSecondOrder`` has no such error. All is
    computed in full precision, and the passes at other weights leave the batch-norm statistics alone.

    References:
        1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055

    Args:
        radius: Length of the difference's half step, above 0 (the paper: 0.01).
    """

    needs_sgd = True

    def __init__(self, radius: float = 0.01) -> None:
        if radius <= 0:
            raise ConfigError(f"radius is {radius}; it must be above 0.")
        self.radius = radius

    def gradient(self, problem: BilevelProblem, train: Batch, search: Batch) -> tuple[Tensor, ...]:
        """One gradient per alpha: five passes forward and backward instead of one."""
        weights = {name: w.detach().requires_grad_() for name, w in problem.weights.items()}
        loss = problem.train_loss(train, weights)
        found = problem.gradients(loss, tuple(weights.values()))
        direct, vector = unrolled(problem, {n: problem.mean(g) for n, g in zip(weights, found, strict=True)}, search)
        norm = torch.stack([v.norm() for v in vector.values()]).norm()
        if norm == 0:  # the search loss is flat in the weights: nothing to unroll
            return direct
        epsilon = self.radius / norm
        sides = []
        for sign in (1, -1):
            there = {name: w.detach() + sign * epsilon * vector[name] for name, w in weights.items()}
            sides.append(problem.gradients(problem.train_loss(train, there), problem.alphas))
        implicit = [problem.mean(a - b) / (2 * epsilon) for a, b in zip(*sides, strict=True)]
        return tuple(d - h for d, h in zip(direct, implicit, strict=True))
