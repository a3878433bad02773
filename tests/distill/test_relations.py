"""Scheme 2: shared bases, mappings and soft labels."""

from typing import Any

import pytest
import torch
from torch import nn

from lightning_nas.distill.relations import RelationMappings
from lightning_nas.errors import ConfigError, DataError
from tests.helpers import distances, started

X, Y = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


def test_mappings_combine_the_bases_of_their_bank() -> None:
    scheme = started(RelationMappings(bases=6, mappings=4, downscale=2), X, Y)
    made = scheme.proxy()
    bases, mappings = scheme.get_parameter("bases"), scheme.get_parameter("mappings")
    assert made.images.shape == (12, 3, 8, 8)
    n = 0
    for bank in range(2):
        for c in range(3):
            for i in range(2):
                image = sum(mappings[bank, c, i, k] * bases[3 * bank + k] for k in range(3))
                image = nn.Upsample(scale_factor=2, mode="bilinear")(image[None])[0]
                torch.testing.assert_close(made.images[n], image)
                assert (int(made.labels[n]), int(made.groups[n])) == (c, bank)
                n += 1


def test_mappings_start_as_the_best_approximation_of_real_images() -> None:
    full = started(RelationMappings(bases=30, mappings=10, banks=1), X, Y).proxy().images.detach().flatten(1)
    assert distances(full, X).min(1).values.max() < 1e-3  # real images, each another
    assert len(distances(full, X).argmin(1).unique()) == 30
    errors = []
    for bases in (2, 6, 12):
        scheme = started(RelationMappings(bases=bases, mappings=10, banks=1), X, Y)
        error = (scheme.proxy().images.flatten(1) - full).detach().square().sum()
        best = torch.linalg.svdvals(full.double())[bases:].square().sum()
        assert float(error) == pytest.approx(float(best), rel=1e-4)
        errors.append(float(error))
    assert errors == sorted(errors, reverse=True)
    assert float(scheme.get_parameter("bases").detach().square().mean()) == pytest.approx(1.0, rel=1e-4)


def test_soft_labels_follow_the_likeness_of_the_classes() -> None:
    images = torch.randn(60, 1, 8, 8)
    images[Y == 1] += 2
    images[Y == 2] += 2  # the last two classes are alike
    made = started(RelationMappings(bases=4, mappings=4, softness=0.3), images, Y).proxy()
    assert made.soft_labels is not None
    rows = {int(c): row for c, row in zip(made.labels, made.soft_labels, strict=True)}
    torch.testing.assert_close(torch.stack([rows[c][c] for c in range(3)]), torch.full((3,), 0.7))
    assert rows[1][2] > rows[1][0]
    assert rows[2][1] > rows[2][0]
    assert started(RelationMappings(bases=4, mappings=4, softness=0), images, Y).proxy().soft_labels is None


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: RelationMappings(5, mappings=4), "bases is 5; it must be a positive multiple of banks"),
        (lambda: RelationMappings(4, mappings=0), "mappings is 0"),
        (lambda: RelationMappings(4, mappings=4, banks=0), "banks is 0"),
        (lambda: RelationMappings(4, mappings=4, softness=1.0), "softness is 1.0"),
        (lambda: RelationMappings(4, mappings=4, mappings_per_step=0), "mappings_per_step is 0"),
        (lambda: started(RelationMappings(4, mappings=22), X, Y), "mappings is 22; it must be from 1 to 20"),
        (lambda: started(RelationMappings(40, mappings=4), X, Y), "more than 6 are useless"),
    ],
)
def test_impossible_settings_are_refused(make: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()


def test_images_that_cannot_be_stored_smaller_are_refused() -> None:
    with pytest.raises(DataError, match="8x8 pixels cannot be stored at 1/3"):
        started(RelationMappings(4, mappings=4, downscale=3), X, Y)
