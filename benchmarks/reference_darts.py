"""Plain supernets with one module per edge, whose outputs and speed the library's supernets are compared with.

This file needs only torch. It contains ``Network`` for the DARTS space and ``NB201Network`` for NAS-Bench-201. As in
the public code of DARTS, PC-DARTS and NAS-Bench-201, parameters have the same names, the layout is NCHW, and steps
compute all gradients in both phases and use PyTorch's default optimizers.

References:
    1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055
    2. Xu et al.: PC-DARTS: Partial Channel Connections, ICLR 2020, https://arxiv.org/abs/1907.05737
    3. Dong, Yang: NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search, ICLR 2020,
       https://arxiv.org/abs/2001.00326
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
NB201_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
Batch = tuple[Tensor, Tensor]
Arch = Mapping[str, Tensor]


class Branch(nn.Module):
    """Layers in sequence, under the attribute ``op`` of the public code."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        return self.op(x)


def relu_conv_bn(channels_in: int, channels: int) -> Branch:
    return Branch(nn.ReLU(), nn.Conv2d(channels_in, channels, 1, bias=False), nn.BatchNorm2d(channels, affine=False))


def depthwise_pointwise(channels: int, kernel: int, stride: int, dilation: int) -> list[nn.Module]:
    return [
        nn.ReLU(),
        nn.Conv2d(
            channels,
            channels,
            kernel,
            stride,
            dilation * (kernel // 2),
            dilation,
            groups=channels,
            bias=False,
        ),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=False),
    ]


class FactorizedReduce(nn.Module):
    """Two strided 1x1 convolutions, the second shifted by one pixel; odd sizes are padded with a zero."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(channels_in, channels // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(channels_in, channels - channels // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Halve height and width, rounding up."""
        x = F.relu(x)
        shifted = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))[:, :, 1:, 1:]
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(shifted)], dim=1))


class Zero(nn.Module):
    """The operation ``none``."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros of the output's size."""
        return x[:, :, :: self.stride, :: self.stride] * 0.0


def operation(name: str, channels: int, stride: int) -> nn.Module:
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)
    if name == "max_pool_3x3":
        return nn.Sequential(nn.MaxPool2d(3, stride, padding=1), nn.BatchNorm2d(channels, affine=False))
    if name == "avg_pool_3x3":
        pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
        return nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False))
    kernel = int(name[-1])
    if name.startswith("dil"):
        return Branch(*depthwise_pointwise(channels, kernel, stride, 2))
    return Branch(*depthwise_pointwise(channels, kernel, stride, 1), *depthwise_pointwise(channels, kernel, 1, 1))


class MixedOp(nn.Module):
    """One edge: the weighted sum of all operations on 1/K of the channels; the others bypass them."""

    def __init__(self, names: Sequence[str], channels: int, stride: int, k: int) -> None:
        super().__init__()
        self._ops = nn.ModuleList(operation(name, channels // k, stride) for name in names)
        self.k = k
        self.stride = stride

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Mix the operations; with partial channels, concatenate and shuffle."""
        part = x.shape[1] // self.k
        mixed = sum(w * op(x[:, :part]) for w, op in zip(weights, self._ops, strict=True))
        if self.k == 1:
            return mixed
        passing = x[:, part:]
        passing = F.max_pool2d(passing, 2, ceil_mode=True) if self.stride == 2 else passing
        whole = torch.cat([mixed, passing], dim=1)
        batch, channels, height, width = whole.shape
        whole = whole.view(batch, self.k, channels // self.k, height, width)
        return whole.transpose(1, 2).reshape(batch, channels, height, width)


class Cell(nn.Module):
    """A cell with a ``MixedOp`` on every edge."""

    def __init__(
        self,
        names: Sequence[str],
        nodes: int,
        before: tuple[int, int],
        channels: int,
        reduction: bool,
        reduction_before: bool,
        k: int,
    ) -> None:
        super().__init__()
        self.reduction = reduction
        self.nodes = nodes
        make = FactorizedReduce if reduction_before else relu_conv_bn
        self.preprocess0 = make(before[0], channels)
        self.preprocess1 = relu_conv_bn(before[1], channels)
        self._ops = nn.ModuleList(
            MixedOp(names, channels, 2 if reduction and source < 2 else 1, k)
            for node in range(nodes)
            for source in range(2 + node)
        )

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor, edges: Tensor | None) -> Tensor:
        """Return the concatenated nodes."""
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        edge = 0
        for _ in range(self.nodes):
            total: Tensor | float = 0.0
            for state in states:
                mixed = self._ops[edge](state, weights[edge])
                total = total + (mixed if edges is None else edges[edge] * mixed)
                edge += 1
            states.append(total)
        return torch.cat(states[2:], dim=1)


class Network(nn.Module):
    """The supernet: stem, cells with reductions at one and two thirds, classifier."""

    def __init__(
        self,
        channels: int = 16,
        classes: int = 10,
        cells: int = 8,
        nodes: int = 4,
        operations: Sequence[str] = OPERATIONS,
        partial_channels: int = 1,
        channels_in: int = 3,
    ) -> None:
        super().__init__()
        self.nodes = nodes
        before, reduction_before = (3 * channels, 3 * channels), False
        self.stem = nn.Sequential(
            nn.Conv2d(channels_in, before[0], 3, padding=1, bias=False), nn.BatchNorm2d(before[0])
        )
        self.cells = nn.ModuleList()
        for i in range(cells):
            reduction = i in (cells // 3, 2 * cells // 3)
            channels *= 2 if reduction else 1
            self.cells.append(Cell(operations, nodes, before, channels, reduction, reduction_before, partial_channels))
            before, reduction_before = (before[1], nodes * channels), reduction
        self.classifier = nn.Linear(before[1], classes)

    def forward(self, x: Tensor, alphas: Arch, betas: Arch | None = None) -> Tensor:
        """Return logits. Softmax is applied to ``alphas`` per edge, and to ``betas`` (edge weights) per node."""
        weights = {name: a.softmax(dim=-1) for name, a in alphas.items()}
        edges = None if betas is None else {name: self.edge_weights(b) for name, b in betas.items()}
        return self.mixed(x, weights, edges)

    def edge_weights(self, beta: Tensor) -> Tensor:
        """Apply softmax to the edges of every node."""
        return torch.cat([b.softmax(0) for b in beta.split([2 + i for i in range(self.nodes)])])

    def mixed(self, x: Tensor, weights: Arch, edges: Arch | None = None) -> Tensor:
        """Return logits for normalised factors."""
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            name = "reduce" if cell.reduction else "normal"
            s0, s1 = s1, cell(s0, s1, weights[name], None if edges is None else edges[name])
        return self.classifier(s1.mean((2, 3)))


def nb201_conv(channels_in: int, channels: int, kernel: int, stride: int, affine: bool) -> Branch:
    return Branch(
        nn.ReLU(),
        nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


def nb201_operation(name: str, channels: int) -> nn.Module:
    if name == "none":
        return Zero(1)
    if name == "skip_connect":
        return nn.Identity()
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)
    return nb201_conv(channels, channels, int(name[-1]), 1, affine=False)


class NB201Cell(nn.Module):
    """Three nodes after the input, each the sum of the mixed operations on all previous states."""

    reduction = False

    def __init__(self, names: Sequence[str], channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(
            {
                f"{node}<-{source}": nn.ModuleList(nb201_operation(name, channels) for name in names)
                for node in range(1, 4)
                for source in range(node)
            }
        )

    def forward(self, x: Tensor, weights: Tensor, edges: Tensor | None) -> Tensor:
        """Return the last node."""
        states, row = [x], 0
        for node in range(1, 4):
            total: Tensor | float = 0.0
            for source in range(node):
                operations = self.edges[f"{node}<-{source}"]
                mixed = sum(w * op(states[source]) for w, op in zip(weights[row], operations, strict=True))
                total = total + (mixed if edges is None else edges[row] * mixed)
                row += 1
            states.append(total)
        return states[-1]


class NB201Residual(nn.Module):
    """The residual block of stride 2 between stages; odd sizes are rounded up."""

    reduction = True

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv_a = nb201_conv(channels_in, channels, 3, 2, affine=True)
        self.conv_b = nb201_conv(channels, channels, 3, 1, affine=True)
        self.downsample = nn.Sequential(
            nn.AvgPool2d(2, 2, ceil_mode=True), nn.Conv2d(channels_in, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Halve height and width."""
        return self.downsample(x) + self.conv_b(self.conv_a(x))


class NB201Network(nn.Module):
    """The supernet of NAS-Bench-201: stem, three stages of cells with residual blocks between, classifier."""

    def __init__(
        self,
        channels: int = 16,
        classes: int = 10,
        cells: int = 5,
        operations: Sequence[str] = NB201_OPERATIONS,
        channels_in: int = 3,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.cells = nn.ModuleList()
        for stage in range(3):
            if stage:
                self.cells.append(NB201Residual(channels, 2 * channels))
                channels *= 2
            self.cells.extend(NB201Cell(operations, channels) for _ in range(cells))
        self.lastact = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor, alphas: Arch, betas: Arch | None = None) -> Tensor:
        """Return logits. Softmax is applied to ``alphas`` per edge, and to ``betas`` (edge weights) per node."""
        edges = None if betas is None else {name: self.edge_weights(b) for name, b in betas.items()}
        return self.mixed(x, {name: a.softmax(dim=-1) for name, a in alphas.items()}, edges)

    def edge_weights(self, beta: Tensor) -> Tensor:
        """Apply softmax to the edges of every node."""
        return torch.cat([b.softmax(0) for b in beta.split([1, 2, 3])])

    def mixed(self, x: Tensor, weights: Arch, edges: Arch | None = None) -> Tensor:
        """Return logits for normalised factors."""
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x) if cell.reduction else cell(x, weights["cell"], None if edges is None else edges["cell"])
        return self.classifier(self.lastact(x).mean((2, 3)))


def _loss(net: nn.Module, batch: Batch, alphas: Arch, betas: Arch | None) -> Tensor:
    return F.cross_entropy(net(batch[0], alphas, betas), batch[1])


def _arch(alphas: Arch, betas: Arch | None) -> list[Tensor]:
    return [*alphas.values(), *(betas or {}).values()]


def _weight_step(
    net: nn.Module,
    alphas: Arch,
    betas: Arch | None,
    train: Batch,
    optimizer: torch.optim.Optimizer,
    clip: float | None,
) -> Tensor:
    optimizer.zero_grad()
    loss = _loss(net, train, alphas, betas)
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(net.parameters(), clip)
    optimizer.step()
    return loss.detach()


def first_order_step(
    net: nn.Module,
    alphas: Arch,
    betas: Arch | None,
    train: Batch,
    search: Batch,
    weight_optimizer: torch.optim.Optimizer,
    alpha_optimizer: torch.optim.Optimizer,
    clip: float | None = 5.0,
) -> Tensor:
    """Update the alphas on ``search`` and the weights on ``train``, and return the training loss."""
    alpha_optimizer.zero_grad()
    _loss(net, search, alphas, betas).backward()
    alpha_optimizer.step()
    return _weight_step(net, alphas, betas, train, weight_optimizer, clip)


def _unrolled(net: nn.Module, grads: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Compute the weights after one step of SGD with momentum and weight decay."""
    group = optimizer.param_groups[0]
    unrolled = []
    for p, g in zip(net.parameters(), grads, strict=True):
        velocity = optimizer.state[p].get("momentum_buffer") if p in optimizer.state else None
        step = g + group["weight_decay"] * p.detach()
        if velocity is not None:
            step = step + group["momentum"] * velocity
        unrolled.append(p.detach() - group["lr"] * step)
    return unrolled


def _loss_at(net: nn.Module, weights: Sequence[Tensor], batch: Batch, alphas: Arch, betas: Arch | None) -> Tensor:
    """Compute the loss with other weights, without changing the batch norm statistics of the net."""
    values = dict(zip((name for name, _ in net.named_parameters()), weights, strict=True))
    values |= {name: b.clone() for name, b in net.named_buffers()}
    logits = torch.func.functional_call(net, values, (batch[0], alphas, betas))
    return F.cross_entropy(logits, batch[1])


def second_order_gradient(
    net: nn.Module,
    alphas: Arch,
    betas: Arch | None,
    train: Batch,
    search: Batch,
    optimizer: torch.optim.Optimizer,
    exact: bool,
    radius: float = 0.01,
) -> list[Tensor]:
    """Compute the gradient of the search loss after one weight step with respect to alphas, then betas.

    Args:
        net: Supernet.
        alphas: Architecture parameters.
        betas: Edge weights of PC-DARTS, or None.
        train: Batch of the unrolled step.
        search: Batch of the outer loss.
        optimizer: SGD optimizer of the weights, with learning rate, momentum and weight decay of the unrolled step.
        exact: Whether the Hessian-vector product is computed by double backward instead of central differences.
        radius: Radius of the differences, which is divided by the norm of the vector.
    """
    arch, weights = _arch(alphas, betas), list(net.parameters())
    rate = optimizer.param_groups[0]["lr"]
    inner = torch.autograd.grad(_loss(net, train, alphas, betas), weights, create_graph=exact)
    unrolled = [w.requires_grad_() for w in _unrolled(net, [g.detach() for g in inner], optimizer)]
    outer = torch.autograd.grad(_loss_at(net, unrolled, search, alphas, betas), [*arch, *unrolled])
    direct, vector = outer[: len(arch)], outer[len(arch) :]
    if exact:
        implicit = torch.autograd.grad(inner, arch, vector)
    else:
        size = radius / torch.cat([v.flatten() for v in vector]).norm()
        sides = []
        for sign in (1, -2):
            with torch.no_grad():
                for p, v in zip(weights, vector, strict=True):
                    p.add_(v, alpha=float(sign * size))
            sides.append(torch.autograd.grad(_loss(net, train, alphas, betas), arch))
        with torch.no_grad():
            for p, v in zip(weights, vector, strict=True):
                p.add_(v, alpha=float(size))
        implicit = tuple((a - b) / (2 * size) for a, b in zip(*sides, strict=True))
    return [d - rate * i for d, i in zip(direct, implicit, strict=True)]


def second_order_step(
    net: nn.Module,
    alphas: Arch,
    betas: Arch | None,
    train: Batch,
    search: Batch,
    weight_optimizer: torch.optim.Optimizer,
    alpha_optimizer: torch.optim.Optimizer,
    clip: float | None = 5.0,
    exact: bool = False,
) -> Tensor:
    """Update the alphas with a second-order gradient, then the weights, and return the training loss."""
    gradient = second_order_gradient(net, alphas, betas, train, search, weight_optimizer, exact)
    for a, g in zip(_arch(alphas, betas), gradient, strict=True):
        a.grad = g
    alpha_optimizer.step()
    return _weight_step(net, alphas, betas, train, weight_optimizer, clip)


def exact_step(
    net: nn.Module,
    alphas: Arch,
    betas: Arch | None,
    train: Batch,
    search: Batch,
    weight_optimizer: torch.optim.Optimizer,
    alpha_optimizer: torch.optim.Optimizer,
    clip: float | None = 5.0,
) -> Tensor:
    """Update the alphas with exact Hessian-vector products, then the weights, and return the training loss."""
    return second_order_step(net, alphas, betas, train, search, weight_optimizer, alpha_optimizer, clip, exact=True)
