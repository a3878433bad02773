"""Scores from the Jacobian of the logits with respect to the images."""

import torch
from torch import Tensor

from lightning_nas.evaluation.zero_cost.base import Probe, ZeroCostScore

_SMALL = 1e-5


def image_gradients(probe: Probe) -> Tensor:
    """Gradient of the sum of an image's logits with respect to its pixels, ``(batch, pixels)`` in float64."""
    images = probe.images.detach().clone().requires_grad_()
    with torch.enable_grad():
        (found,) = torch.autograd.grad(probe.logits(images).sum(), images)
    return found.flatten(1).double()


def correlations(rows: Tensor) -> Tensor:
    """Pearson's correlation between rows; a constant row correlates with nothing but itself."""
    centred = rows - rows.mean(1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    unit = centred / torch.where(norms > 0, norms, torch.ones_like(norms))
    return (unit @ unit.t()).fill_diagonal_(1.0)


class JacobianCovariance(ZeroCostScore):
    """How uncorrelated the network's sensitivities to different images are (jacov).

    With ``v`` the eigenvalues of the correlation between the images' gradients (see ``image_gradients``), the score is
    ``-sum (log(v + k) + 1 / (v + k))`` with ``k = 1e-5``. It needs no labels. Cost: one forward and one backward pass.

    References:
        1. Mellor, Turner, Storkey, Crowley: Neural Architecture Search without Training, 2020, first version,
           https://arxiv.org/abs/2006.04647v1

    Example:
        ```yaml
        scores: [JacobianCovariance]
        ```
    """

    name = "jacov"

    def score(self, probe: Probe) -> float:
        """Score the eigenvalues of the correlation."""
        values = torch.linalg.eigvalsh(correlations(image_gradients(probe))) + _SMALL
        return -float((values.log() + 1 / values).sum())


class EPENAS(ZeroCostScore):
    """How differently the network's sensitivities are correlated within the classes.

    For every class, ``s`` is the sum of ``log(|r| + 1e-5)`` over all pairs of its images, with ``r`` the correlation of
    their gradients (see ``image_gradients``). With up to 100 classes the score is the sum of ``|s|``; with more, ``s``
    is divided by the number of images and the score is the mean difference between pairs of classes, as in the
    published code. Cost: one forward and one backward pass.

    References:
        1. Lopes, Alirezazadeh, Alexandre: EPE-NAS: Efficient Performance Estimation Without Training for Neural
           Architecture Search, ICANN 2021, https://arxiv.org/abs/2102.08099

    Example:
        ```yaml
        scores: [EPENAS]
        ```
    """

    name = "epe_nas"

    def score(self, probe: Probe) -> float:
        """Score the correlations within every class that is among the images."""
        gradients = image_gradients(probe)
        many = probe.num_classes > 100
        sums = []
        for label in torch.unique(probe.labels):
            rows = gradients[probe.labels == label]
            within = (correlations(rows).abs() + _SMALL).log().sum()
            sums.append(within / len(rows) if many else within)
        found = torch.stack(sums)
        if not many:
            return float(found.abs().sum())
        return float((found[:, None] - found[None]).abs().sum() / len(found))
