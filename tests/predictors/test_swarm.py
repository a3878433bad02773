"""The competitive swarm, against the formula, and searches in code space."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.predictors.autoencoder import ArchitectureAutoEncoder
from lightning_nas.predictors.swarm import CompetitiveSwarm, DistancePenalty, Reencoding
from lightning_nas.spaces.constrained import ConstrainedSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.tnao import GradientAscent, SwarmSearch

LOW, HIGH = torch.tensor([-1.0, -2.0, 0.0]), torch.tensor([1.0, 1.0, 3.0])


def worth(x: Tensor) -> Tensor:
    return -(x - torch.tensor([0.9, -1.5, 0.2])).square().sum(1)


@pytest.mark.parametrize("phi", [0.0, 0.3])
def test_generations_are_the_formula_pair_by_pair(phi: float) -> None:
    swarm = CompetitiveSwarm(particles=6, generations=4, phi=phi)
    found = swarm.run(worth, LOW, HIGH, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    x = LOW + (HIGH - LOW) * torch.rand(6, 3, generator=generator)
    v = torch.zeros(6, 3)
    for _ in range(4):
        pairs = torch.randperm(6, generator=generator).view(-1, 2).tolist()
        r = torch.rand(3, 3, 3, generator=generator)
        mean, before = x.mean(0), x.clone()
        for k, (a, b) in enumerate(pairs):
            won, lost = (a, b) if worth(before[[a]]) >= worth(before[[b]]) else (b, a)
            pull = r[1, k] * (before[won] - before[lost]) + phi * r[2, k] * (mean - before[lost])
            v[lost] = r[0, k] * v[lost] + pull
            x[lost] = torch.minimum(torch.maximum(before[lost] + v[lost], LOW), HIGH)
    torch.testing.assert_close(found, x)


def test_half_of_the_particles_are_evaluated_and_the_optimum_is_found() -> None:
    sizes: list[int] = []

    def counted(x: Tensor) -> Tensor:
        sizes.append(len(x))
        assert ((x >= LOW) & (x <= HIGH)).all()
        return worth(x)

    end = CompetitiveSwarm(particles=40, generations=60).run(counted, LOW, HIGH, torch.Generator().manual_seed(0))
    assert sizes == [40] + [20] * 60
    assert float(worth(end).max()) > -1e-3


def trained(steps: int = 150) -> tuple[NASBench201Space, ArchitectureAutoEncoder, list[Any]]:
    """An auto-encoder of a small space that knows that convolutions are good."""
    space = NASBench201Space(("none", "skip_connect", "nor_conv_3x3"))
    torch.manual_seed(0)
    autoencoder = ArchitectureAutoEncoder(space.num_values, width=32, code=16, layers=1, heads=2)
    generator = torch.Generator().manual_seed(0)
    known = [space.sample(generator) for _ in range(150)]
    choices = torch.tensor([a.choices for a in known])
    goal = (choices == 2).sum(1).float()
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=3e-3)
    for _ in range(steps):
        codes = autoencoder.encode(choices)
        loss = autoencoder.reconstruction_loss(codes, choices) + (autoencoder.scores(codes) - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return space, autoencoder, known


@pytest.fixture(scope="module")
def made() -> tuple[NASBench201Space, ArchitectureAutoEncoder, list[Any]]:
    return trained()


@pytest.mark.parametrize("strategy", [SwarmSearch(), SwarmSearch(uniform=True), GradientAscent(best=20)])
def test_codes_with_high_scores_are_good_architectures(made: Any, strategy: Any) -> None:
    space, autoencoder, known = made
    known = [a for a in known if a.choices.count(2) < 5]
    strategy.start(space)
    strategy.tell([(a, Evaluation({"accuracy": float(a.choices.count(2))})) for a in known])
    strategy.autoencoder = autoencoder
    asked = strategy.ask(4)
    assert len(asked) == 4
    assert not set(asked) & set(known)
    assert max(a.choices.count(2) for a in asked) >= 5
    assert sum(a.choices.count(2) for a in asked) / 4 > 3  # the known ones have 1.9


def test_what_is_no_architecture_is_worth_nothing_and_not_asked_for(made: Any) -> None:
    space, autoencoder, known = made
    limited = ConstrainedSpace(space, lambda a: {"convolutions": float(a.choices.count(2))}, {"convolutions": 3})
    few = [a for a in known if limited.allows(a)]
    strategy = SwarmSearch()
    strategy.start(limited)
    strategy.tell([(a, Evaluation({"accuracy": float(a.choices.count(2))})) for a in few])
    strategy.autoencoder = autoencoder
    asked = strategy.ask(30)
    assert asked
    assert max(a.choices.count(2) for a in asked) == 3
    scores = strategy.note(torch.tensor([[2] * 6, [1] * 6]), torch.tensor([5.0, 4.0]))
    assert scores.tolist() == [-torch.inf, 4.0]


def test_remapping_scores_what_codes_stand_for(made: Any) -> None:
    _, autoencoder, known = made
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


def test_codes_have_one_norm_and_alphabets_are_kept() -> None:
    autoencoder = ArchitectureAutoEncoder((2, 5, 3), width=8, code=4, layers=1, heads=2)
    choices = torch.stack([torch.randint(n, (50,)) for n in (2, 5, 3)], 1)
    codes = autoencoder.encode(choices)
    torch.testing.assert_close(codes.norm(dim=1), torch.full((50,), 2.0), rtol=1e-3, atol=0)
    logits = autoencoder.decode(torch.randn(200, 4) * 5)
    assert logits.shape == (200, 3, 5)
    assert (logits.argmax(2) < torch.tensor([2, 5, 3])).all()
    assert not torch.equal(autoencoder.encode(choices[:, [0, 1, 2]]), autoencoder.encode(choices.flip(0)))


def test_impossible_settings_are_refused() -> None:
    for options, match in [
        ({"particles": 3}, "particles is 3"),
        ({"generations": 0}, "generations 0"),
        ({"phi": -1}, "-1"),
    ]:
        with pytest.raises(ConfigError, match=match):
            CompetitiveSwarm(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="weight is -1"):
        DistancePenalty(weight=-1)
    with pytest.raises(ConfigError, match="step 0"):
        GradientAscent(step=0)
    with pytest.raises(ConfigError, match="heads 3"):
        ArchitectureAutoEncoder((2, 2), width=8, heads=3)
    strategy = SwarmSearch()
    strategy.start(NASBench201Space())
    with pytest.raises(ConfigError, match="has no auto-encoder and knows 0"):
        strategy.ask(1)
