"""Second-order DARTS with exact curvature."""

import torch
from torch import Tensor

from lightning_nas.differentiable.hypergradient.base import Batch, BilevelProblem, Hypergradient
from lightning_nas.differentiable.hypergradient.second_order import unrolled


class ExactSecondOrder(Hypergradient):
    """The derivative of ``L_search(step(w, alpha), alpha)`` through one SGD step of the weights, by double backward.

    What ``SecondOrder`` approximates: equal to differentiating through the step, with momentum, Nesterov and weight
    decay. It needs the memory of a graph of the training gradient. Departs from the paper, which has differences only.

    References:
        1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055
    """

    needs_sgd = True

    def gradient(self, problem: BilevelProblem, train: Batch, search: Batch) -> tuple[Tensor, ...]:
        """One gradient per alpha."""
        weights = {name: w.detach().requires_grad_() for name, w in problem.weights.items()}
        found = problem.gradients(problem.train_loss(train, weights), tuple(weights.values()), create_graph=True)
        averaged = {n: problem.mean(g.detach()) for n, g in zip(weights, found, strict=True)}
        direct, vector = unrolled(problem, averaged, search)
        # weights that the loss does not depend on have a constant gradient
        pairs = [(g, vector[n]) for n, g in zip(weights, found, strict=True) if g.requires_grad]
        inner = torch.stack([(g * v).sum() for g, v in pairs]).sum()
        implicit = problem.gradients(inner, problem.alphas)
        return tuple(d - problem.mean(h) for d, h in zip(direct, implicit, strict=True))
