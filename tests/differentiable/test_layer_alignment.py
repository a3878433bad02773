"""The layer alignment of Λ-DARTS against the derivative of its formula, in supernets that are run layer by layer."""

from itertools import combinations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.differentiable import LayerAlignment, SearchModel, SoftmaxScore
from lightning_nas.differentiable.objective import SearchObjective
from lightning_nas.differentiable.regularization.layer_alignment import alignment
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.supernet import Mixture, layer_key

SPACES: dict[str, Any] = {
    "darts": DARTSSpace(nodes=2, channels=2, cells=4),
    "nasbench201": NASBench201Space(channels=2, cells_per_stage=1),
}


def made(space: str, **options: Any) -> SearchModel:
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"num_classes": 3, "image_shape": (3, 8, 8), "alpha_scale": 0.5}
    return SearchModel(SPACES[space], SoftmaxScore(), **sizes, **options).double().train()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=generator), torch.arange(6) % 3


def test_the_alignment_is_the_mean_cosine_of_all_pairs() -> None:
    gradients = [torch.randn(5, 4, dtype=torch.float64) for _ in range(4)]
    pairs = [F.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in combinations(gradients, 2)]
    torch.testing.assert_close(alignment(gradients), torch.stack(pairs).mean())


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("space", SPACES)
def test_a_layer_can_have_a_mixture_of_its_own(space: str, plain: bool) -> None:
    """With the same mixture in all layers it changes nothing, and another one in a layer changes the result."""
    model, (images, _) = made(space), batch()
    supernet = model.supernet
    if plain:
        supernet = SPACES[space].per_edge_supernet(num_classes=3, image_shape=(3, 8, 8)).double()
    types = supernet.layer_types()
    assert {name for name in types if name} == set(SPACES[space].cell_types)
    mixtures = {name: mixture.detached() for name, mixture in model.mixtures().items()}
    own = {layer_key(i): mixtures[name] for i, name in enumerate(types) if name}
    with torch.no_grad():
        assert torch.equal(supernet(images, mixtures), supernet(images, {**mixtures, **own}))
        last = max(i for i, name in enumerate(types) if name)
        other = Mixture(own[layer_key(last)].operations.flip(1), own[layer_key(last)].edges)
        assert not torch.allclose(supernet(images, mixtures), supernet(images, {**mixtures, layer_key(last): other}))


@pytest.mark.parametrize(("space", "cell_type"), [("darts", "normal"), ("nasbench201", "cell")])
def test_the_weights_get_the_derivative_of_the_mean_cosine(space: str, cell_type: str) -> None:
    model, (images, labels) = made(space), batch()
    before = {name: b.clone() for name, b in model.supernet.named_buffers()}
    objective = SearchObjective(model, [LayerAlignment(0.5, cell_types=[cell_type])], seed=0)
    objective.move_to(0.4, 0)
    found = objective.weight_loss((images, labels), with_alphas=False)
    term = found.total - found.loss
    gradients = torch.autograd.grad(term, tuple(model.weights.values()), allow_unused=True)
    for name, b in model.supernet.named_buffers():  # only the step's own pass has moved them
        b.copy_(before[name])

    # the formula: the cells' factors as separate leaves, and autograd through their gradients
    mixtures = {name: mixture.detached() for name, mixture in model.mixtures().items()}
    places = [i for i, name in enumerate(model.supernet.layer_types()) if name == cell_type]
    leaves = [mixtures[cell_type].operations.clone().requires_grad_() for _ in places]
    own = {layer_key(i): Mixture(leaf, mixtures[cell_type].edges) for i, leaf in zip(places, leaves, strict=True)}
    loss = F.cross_entropy(model.supernet(images, {**mixtures, **own}), labels)
    layers = torch.autograd.grad(loss, leaves, create_graph=True)
    cosines = [F.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in combinations(layers, 2)]
    expected = -0.5 * 0.4 * torch.stack(cosines).mean()
    torch.testing.assert_close(term, expected)
    truth = torch.autograd.grad(expected, tuple(model.weights.values()), allow_unused=True)
    assert any(g is not None and g.any() for g in truth)
    for mine, theirs in zip(gradients, truth, strict=True):
        zero = torch.zeros(())
        torch.testing.assert_close(zero if mine is None else mine, zero if theirs is None else theirs)


def test_there_is_no_term_in_the_first_step_and_none_for_the_alphas() -> None:
    model = made("nasbench201")
    objective = SearchObjective(model, [LayerAlignment()], seed=0)
    found = objective.weight_loss(batch(), with_alphas=False)
    assert torch.equal(found.total, found.loss)
    assert objective.penalty() == 0


def test_what_does_not_go_with_it_is_refused() -> None:
    for options, reason in (
        ({"cell_types": ["reduce", "other"]}, r"the cell types \['reduce', 'other'\], but"),
        ({"weight": -1.0}, "weight is -1"),
    ):
        with pytest.raises(ConfigError, match=reason):
            SearchObjective(made("darts"), [LayerAlignment(**options)], seed=0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs second derivatives"):
        SearchObjective(made("darts", checkpoint_cells=True), [LayerAlignment()], seed=0)
