"""The competitive swarm against its formula, and scores of codes that are not those of architectures."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_nas.errors import ConfigError
from lightning_nas.predictors.swarm import CompetitiveSwarm, DistancePenalty, Reencoding
from tests.predictors.trained import trained

LOW, HIGH = torch.tensor([-1.0, -2.0, 0.0]), torch.tensor([1.0, 1.0, 3.0])


def fitness(x: Tensor) -> Tensor:
    return -(x - torch.tensor([0.9, -1.5, 0.2])).square().sum(1)


@pytest.mark.parametrize("phi", [0.0, 0.3])
def test_generations_are_the_formula_pair_by_pair(phi: float) -> None:
    swarm = CompetitiveSwarm(particles=6, generations=4, phi=phi)
    found = swarm.run(fitness, LOW, HIGH, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    x = LOW + (HIGH - LOW) * torch.rand(6, 3, generator=generator)
    v = torch.zeros(6, 3)
    for _ in range(4):
        pairs = torch.randperm(6, generator=generator).view(-1, 2).tolist()
        r = torch.rand(3, 3, 3, generator=generator)
        mean, before = x.mean(0), x.clone()
        for k, (a, b) in enumerate(pairs):
            won, lost = (a, b) if fitness(before[[a]]) >= fitness(before[[b]]) else (b, a)
            pull = r[1, k] * (before[won] - before[lost]) + phi * r[2, k] * (mean - before[lost])
            v[lost] = r[0, k] * v[lost] + pull
            x[lost] = torch.minimum(torch.maximum(before[lost] + v[lost], LOW), HIGH)
    torch.testing.assert_close(found, x)


def test_half_of_the_particles_are_evaluated_and_the_optimum_is_found() -> None:
    sizes: list[int] = []

    def counted(x: Tensor) -> Tensor:
        sizes.append(len(x))
        assert ((x >= LOW) & (x <= HIGH)).all()
        return fitness(x)

    end = CompetitiveSwarm(particles=40, generations=60).run(counted, LOW, HIGH, torch.Generator().manual_seed(0))
    assert sizes == [40] + [20] * 60
    assert float(fitness(end).max()) > -1e-3


def test_remapping_scores_what_codes_stand_for() -> None:
    _, autoencoder, known = trained(steps=20)
    autoencoder.eval()
    with torch.no_grad():
        codes = autoencoder.encode(torch.tensor([a.choices for a in known[:5]])) + 0.3
        choices, scores = Reencoding().remap(autoencoder, codes)
        own = autoencoder.encode(choices)
        torch.testing.assert_close(scores, autoencoder.scores(own))
        away = (codes - own).norm(dim=1)
        assert (away > 0).all()
        found = DistancePenalty(weight=2.0).remap(autoencoder, codes)
        torch.testing.assert_close(found.scores, autoencoder.scores(codes) - 2 * away)
        assert torch.equal(found.choices, choices)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"particles": 3}, "particles is 3; it must be even"),
        ({"particles": 0}, "particles is 0"),
        ({"generations": 0}, "generations is 0"),
        ({"phi": -1}, "phi is -1"),
    ],
)
def test_wrong_numbers_are_named(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        CompetitiveSwarm(**options)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="weight is -1"):
        DistancePenalty(weight=-1)
