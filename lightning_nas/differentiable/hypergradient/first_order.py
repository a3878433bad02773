"""First-order DARTS."""

from torch import Tensor

from lightning_nas.differentiable.hypergradient.base import Batch, BilevelProblem, Hypergradient


class FirstOrder(Hypergradient):
    """``dL_search(w, alpha) / dalpha``: the weights are taken as if they were optimal.

    References:
        1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055
    """

    def gradient(self, problem: BilevelProblem, train: Batch, search: Batch) -> tuple[Tensor, ...]:
        """One gradient per alpha; no gradient of a weight is computed."""
        found = problem.gradients(problem.search_loss(search, None), problem.alphas)
        return tuple(problem.mean(g) for g in found)
