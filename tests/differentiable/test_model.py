"""The model of a search: masks, decisions, another supernet, and measurements that change nothing."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.differentiable import (
    AlphaMask,
    ChannelAttention,
    EdgeSoftmax,
    HardGumbelSoftmax,
    JointSoftmax,
    ProductScore,
    SearchModel,
    Sigmoid,
    SoftmaxScore,
)
from lightning_nas.errors import ConfigError
from lightning_nas.spaces import DARTSSpace, NASBench201Space

SPACE = DARTSSpace(nodes=2, channels=2, cells=3, operations=("none", "skip_connect", "sep_conv_3x3"))


def model(space: Any = SPACE, discretizer: Any = None, **options: Any) -> SearchModel:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"num_classes": 3, "image_shape": (3, 8, 8), "alpha_scale": 1.0}
    return SearchModel(space, discretizer or SoftmaxScore(), **{**sizes, **options})


def state(made: SearchModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in made.state_dict().items()}


def without(*places: tuple[int, int]) -> dict[str, Tensor]:
    """What is left of the normal cell."""
    mask = SPACE.allowed["normal"].clone()
    for place in places:
        mask[place] = False
    return {"normal": mask}


def test_alphas_are_drawn_with_their_scale_from_their_own_seed() -> None:
    first, again, other = model(seed=1), model(seed=1), model(seed=2)
    generator = torch.Generator().manual_seed(1)
    for alphas in first.alpha_list:
        torch.testing.assert_close(alphas, torch.randn(5, 3, generator=generator))
    assert all(torch.equal(a, b) for a, b in zip(first.alpha_list, again.alpha_list, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first.alpha_list, other.alpha_list, strict=True))
    assert [a.shape for a in model(normalization=EdgeSoftmax()).alpha_list] == [(5, 3), (5, 3), (5,), (5,)]


def test_masks_leave_a_softmax_of_what_is_allowed() -> None:
    mask = AlphaMask(SPACE.restrict(without((0, 1), (2, 0), (2, 1), (2, 2))))
    alphas = {name: torch.randn(5, 3) for name in SPACE.cell_types}
    masked = mask.alphas(alphas)
    assert masked["normal"][0].isinf().tolist() == [False, True, False]
    assert masked["normal"][2].tolist() == [-1e9] * 3  # an edge without operations
    assert torch.equal(masked["reduce"], alphas["reduce"])
    assert mask.alphas(alphas, -torch.inf)["normal"][2].isinf().all()
    shares = mask.edge_alphas({name: torch.zeros(5) for name in SPACE.cell_types})["normal"][2:].softmax(0)
    assert shares.tolist() == [0.0, 0.5, 0.5]


@pytest.mark.parametrize("relaxation", [Sigmoid(), HardGumbelSoftmax()])
def test_decided_edges_keep_their_operation_whatever_the_alphas_are(relaxation: Any) -> None:
    made = model(relaxation=relaxation)
    made.decide("normal", 2, 1)
    made.decide("normal", 3, 2)
    made.decide("normal", 3, None)
    mixture = made.drawn_mixtures(0.5, seed=4)["normal"]
    assert mixture.operations[2].tolist() == [0, 1, 0]
    assert mixture.operations[3].tolist() == [0, 0, 0]
    assert mixture.edges.tolist() == [1, 1, 1, 0, 1]
    assert mixture.active is not None
    assert mixture.active[2:4].tolist() == [[False, True, False], [False] * 3]
    free = made.drawn_mixtures(0.5, seed=4)["reduce"]
    assert (free.active is None) == (not relaxation.hard)
    kept = dict(SPACE.chosen(made.discretize())["normal"])
    assert 3 not in kept
    assert kept.get(2, 1) == 1
    made.mask.compute_all = True
    assert made.mixtures()["normal"].active is None


def test_a_frozen_model_is_one_architecture_for_good() -> None:
    made = model()
    found = made.discretize()
    made.freeze(found)
    assert made.frozen
    with torch.no_grad():
        for alphas in made.alpha_list:
            alphas.neg_()
    for name, mixture in SPACE.to_path(found).items():
        assert torch.equal(made.mixtures()[name].operations, mixture.operations)
        assert not made.mixtures()[name].operations.requires_grad
    with pytest.raises(ConfigError, match="frozen"):
        made.rebuild(SPACE, seed=0)
    made.restrict(dict(made.space.allowed))
    assert made.frozen


def test_a_model_restored_from_a_state_fits_the_weights() -> None:
    narrow, frozen, rebuilt = model(), model(), model()
    narrow.restrict(without((0, 1), (3, 2)))
    frozen.freeze(frozen.discretize())
    rebuilt.rebuild(DARTSSpace(nodes=2, channels=2, cells=4, operations=SPACE.operations), seed=3)
    for made in (narrow, frozen, rebuilt):
        other = model(alpha_scale=0.0)
        other.load_state(made.save_state())
        other.load_state_dict(made.state_dict())
        assert other.frozen == made.frozen
        assert other.space.arguments() == made.space.arguments()
        assert other.discretize() == made.discretize()
        x = torch.randn(2, 3, 8, 8)
        assert torch.equal(other.eval()(x), made.eval()(x))


def test_a_state_of_other_cells_changes_nothing() -> None:
    made = model()
    before = state(made)
    made.load_state(model(DARTSSpace(nodes=3, channels=2, cells=3, operations=SPACE.operations)).save_state())
    made.load_state(model(NASBench201Space(channels=2, cells_per_stage=1)).save_state())
    assert made.space is SPACE
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_measurements_use_batch_statistics_and_change_nothing() -> None:
    made = model().eval()
    images, labels = torch.randn(6, 3, 8, 8), torch.arange(6) % 3
    before = state(made)
    loss, accuracy = made.loss_and_accuracy(images, labels)
    made.selection_errors(images, labels)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert not any(part.training for part in made.modules())
    with torch.no_grad():
        logits = made.train()(images)
    assert loss == pytest.approx(float(F.cross_entropy(logits, labels)))
    assert accuracy == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


def test_a_failed_measurement_leaves_the_mode_as_it_was() -> None:
    made = model().eval()

    def fail() -> None:
        with made.batch_statistics():
            assert made.supernet.training
            raise ValueError("no images")

    with pytest.raises(ValueError, match="no images"):
        fail()
    assert not any(part.training for part in made.modules())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"discretizer": ProductScore()}, "Use EdgeSoftmax"),
        ({"normalization": JointSoftmax(), "relaxation": Sigmoid()}, "JointSoftmax takes the place of a Softmax"),
        ({"relaxation": HardGumbelSoftmax(), "compile": True}, "Use compile: false"),
        ({"space": DARTSSpace(operations=("noise", "sep_conv_3x3")), "checkpoint_cells": True}, "noise draws anew"),
    ],
)
def test_components_that_do_not_go_together_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        model(**options)


def test_gates_are_trained_with_the_weights() -> None:
    gated, plain = model(attention=ChannelAttention()), model()
    assert len(gated.weights) > len(plain.weights)
    assert set(map(id, gated.weights.values())) == {id(p) for p in gated.supernet.parameters()}
