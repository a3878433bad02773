"""First-order DARTS."""

from torch import Tensor

from lightning_nas.differentiable.hypergradient.base import Batch, BilevelProblem, Hypergradient


class FirstOrder(Hypergradient):
    """The gradient at the present weights, ``dL_search(w, alpha) / dalpha``, as if the weights were optimal.

    The cheapest of all: one forward and one backward pass, without the gradients of the weights. It works with every
    optimizer, relaxation and setting of the supernet.

    References:
        1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055

    Example:
        ```yaml
        hypergradient: FirstOrder
        ```
    """

    def gradient(self, problem: BilevelProblem, train: Batch, search: Batch) -> tuple[Tensor, ...]:
        """One gradient per tensor of alphas, averaged over all processes.

        Args:
            problem: Parameters and losses.
            train: A batch of the train half; not used.
            search: A batch of the search half.
        """
        found = problem.gradients(problem.search_loss(search, None), problem.alphas)
        return tuple(problem.mean(g) for g in found)
