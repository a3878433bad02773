from collections.abc import Mapping

import torch

from lightning_nas.differentiable.discretization.joint_score import JointScore
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.metrics.selection import selection_errors
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.supernet import Mixture

SPACE = DARTSSpace(nodes=2)


def case() -> torch.Tensor:
    """Edge A (row 2) is strong in all operations, so its softmax is flat; edge B (row 4) is weak with one winner."""
    alphas = torch.full((SPACE.edges, 8), -3.0)
    alphas[2] = torch.tensor([1.9, 1.9, 1.9, 1.9, 2.0, 1.9, 1.9, 1.9])
    alphas[0, 2] = alphas[1, 5] = 0.0
    alphas[3, 1] = 1.0
    alphas[4, 3] = 0.5
    return alphas


def strength_loss(alphas: torch.Tensor) -> "object":
    """A supernet that loses by the raw strength of whatever is removed: the reference is known."""
    strength = alphas.exp()

    def loss(mixtures: Mapping[str, Mixture]) -> float:
        return -sum(float((strength * (m.operations != 0)).sum()) for m in mixtures.values())

    return loss


def test_the_detector_flags_the_edge_that_the_softmax_hides() -> None:
    alphas = case()
    both = {"normal": alphas, "reduce": alphas}
    mixtures = {n: Mixture(a.softmax(1), torch.ones(len(a))) for n, a in both.items()}
    errors = selection_errors(SPACE, SoftmaxScore().discretize(both, {}, SPACE), mixtures, strength_loss(alphas))
    # the second node has three inputs and so a choice; the first has two and none
    assert [(s.cell, s.node, s.chosen, s.reference) for s in errors.selections if s.kind == "edges"] == [
        ("normal", 1, ("1", "2"), ("0", "1")),
        ("reduce", 1, ("1", "2"), ("0", "1")),
    ]
    assert errors.rate("edges") == 1.0
    right = selection_errors(SPACE, JointScore().discretize(both, {}, SPACE), mixtures, strength_loss(alphas))
    assert right.rate("edges") == 0.0
    assert right.rate("operations") == 0.0
    assert right.to_dict()["edges"] == {"rate": 0.0, "errors": 0, "count": 2}


def test_operation_errors_count_the_kept_edges() -> None:
    alphas = case()
    both = {"normal": alphas, "reduce": alphas}
    mixtures = {n: Mixture(a.softmax(1), torch.ones(len(a))) for n, a in both.items()}
    shifted = alphas.roll(1, dims=1)  # the supernet misses another operation than the alphas choose
    errors = selection_errors(SPACE, SoftmaxScore().discretize(both, {}, SPACE), mixtures, strength_loss(shifted))
    assert errors.rate("operations") == 1.0
    assert sum(s.kind == "operations" for s in errors.selections) == 2 * 2 * 2


def test_a_space_without_a_choice_of_inputs_has_no_edge_errors() -> None:
    class KeepsAll(DARTSSpace):
        inputs_kept = None  # type: ignore[assignment]

    space = KeepsAll(nodes=2)
    alphas = case()
    both = {"normal": alphas, "reduce": alphas}
    mixtures = {n: Mixture(a.softmax(1), torch.ones(len(a))) for n, a in both.items()}
    architecture = SoftmaxScore().discretize(both, {}, space)
    errors = selection_errors(space, architecture, mixtures, strength_loss(alphas))
    assert errors.rate("edges") is None
    assert errors.to_dict()["edges"]["rate"] is None
    assert errors.rate("operations") is not None
