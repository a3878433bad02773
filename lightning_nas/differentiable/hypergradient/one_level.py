"""One-level search."""

from torch import Tensor

from lightning_nas.differentiable.hypergradient.base import Batch, BilevelProblem, Hypergradient


class OneLevel(Hypergradient):
    """Weights and alphas follow the gradient of one loss on one batch, made of both halves.

    A step sees as many images as a bi-level one, in one pass instead of two. Without strong augmentation the alphas
    over-fit as the weights do, so this goes with augmentation or with a penalty on the alphas.

    References:
        1. Bi et al.: GOLD-NAS: Gradual, One-Level, Differentiable, 2020, https://arxiv.org/abs/2007.03331

    Example:
        ```yaml
        hypergradient: OneLevel
        relaxation: Sigmoid
        discretizer: SigmoidScore
        regularizers: [ExpectedCost]
        ```
    """

    one_level = True

    def gradient(self, problem: BilevelProblem, train: Batch, search: Batch) -> tuple[Tensor, ...]:
        """The gradient on ``search`` at the present weights; the task takes it from the weights' backward pass instead.

        Args:
            problem: Parameters and losses.
            train: A batch of the train half; not used.
            search: A batch of the search half.
        """
        return problem.gradients(problem.search_loss(search, None), problem.alphas)
