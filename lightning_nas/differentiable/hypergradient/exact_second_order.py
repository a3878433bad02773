"""Second-order DARTS with exact curvature."""

import torch
from torch import Tensor

from lightning_nas.differentiable.hypergradient.base import Batch, BilevelProblem, Hypergradient
from lightning_nas.differentiable.hypergradient.second_order import unrolled


class ExactSecondOrder(Hypergradient):
    """The derivative of ``L_search(step(w, alpha), alpha)`` through one SGD step of the weights, by double backward.

    This is what ``SecondOrder`` approximates: it equals differentiating through the step, with its momentum, Nesterov
    momentum and weight decay. It needs more memory, for a graph of the training gradient. The weights must be trained
    by ``torch.optim.SGD`` with one parameter group. A departure from the paper, which uses finite differences only.

    References:
        1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055

    Example:
        ```yaml
        hypergradient: ExactSecondOrder
        ```
    """

    needs_sgd = True

    def gradient(self, problem: BilevelProblem, train: Batch, search: Batch) -> tuple[Tensor, ...]:
        """One gradient per tensor of alphas, averaged over all processes.

        Args:
            problem: Parameters and losses.
            train: A batch of the train half.
            search: A batch of the search half.
        """
        weights = {name: w.detach().requires_grad_() for name, w in problem.weights.items()}
        found = problem.gradients(problem.train_loss(train, weights), tuple(weights.values()), create_graph=True)
        averaged = {n: problem.mean(g.detach()) for n, g in zip(weights, found, strict=True)}
        direct, vector = unrolled(problem, averaged, search)
        # the gradient of a weight that the loss does not depend on is a constant zero, without a graph
        pairs = [(g, vector[n]) for n, g in zip(weights, found, strict=True) if g.requires_grad]
        inner = torch.stack([(g * v).sum() for g, v in pairs]).sum()
        implicit = problem.gradients(inner, problem.alphas)
        return tuple(d - problem.mean(h) for d, h in zip(direct, implicit, strict=True))
