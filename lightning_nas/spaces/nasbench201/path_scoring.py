"""Logits of many architectures of NAS-Bench-201 with a supernet's weights, sharing what they have in common."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.spaces.kernels import EPS, average_pool
from lightning_nas.spaces.nasbench201.fused_edges import CONV_1X1, CONV_3X3, POOL, SKIP, FusedEdges
from lightning_nas.spaces.nasbench201.network import NODES, ResidualBlock
from lightning_nas.spaces.path_scoring import Logits

TOGETHER = 32
"""Number of paths whose normalized weights are kept in memory at a time."""

Names = tuple[str, ...]
"""Operations of the edges 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2."""

Key = tuple[Any, ...]
"""Identifies a computed value: a layer, and everything that its input depends on."""


def canonical(names: Sequence[str]) -> Names:
    """Replace the operations of edges without effect by ``none``.

    An edge has no effect if its source is always zero, or if no path leads from its target to the output.

    Args:
        names: Operations of the edges. Names other than those of computed operations count as ``none``.
    """
    edges = {pair: name for pair, name in zip(_pairs(), names, strict=True) if name in (CONV_3X3, CONV_1X1, SKIP, POOL)}
    for _ in range(NODES):  # an edge that is removed may leave others without effect
        zero = {node for node in range(1, NODES) if not any(target == node for target, _ in edges)}
        dead = {node for node in range(1, NODES - 1) if not any(source == node for _, source in edges)}
        edges = {(t, s): name for (t, s), name in edges.items() if s not in zero and t not in dead}
    return tuple(edges.get(pair, "none") for pair in _pairs())


def _pairs() -> list[tuple[int, int]]:
    """Target and source of every edge."""
    return [(target, source) for target in range(1, NODES) for source in range(target)]


class ScoredNetwork(Protocol):
    """The parts of a ``NASBench201Supernet`` from which its paths are computed."""

    stem: nn.Sequential
    cells: nn.ModuleList
    lastact: nn.Sequential
    classifier: nn.Linear


class _Layers:
    """Convolutions, each followed by a batch norm.

    First the statistics of the batch norms are measured; from then on, the batch norms are folded into the weights.

    Attributes:
        measuring: Whether statistics are being measured.
    """

    def __init__(self) -> None:
        self.measuring = True
        self._folded: dict[Key, tuple[Tensor, Tensor]] = {}
        self._statistics: dict[Key, tuple[Tensor, Tensor]] = {}

    def convolve(
        self, key: Key, x: Tensor, weight: Tensor, norm: nn.BatchNorm2d | None = None, stride: int = 1
    ) -> Tensor:
        """Apply a convolution and its batch norm.

        Args:
            key: Identifies the layer and its input.
            x: Input.
            weight: Weight of the convolution.
            norm: The batch norm; None for one without affine parameters.
            stride: Stride of the convolution.
        """
        padding = weight.shape[2] // 2
        if not self.measuring:
            return F.conv2d(x, *self._folded[key], stride, padding)
        y = F.conv2d(x, weight, None, stride, padding)
        result, mean, var = _normalized(y, norm)
        rate = (var + (EPS if norm is None else norm.eps)).rsqrt()
        if norm is not None:
            rate = rate * norm.weight
        bias = -mean * rate if norm is None else norm.bias - mean * rate
        self._folded[key] = (weight * rate[:, None, None, None]).to(weight.dtype), bias.to(weight.dtype)
        return result

    def normalise(self, key: Key, x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        """Apply a batch norm that does not follow a convolution."""
        if self.measuring:
            result, mean, var = _normalized(x, norm)
            self._statistics[key] = mean, var
            return result
        mean, var = self._statistics[key]
        return F.batch_norm(x, mean, var, norm.weight.to(mean), norm.bias.to(mean), False, 0.0, norm.eps)


def _normalized(x: Tensor, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize by the statistics of the batch; return also their mean and unbiased variance."""
    kind = torch.promote_types(x.dtype, torch.float32)
    mean, var = (torch.zeros(x.shape[1], dtype=kind, device=x.device) for _ in range(2))
    if norm is None:
        return F.batch_norm(x, mean, var, None, None, True, 1.0, EPS), mean, var
    return F.batch_norm(x, mean, var, norm.weight.to(kind), norm.bias.to(kind), True, 1.0, norm.eps), mean, var


def _modules(layers: nn.Module) -> list[Any]:
    """The modules of a sequence."""
    return list(layers.children())


class _State:
    """A node of a cell, with everything that was computed from it."""

    def __init__(self, key: Key, value: Tensor) -> None:
        self.key = key
        self.value = value
        self._made: dict[Any, Tensor] = {}

    def output(self, layers: _Layers, outgoing: FusedEdges, target: int, name: str) -> Tensor:
        """The output of an operation for a target, which is counted from the node after this one."""
        if name == SKIP:
            return self.value
        entry = POOL if name == POOL else (target, name)
        if entry not in self._made:
            self._made[entry] = self._compute(layers, outgoing, target, name)
        return self._made[entry]

    def _compute(self, layers: _Layers, outgoing: FusedEdges, target: int, name: str) -> Tensor:
        if name == POOL:
            return average_pool(self.value, 1)
        if "relu" not in self._made:
            self._made["relu"] = self.value.relu()
        c = outgoing.channels
        if name == CONV_3X3:
            weight = outgoing.weight_3.view(-1, c, c, 3, 3)[outgoing.stored.conv_3x3.index(target)]
        else:
            weight = outgoing.weight_1[outgoing.stored.conv_1x1.index(target), :, :, None, None]
        return layers.convolve((*self.key, target, name), self._made["relu"], weight)


def _cell(cell: Any, layers: _Layers, nodes: list[_State], path: Names, prefix: Key) -> Tensor:
    """Compute the last node of a cell.

    Args:
        cell: The mixed cell of the supernet.
        layers: Its convolutions.
        nodes: The nodes that are known already; the others before the last are appended.
        path: Operations of the edges.
        prefix: Start of the keys of the nodes.
    """
    for target in range(len(nodes), NODES):
        first = target * (target - 1) // 2
        total: Tensor | None = None
        fresh = False  # whether the sum has its own memory, so that it can be changed in place
        for source, name in enumerate(path[first : first + target]):
            if name == "none":
                continue
            y = nodes[source].output(layers, cell.fused_edges[source], target - 1 - source, name)
            if total is None:
                total = y
            elif fresh:
                total.add_(y)
            else:
                total, fresh = total + y, True
        value = torch.zeros_like(nodes[0].value) if total is None else total
        if target == NODES - 1:
            return value
        nodes.append(_State((*prefix, target, *path[: first + target]), value))
    raise AssertionError


class _Pass:
    """One batch of images on its way through many paths.

    Consecutive paths share the nodes of the first cell as far as their operations are the same.
    """

    def __init__(self, network: ScoredNetwork, layers: _Layers, images: Tensor) -> None:
        self.network = network
        self.layers = layers
        x = images.contiguous(memory_format=torch.channels_last)
        stem = _modules(network.stem)
        for i, layer in enumerate(stem):
            if isinstance(layer, nn.Conv2d):
                x = layers.convolve(("stem", i), x, layer.weight, stem[i + 1], layer.stride[0])
            elif isinstance(layer, nn.ReLU):
                x = x.relu_()
        self.first = [_State((0,), x)]
        self.last: Names = ()

    def logits(self, path: Names) -> Tensor:
        """Compute the logits of one path."""
        known = [n for n in range(1, len(self.first)) if path[: n * (n + 1) // 2] == self.last[: n * (n + 1) // 2]]
        del self.first[len(known) + 1 :]
        self.last = path
        x = self.first[0].value
        for i, cell in enumerate(self.network.cells):
            if isinstance(cell, ResidualBlock):
                x = self._residual(cell, x, (i, path))
            else:
                nodes = self.first if i == 0 else [_State((i, 0, path), x)]
                x = _cell(cell, self.layers, nodes, path, (i,) if i == 0 else (i, path))
        x = self.layers.normalise(("lastact", path), x, _modules(self.network.lastact)[0]).relu_()
        logits: Tensor = self.network.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits

    def _residual(self, block: ResidualBlock, x: Tensor, key: Key) -> Tensor:
        y = x.relu()
        for name, part in (("a", block.conv_a), ("b", block.conv_b)):
            _, conv, norm = _modules(part.op)
            # in place, because the result of the first convolution is used nowhere else
            y = self.layers.convolve((*key, name), y.relu_(), conv.weight, norm, conv.stride[0])
        total: Tensor = block.downsample(x) + y
        return total


@torch.no_grad()
def path_logits(
    network: ScoredNetwork, paths: Sequence[Sequence[str]], calibration: Tensor, batches: Sequence[Tensor]
) -> Logits:
    """See ``BatchedPathScoring.path_logits``.

    Edges without effect are left out, and batch norms are folded into the convolutions before them. All paths share the
    stem and the operations on the input of the first cell. The paths are sorted, so that neighbours share further nodes
    of the first cell.

    Args:
        network: The supernet.
        paths: Operations of the edges, in the order of the rows of the alphas.
        calibration: Images on which the statistics are measured.
        batches: Batches of images to score.
    """
    asked: dict[Names, list[int]] = {}
    for i, names in enumerate(paths):
        asked.setdefault(canonical(names), []).append(i)
    ordered = sorted(asked)
    for start in range(0, len(ordered), TOGETHER):
        layers, some = _Layers(), ordered[start : start + TOGETHER]
        measured = _Pass(network, layers, calibration)
        for path in some:
            measured.logits(path)
        del measured
        layers.measuring = False
        for b, images in enumerate(batches):
            scored = _Pass(network, layers, images)
            for path in some:
                logits = scored.logits(path)
                yield from ((i, b, logits) for i in asked[path])
