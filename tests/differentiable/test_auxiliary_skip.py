"""The auxiliary skip connection of DARTS- against a supernet that adds it by hand."""

import math

import pytest
import torch

from lightning_nas.differentiable import AuxiliarySkip, EdgeSoftmax, SearchModel, SoftmaxScore
from lightning_nas.differentiable.objective import SearchObjective
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.per_edge import PerEdgeCell


def model(relaxation: AuxiliarySkip, **options: object) -> SearchModel:
    torch.manual_seed(0)
    space = NASBench201Space(channels=4, cells_per_stage=1)
    return SearchModel(
        space,
        SoftmaxScore(),
        relaxation=relaxation,
        image_shape=(3, 8, 8),
        num_classes=3,
        alpha_scale=1.0,
        **options,  # type: ignore[arg-type]
    ).double()


def test_every_edge_adds_its_input_times_a_factor_that_falls() -> None:
    made = model(AuxiliarySkip(weight=0.8))
    space, images = made.space, torch.randn(4, 3, 8, 8, dtype=torch.float64)
    assert [made.relaxation.drawn(p, torch.Generator()).beta for p in (0.0, 0.25, 1.0)] == pytest.approx([0.8, 0.6, 0])
    assert AuxiliarySkip(decay="cosine").drawn(0.25, torch.Generator()).beta == pytest.approx(
        (1 + math.cos(math.pi / 4)) / 2
    )
    plain = made.mixtures()["cell"].operations
    torch.testing.assert_close(plain, made.alphas["cell"].softmax(1))
    beta, skip, conv = 0.6, space.operations.index("skip_connect"), space.operations.index("nor_conv_3x3")
    mixtures = made.drawn_mixtures(0.25, seed=0)
    expected = plain.clone()
    expected[:, skip] += beta
    torch.testing.assert_close(mixtures["cell"].operations, expected)
    # a plain supernet in which one module of every edge adds the input of the edge, times beta
    torch.manual_seed(1)
    supernet = space.per_edge_supernet(num_classes=3, image_shape=(3, 8, 8)).double()
    with torch.no_grad():
        found = supernet(images, mixtures)
        for cell in (layer for layer in supernet.cells if isinstance(layer, PerEdgeCell)):
            for row, edge in enumerate(cell.edges):
                added = beta / float(plain[row, conv])
                module = dict(edge.named_children())[str(conv)]
                module.register_forward_hook(lambda module, x, y, added=added: y + added * x[0])
        torch.testing.assert_close(found, supernet(images, {"cell": made.mixtures()["cell"]}))


def test_the_loss_of_a_step_has_it_and_validation_does_not() -> None:
    made = model(AuxiliarySkip())
    batch = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.arange(4) % 3
    objective = SearchObjective(made, [], seed=0)
    made.eval()
    with torch.no_grad():
        outside = torch.nn.functional.cross_entropy(made(batch[0]), batch[1])
        losses = []
        for progress in (0.0, 1.0):
            objective.move_to(progress, 0)
            losses.append(objective.weight_loss(batch, with_alphas=False).loss)
    assert not torch.isclose(losses[0], outside)
    torch.testing.assert_close(losses[1], outside)


def test_what_does_not_go_with_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="skip connection, which is none of"):
        SearchModel(NASBench201Space(operations=["none", "nor_conv_3x3"]), SoftmaxScore(), relaxation=AuxiliarySkip())
    with pytest.raises(ConfigError, match="Leave the normalization out"):
        model(AuxiliarySkip(), normalization=EdgeSoftmax())
    with pytest.raises(ConfigError, match="weight is -1"):
        AuxiliarySkip(weight=-1)
