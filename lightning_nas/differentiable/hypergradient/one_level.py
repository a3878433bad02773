"""One-level search."""

from torch import Tensor

from lightning_nas.differentiable.hypergradient.base import Batch, BilevelProblem, Hypergradient


class OneLevel(Hypergradient):
    """Weights and alphas follow the gradient of one loss on one batch: both halves together.

    The halves are joined into one batch, so that a step sees as many images as a bi-level one, in one pass instead of
    two. Without strong augmentation the alphas over-fit, as the weights do.

    References:
        1. Bi et al.: GOLD-NAS: Gradual, One-Level, Differentiable, 2020, https://arxiv.org/abs/2007.03331
    """

    one_level = True

    def gradient(self, problem: BilevelProblem, train: Batch, search: Batch) -> tuple[Tensor, ...]:
        """The gradient on ``search`` at the live weights; the task takes it in the weights' own backward pass."""
        return problem.gradients(problem.search_loss(search, None), problem.alphas)
