"""Similarities between samples."""

import pytest
import torch
import torch.nn.functional as F

from lightning_nas.data.splits import derived_seed
from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.relation_matching import RelationMatching
from lightning_nas.distill.relations import RelationMappings
from lightning_nas.errors import ConfigError
from tests.helpers import started

X, Y = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


def test_the_relations_are_mean_cosine_similarities_of_all_pairs() -> None:
    scheme = started(RelationMappings(bases=6, mappings=6, mappings_per_step=None), X, Y)
    torch.manual_seed(derived_seed(9, "relations"))
    embed = ConvNet((3, 8, 8), 1, 4, 2).features
    centre = embed(X).mean(0)
    made = scheme.proxy()
    matrices = []
    for images, labels in ((X, Y), (made.images, made.labels)):
        f = F.normalize(embed(images) - centre, dim=1)
        pairs = [[(f[labels == a] @ f[labels == b].t()).mean() for b in range(3)] for a in range(3)]
        matrices.append(torch.stack([torch.stack(row) for row in pairs]))
    expected = 0.5 * (matrices[0] - matrices[1]).square().mean()
    relations = RelationMatching(weight=0.5, width=4, depth=2)
    relations.start((3, 8, 8), 3, 0)
    found = relations.loss((X, Y), scheme, seed=9)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert scheme.get_parameter("mappings").grad.any()  # type: ignore[union-attr]


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="weight is -1"):
        RelationMatching(weight=-1)
