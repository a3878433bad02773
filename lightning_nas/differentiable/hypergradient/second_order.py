"""Second-order DARTS: one virtual step of the weights, with its curvature by finite differences."""

import torch
from torch import Tensor

from lightning_nas.checks import greater_than
from lightning_nas.differentiable.hypergradient.base import Batch, BilevelProblem, Hypergradient, Weights


def unrolled(
    problem: BilevelProblem, train_gradients: Weights, search: Batch
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The direct part of the hypergradient, and the vector that multiplies the mixed second derivative.

    Args:
        problem: Parameters and losses.
        train_gradients: Gradients of the train loss by the name of the weight, averaged over all processes.
        search: A batch of the search half.

    Returns:
        With ``w' = step(w, dL_train/dw)``: first ``dL_search(w', alpha) / dalpha``, then ``dL_search(w', alpha) / dw'``
        times the factor of the gradient in the step, by the name of the weight; both averaged over all processes.
    """
    assert problem.step is not None, "a hypergradient with needs_sgd gets a step"
    weights = {name: w.detach() for name, w in problem.weights.items()}
    moved = {n: w.detach().requires_grad_() for n, w in problem.step(weights, train_gradients).items()}
    loss = problem.search_loss(search, moved)
    found = problem.gradients(loss, (*problem.alphas, *moved.values()))
    count = len(problem.alphas)
    direct = tuple(problem.mean(g) for g in found[:count])
    vector = {name: problem.step.factor(name) * problem.mean(g) for name, g in zip(moved, found[count:], strict=True)}
    return direct, vector


class SecondOrder(Hypergradient):
    """The gradient after one SGD step ``w'`` of the weights, with its curvature by finite differences.

    ``dL_search(w', alpha)/dalpha - h`` with ``h = (dL_train(w + eps v)/dalpha - dL_train(w - eps v)/dalpha) / (2 eps)``
    and ``eps = radius / ||v||``. The vector ``v`` is ``dL_search/dw'`` times the factor of the gradient in the step,
    which is the learning rate for SGD without Nesterov momentum or dampening. The step is that of the weight optimizer,
    with its momentum and weight decay; it must be ``torch.optim.SGD`` with one parameter group.

    If ReLU or max pooling has a kink between the two points, ``h`` is wrong; ``ExactSecondOrder`` has no such error.
    Everything is computed in full precision, and the passes at other weights leave the batch-norm statistics alone.

    References:
        1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055

    Args:
        radius: Distance of both points from the weights, greater than 0 (the paper: 0.01).

    Raises:
        ConfigError: ``radius`` is not greater than 0.

    Example:
        ```yaml
        hypergradient: {class_path: SecondOrder, init_args: {radius: 0.01}}
        ```
    """

    needs_sgd = True

    def __init__(self, radius: float = 0.01) -> None:
        greater_than(0, radius=radius)
        self.radius = radius

    def gradient(self, problem: BilevelProblem, train: Batch, search: Batch) -> tuple[Tensor, ...]:
        """One gradient per tensor of alphas, averaged over all processes; four forward and backward passes.

        Args:
            problem: Parameters and losses.
            train: A batch of the train half.
            search: A batch of the search half.
        """
        weights = {name: w.detach().requires_grad_() for name, w in problem.weights.items()}
        loss = problem.train_loss(train, weights)
        found = problem.gradients(loss, tuple(weights.values()))
        direct, vector = unrolled(problem, {n: problem.mean(g) for n, g in zip(weights, found, strict=True)}, search)
        norm = torch.stack([v.norm() for v in vector.values()]).norm()
        flat = norm == 0  # the search loss is flat in the weights, or their learning rate is 0
        epsilon = self.radius / torch.where(flat, 1.0, norm)
        sides = []
        for sign in (1, -1):
            there = {name: w.detach() + sign * epsilon * vector[name] for name, w in weights.items()}
            sides.append(problem.gradients(problem.train_loss(train, there), problem.alphas))
        implicit = [problem.mean(a - b) / (2 * epsilon) for a, b in zip(*sides, strict=True)]
        return tuple(d - torch.where(flat, 0.0, h) for d, h in zip(direct, implicit, strict=True))
