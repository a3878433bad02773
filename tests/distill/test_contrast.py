"""The adversarial contrast."""

import pytest
import torch
import torch.nn.functional as F

from lightning_nas.distill.bases import HallucinatedBases
from lightning_nas.distill.contrast import AdversarialContrast, supervised_contrast
from lightning_nas.distill.images import PlainImages
from lightning_nas.errors import ConfigError
from tests.helpers import started

X, Y = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


def test_the_contrast_of_the_paper_written_out() -> None:
    f, labels = torch.randn(8, 6), torch.tensor([0, 1, 0, 1, 2, 2, 0, 1])
    unit = F.normalize(f, dim=1)
    terms = []
    for i in range(8):
        others = [j for j in range(8) if j != i]
        total = sum(torch.exp(unit[i] @ unit[j] / 0.1) for j in others)
        logs = [torch.log(torch.exp(unit[i] @ unit[j] / 0.1) / total) for j in others if labels[j] == labels[i]]
        terms.append(-sum(logs) / len(logs))
    torch.testing.assert_close(supervised_contrast(f, labels), torch.stack(terms).mean())


def test_the_feature_network_learns_that_pairs_agree_and_hallucinators_that_they_differ() -> None:
    scheme = started(HallucinatedBases(4, hallucinators=2), X, Y)
    contrast = AdversarialContrast(width=8, depth=2, learning_rate=0.1)
    contrast.start((3, 8, 8), 3, 0)
    before = {name: p.clone() for name, p in contrast.network.named_parameters()}
    similar = [float(contrast.loss((X, Y), scheme, seed).detach()) for seed in range(30)]
    assert similar[-1] > 1.05 * similar[0]
    assert all(not torch.equal(p, before[name]) for name, p in contrast.network.named_parameters())
    with torch.no_grad():
        hits = (contrast.network(scheme.proxy().images).argmax(1) == scheme.proxy().labels).float().mean()
    assert hits > 0.8
    still = AdversarialContrast(width=8, depth=2, learning_rate=1e-12)
    still.start((3, 8, 8), 3, 0)
    still.network = contrast.network
    optimizer = torch.optim.SGD(scheme.parameter_groups(), lr=5.0)
    apart = []
    for seed in range(10):
        optimizer.zero_grad()
        loss = still.loss((X, Y), scheme, seed)
        loss.backward()
        optimizer.step()
        apart.append(float(loss.detach()))
    assert apart[-1] < 0.97 * apart[0]
    with pytest.raises(ConfigError, match="needs HallucinatedBases"):
        contrast.loss((X, Y), started(PlainImages(2), X, Y), 0)
    with pytest.raises(ConfigError, match="two hallucinators"):
        contrast.loss((X, Y), started(HallucinatedBases(2, hallucinators=1), X, Y), 0)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="learning_rate is 0.0"):
        AdversarialContrast(learning_rate=0.0)
