"""Every score against its published definition, written out by hand in float64."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.zero_cost import (
    EPENAS,
    NASWOT,
    SNIP,
    SWAP,
    Expressivity,
    Fisher,
    GradientNorm,
    GraSP,
    JacobianCovariance,
    LongestPath,
    MeCo,
    MultiplyAccumulates,
    Parameters,
    Probe,
    Progressivity,
    ShortestPath,
    SynFlow,
    Trainability,
    Zen,
    ZeroCostScore,
    ZiCo,
)
from lightning_nas.spaces import NASBench201Space


class Small(nn.Module):
    """Three blocks of which the middle one has a way around its convolution, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.cells = nn.ModuleList(
            [
                nn.Sequential(nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5)),
                Residual(),
                nn.Sequential(nn.ReLU(), nn.Conv2d(5, 6, 1, stride=2), nn.BatchNorm2d(6)),
            ]
        )
        self.classifier = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x)
        logits: Tensor = self.classifier(x.relu().mean((2, 3)))
        return logits


class Residual(nn.Module):
    """Adds two convolutions to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.ReLU(), nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.inner(x)
        return y


@pytest.fixture
def probe() -> Probe:
    torch.manual_seed(0)
    network = Small().double()
    images = torch.randn(8, 2, 6, 6, dtype=torch.float64)
    return Probe(network, images, torch.arange(8) % 3, num_classes=3, seed=4)


def outputs(probe: Probe, kind: Any) -> list[Tensor]:
    """Outputs of all modules of a kind, in the order in which they run; the last one is the network's."""
    found: list[Tensor] = []
    modules = [m for m in probe.network.modules() if isinstance(m, kind)]
    handles = [m.register_forward_hook(lambda _m, _i, y: found.append(y)) for m in modules]
    found.append(probe.network(probe.images))
    for handle in handles:
        handle.remove()
    return found


def blocks(probe: Probe) -> list[Tensor]:
    x, found = probe.network.stem(probe.images), []  # type: ignore[operator]
    for cell in probe.network.cells:  # type: ignore[union-attr]
        x = cell(x)
        found.append(x)
    return found


def naswot(probe: Probe) -> float:
    codes = [(y > 0).flatten(1) for y in outputs(probe, nn.ReLU)[:-1]]
    kernel = [[float(sum((c[i] == c[j]).sum() for c in codes)) for j in range(8)] for i in range(8)]
    return float(np.linalg.slogdet(np.array(kernel))[1])


def swap(probe: Probe) -> float:
    patterns = {tuple(unit.tolist()) for y in outputs(probe, nn.ReLU)[:-1] for unit in (y > 0).flatten(1).t()}
    return float(len(patterns))


def entropies(probe: Probe) -> list[float]:
    found = []
    for y in blocks(probe):
        rows = y.permute(0, 2, 3, 1).flatten(0, 2).detach().numpy()
        values = np.linalg.eigvalsh(np.cov(rows.T))
        share = values / values.sum()
        found.append(-sum(s * math.log(s) for s in share if s > 0))
    return found


def trainability(probe: Probe) -> float:
    generator, features, found = torch.Generator().manual_seed(4), blocks(probe), []
    for before, after in zip(features, features[1:], strict=False):
        signs = torch.randint(0, 2, after.shape, generator=generator).double() * 2 - 1
        (arriving,) = torch.autograd.grad(after, before, signs, retain_graph=True)
        arriving = F.avg_pool2d(arriving, arriving.shape[2] // after.shape[2])
        matrix = torch.zeros(before.shape[1], after.shape[1], dtype=torch.float64)
        for b in range(8):
            for h in range(after.shape[2]):
                for w in range(after.shape[3]):
                    matrix += arriving[b, :, h, w, None] * signs[b, None, :, h, w]
        s = float(torch.linalg.svdvals(matrix / (8 * after.shape[2] * after.shape[3]))[0])
        found.append(-s - 1 / (s + 1e-6) + 2)
    return sum(found) / len(found)


def meco(probe: Probe) -> float:
    maps = [y[0].flatten(1).detach().numpy() for y in outputs(probe, nn.Conv2d)[:-1]]
    return sum(float(np.linalg.eigvalsh(np.corrcoef(y))[0]) for y in maps)


def weights(probe: Probe) -> list[Tensor]:
    return [m.weight for m in probe.network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def gradients(probe: Probe, part: slice = slice(None), **options: Any) -> tuple[Tensor, ...]:
    loss = F.cross_entropy(probe.network(probe.images[part]), probe.labels[part])
    return torch.autograd.grad(loss, weights(probe), **options)


def grasp(probe: Probe) -> float:
    """By a central difference of the gradient along the gradient."""
    start, step = gradients(probe), 1e-6
    total = 0.0
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            for w, g in zip(weights(probe), start, strict=True):
                w += sign * step * g
        sides.append(gradients(probe))
        with torch.no_grad():
            for w, g in zip(weights(probe), start, strict=True):
                w -= sign * step * g
    for w, plus, minus in zip(weights(probe), *sides, strict=True):
        total -= float((w.detach() * (plus - minus) / (2 * step)).sum())
    return total


def fisher(probe: Probe) -> float:
    *maps, logits = outputs(probe, nn.Conv2d)
    found = torch.autograd.grad(F.cross_entropy(logits, probe.labels), maps)
    total = 0.0
    for y, g in zip(maps, found, strict=True):
        for c in range(y.shape[1]):
            total += sum(float((y[b, c] * g[b, c]).sum().detach()) ** 2 for b in range(8)) / 8 / 2
    return total


def zico(probe: Probe) -> float:
    parts = [gradients(probe, slice(start, start + 2)) for start in range(0, 8, 2)]
    total = 0.0
    for layer in zip(*parts, strict=True):
        g = np.stack([each.numpy() for each in layer])
        total += math.log((np.abs(g).mean(0) / g.std(0)).sum())
    return total


def jacobian(probe: Probe) -> np.ndarray:
    x = probe.images.clone().requires_grad_()
    (found,) = torch.autograd.grad(probe.network(x).sum(), x)
    return found.flatten(1).numpy()


def jacov(probe: Probe) -> float:
    v = np.linalg.eigvalsh(np.corrcoef(jacobian(probe)))
    return float(-np.sum(np.log(v + 1e-5) + 1.0 / (v + 1e-5)))


def epe(probe: Probe) -> float:
    rows, total = jacobian(probe), 0.0
    for label in range(3):
        total += abs(float(np.log(np.abs(np.corrcoef(rows[probe.labels.numpy() == label])) + 1e-5).sum()))
    return total


def synflow(probe: Probe) -> float:
    """Without batch norms: their statistics are 0 and 1."""
    network = Small().double().eval()
    network.load_state_dict(probe.network.state_dict())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    with torch.no_grad():
        for p in network.parameters():
            p.abs_()
    own = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    found = torch.autograd.grad(network(torch.ones(1, 2, 6, 6, dtype=torch.float64)).sum(), own)
    return math.log(sum(float((w.detach() * g).sum()) for w, g in zip(own, found, strict=True)))


DEFINITIONS: dict[type[ZeroCostScore], Callable[[Probe], float]] = {
    EPENAS: epe,
    Expressivity: lambda probe: sum(entropies(probe)),
    Fisher: fisher,
    GraSP: grasp,
    GradientNorm: lambda probe: sum(float(g.square().sum().sqrt()) for g in gradients(probe)),
    JacobianCovariance: jacov,
    # the stem, two convolutions in the residual block or none, one in each other block
    LongestPath: lambda probe: 5.0,
    MeCo: meco,
    MultiplyAccumulates: lambda probe: 36.0 * (2 * 4 * 9 + 4 * 5 * 9 + 5 * 5 * 9 + 5 * 5) + 9 * 5 * 6 + 6 * 3,
    NASWOT: naswot,
    Parameters: lambda probe: float(sum(p.numel() for p in probe.network.parameters())),
    Progressivity: lambda probe: min(b - a for a, b in zip(entropies(probe), entropies(probe)[1:], strict=False)),
    SNIP: lambda probe: sum(
        float((w.detach() * g).abs().sum()) for w, g in zip(weights(probe), gradients(probe), strict=True)
    ),
    SWAP: swap,
    ShortestPath: lambda probe: -3.0,
    SynFlow: synflow,
    Trainability: trainability,
    ZiCo: zico,
}


@pytest.mark.parametrize("score", list(DEFINITIONS), ids=lambda kind: kind.name)
def test_scores_follow_their_definition_and_leave_the_network_alone(score: type[ZeroCostScore], probe: Probe) -> None:
    before = {name: value.clone() for name, value in probe.network.named_parameters()}
    random = torch.get_rng_state()
    found = score().score(probe)
    assert torch.equal(torch.get_rng_state(), random)
    assert found == pytest.approx(DEFINITIONS[score](probe), rel=1e-5 if score is GraSP else 1e-9)
    assert score().score(probe) == pytest.approx(found, rel=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in probe.network.named_parameters())
    assert probe.network.training


def test_every_score_has_a_definition_here() -> None:
    assert {*DEFINITIONS, Zen} == {
        kind for kind in ZeroCostScore.__subclasses__() if kind.__module__.startswith("lightning_nas.")
    }


def test_zen_score_is_the_movement_of_the_features_with_the_scales_of_the_batch_norms(probe: Probe) -> None:
    before = {name: value.clone() for name, value in probe.network.named_parameters()}
    found = Zen(mixup=0.01, repeats=1).score(probe)
    assert all(torch.equal(value, before[name]) for name, value in probe.network.named_parameters())
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for w in weights(probe):
            w.copy_(torch.randn(w.shape, generator=generator))
        x, e = (torch.randn(8, 2, 6, 6, generator=generator).double() for _ in range(2))
        features = []
        for images in (x, x + 0.01 * e):
            y = probe.network.stem(images)  # type: ignore[operator]
            scale = 0.0
            for cell in probe.network.cells:  # type: ignore[union-attr]
                if isinstance(cell, nn.Sequential):
                    inner = cell[1](cell[0](y))
                    scale += 0.5 * math.log(float(inner.var((0, 2, 3), correction=0).mean()))
                y = cell(y)
            features.append((y.relu().mean((2, 3)), scale))
        distance = (features[1][0] - features[0][0]).norm(dim=1).mean()
    assert found == pytest.approx(math.log(float(distance)) + features[0][1], rel=1e-6)


def test_many_classes_compare_pairs_of_classes(probe: Probe) -> None:
    many = Probe(probe.network, probe.images, probe.labels, num_classes=101)
    rows = jacobian(probe)
    sums = []
    for label in range(3):
        own = rows[probe.labels.numpy() == label]
        sums.append(float(np.log(np.abs(np.corrcoef(own)) + 1e-5).sum()) / len(own))
    expected = sum(abs(a - b) for a in sums for b in sums) / 3
    assert EPENAS().score(many) == pytest.approx(expected, rel=1e-9)


def test_regularised_swap_favours_a_size(probe: Probe) -> None:
    size, plain = Parameters().score(probe), SWAP().score(probe)
    assert SWAP(center=size).score(probe) == plain
    assert SWAP(center=size + 10, width=50.0).score(probe) == pytest.approx(plain * math.exp(-2))


def test_a_network_that_passes_nothing_on_has_no_path() -> None:
    space = NASBench201Space()
    network = space.network(space.architecture([0] * 6), num_classes=3, image_shape=(3, 8, 8), channels=4, cells=1)
    probe = Probe(network, torch.randn(4, 3, 8, 8), torch.arange(4) % 3, 3)
    assert ShortestPath().score(probe) == LongestPath().score(probe) == SynFlow().score(probe) == -math.inf


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="batches is 1"):
        ZiCo(batches=1)
    with pytest.raises(ConfigError, match="repeats is 0"):
        Zen(repeats=0)
    with pytest.raises(ConfigError, match="mixup is 0"):
        Zen(mixup=0)
    with pytest.raises(ConfigError, match="width is 0"):
        SWAP(width=0)
