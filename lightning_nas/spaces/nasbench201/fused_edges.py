"""All edges that leave one state of a NAS-Bench-201 cell, computed together."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.errors import ConfigError
from lightning_nas.spaces.kernels import EPS, MOMENTUM, average_pool, fold, moments
from lightning_nas.spaces.operations import NASBENCH201_OPERATIONS, Operation

CONV_3X3, CONV_1X1, SKIP, POOL = "nor_conv_3x3", "nor_conv_1x1", "skip_connect", "avg_pool_3x3"
"""Names of the operations other than ``none``."""


class _Sum(torch.autograd.Function):
    """Add a 1x1 convolution and weighted inputs to the stacked sums of all targets, in place.

    This is written by hand for three reasons. Autograd copies tensors when views of them change in place. On a CPU, a
    slice of channels is multiplied and added in one pass if its factor is a number. And the gradients of an input from
    all its targets are summed before they are stored.
    """

    @staticmethod
    def forward(
        ctx: Any,
        total: Tensor,
        x: Tensor | None,
        weight: Tensor | None,
        factors: Tensor,
        targets: Sequence[Sequence[int]],
        *inputs: Tensor,
    ) -> Tensor:
        ctx.mark_dirty(total)
        ctx.targets = targets
        ctx.save_for_backward(x, weight, factors, *inputs)
        if x is not None and weight is not None:
            _rows(total).addmm_(_rows(x), weight.t())
        blocks = total.chunk(factors.shape[1], dim=1)
        numbers = None if total.is_cuda else factors.tolist()  # reading numbers from a GPU would wait for it
        for k, (each, y) in enumerate(zip(targets, inputs, strict=True)):
            if numbers is None and len(each) == len(blocks):
                _by_target(total, len(blocks)).addcmul_(y.unsqueeze(1), _column(factors[k].to(y.dtype)))
                continue
            for t in each:
                if numbers is None:
                    blocks[t].addcmul_(y, factors[k, t].to(y.dtype))
                else:
                    blocks[t].add_(y, alpha=numbers[k][t])
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factors, *inputs = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = grad_weight = grad_factors = None
        if x is not None:
            rows = _rows(grad)
            if ctx.needs_input_grad[1]:
                grad_x = _images(rows @ weight, x)
            if ctx.needs_input_grad[2]:
                grad_weight = rows.t() @ _rows(x)
        blocks = grad.chunk(factors.shape[1], dim=1)
        if ctx.needs_input_grad[3]:
            grad_factors = _products(grad, inputs, ctx.targets, len(blocks))
        # factors stay tensors on a GPU, and where the gradient is to be differentiated again
        plain = grad.is_cuda or torch.is_grad_enabled()
        numbers = factors.to(grad.dtype) if plain else factors.tolist()
        needed = ctx.needs_input_grad[5:]
        grad_inputs = [
            _combination(grad, numbers[k], each, len(blocks)) if wanted else None
            for k, (each, wanted) in enumerate(zip(ctx.targets, needed, strict=True))
        ]
        return grad, grad_x, grad_weight, grad_factors, None, *grad_inputs


def _rows(x: Tensor) -> Tensor:
    """View images in channels_last memory as a matrix ``(pixels, channels)``."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _images(rows: Tensor, like: Tensor) -> Tensor:
    """Undo ``_rows``."""
    batch, _, height, width = like.shape
    images: Tensor = rows.view(batch, height, width, -1).permute(0, 3, 1, 2)
    return images


def _by_target(stacked: Tensor, count: int) -> Tensor:
    """View stacked blocks by their target: ``(batch, targets, channels, height, width)``."""
    view: Tensor = stacked.unflatten(1, (count, -1))
    return view


def _column(factors: Tensor) -> Tensor:
    """Factors of all targets in a shape that fits ``_by_target``."""
    return factors.view(-1, 1, 1, 1)


def _products(grad: Tensor, inputs: Sequence[Tensor], targets: Sequence[Sequence[int]], count: int) -> Tensor:
    """Scalar products of inputs and the blocks of their targets, ``(inputs, blocks)``; zero for other blocks."""
    dtype = torch.promote_types(grad.dtype, torch.float32)
    if grad.is_cuda and inputs and all(len(each) == count for each in targets):  # few kernels
        by_target = _by_target(grad, count)
        return torch.stack([(by_target * y.unsqueeze(1)).sum((0, 2, 3, 4), dtype=dtype) for y in inputs])
    blocks, zero = grad.chunk(count, dim=1), grad.new_zeros((), dtype=dtype)
    # one buffer for all products, unless they are to be differentiated again
    memory = None if torch.is_grad_enabled() or not inputs else torch.empty_like(inputs[0])
    rows = []
    for each, y in zip(targets, inputs, strict=True):
        row = [torch.mul(y, b, out=memory).sum(dtype=zero.dtype) if t in each else zero for t, b in enumerate(blocks)]
        rows.append(torch.stack(row))
    return torch.stack(rows)


def _combination(grad: Tensor, factors: Any, targets: Sequence[int], count: int) -> Tensor:
    """The weighted sum of the blocks of some targets."""
    if grad.is_cuda and len(targets) == count:  # few kernels
        together: Tensor = (_by_target(grad, count) * _column(factors)).sum(1)
        return together
    blocks = grad.chunk(count, dim=1)
    total: Tensor = blocks[targets[0]] * factors[targets[0]]
    for t in targets[1:]:
        if isinstance(factors, Tensor):
            total = total + blocks[t] * factors[t]
        else:
            total.add_(blocks[t], alpha=factors[t])
    return total


class KindTargets(NamedTuple):
    """The targets that each kind of operation leads to.

    Attributes:
        conv_3x3: Targets of 3x3 convolutions.
        conv_1x1: Targets of 1x1 convolutions.
        skip: Targets of skip connections.
        pool: Targets of average pooling.
    """

    conv_3x3: list[int]
    conv_1x1: list[int]
    skip: list[int]
    pool: list[int]


class FusedEdges(nn.Module):
    """All edges that leave one state of a cell, and the weighted sum of their operations at each target.

    What the edges share is computed once: ReLU, average pooling, and the covariance of the channels. The 3x3
    convolutions are one convolution with stacked outputs, and the factors of the mixture are the weights of its batch
    norm. The batch norms of the 1x1 convolutions are folded into them (``kernels.fold``), and all 1x1 convolutions are
    one matrix product. Nothing is stored for an operation that an edge may not take.

    Args:
        operations: The operations, in the order of the mixture's columns; those of
            ``operations.NASBENCH201_OPERATIONS``.
        allowed: Operations that the edge to each target may take, bool ``(targets, operations)``.
        channels: Channels of a state.

    Raises:
        ConfigError: There is another operation.
    """

    weight_3: Tensor
    mean_3: Tensor
    var_3: Tensor
    batches_3: Tensor
    weight_1: Tensor
    mean_1: Tensor
    var_1: Tensor
    batches_1: Tensor

    def __init__(self, operations: Sequence[Operation], allowed: Tensor, channels: int) -> None:
        super().__init__()
        if not self.supports(operations):
            foreign = [operation.name for operation in operations if operation not in NASBENCH201_OPERATIONS]
            raise ConfigError(f"FusedEdges cannot compute the operations {foreign}. Use a PerEdgeSupernet.")
        self.operations = tuple(operation.name for operation in operations)
        self.targets, self.channels = len(allowed), channels
        self.stored = self.targets_by_kind(allowed.tolist())
        if self.stored.conv_3x3:
            count = len(self.stored.conv_3x3)
            self.weight_3 = nn.Parameter(self._drawn((count * channels, channels, 3, 3), 9 * channels))
            self._add_statistics("3", count)
        if self.stored.conv_1x1:
            count = len(self.stored.conv_1x1)
            self.weight_1 = nn.Parameter(self._drawn((count, channels, channels), channels))
            self._add_statistics("1", count)

    @staticmethod
    def supports(operations: Sequence[Operation]) -> bool:
        """Return whether all of these operations can be computed here.

        Args:
            operations: The operations of a space.
        """
        return all(operation in NASBENCH201_OPERATIONS for operation in operations)

    @staticmethod
    def _drawn(shape: tuple[int, ...], fan: int) -> Tensor:
        """Weights drawn as ``nn.Conv2d`` draws them: uniformly within ``1 / sqrt(fan_in)``."""
        return torch.empty(shape).uniform_(-(fan**-0.5), fan**-0.5)

    def _add_statistics(self, name: str, count: int) -> None:
        self.register_buffer(f"mean_{name}", torch.zeros(count, self.channels))
        self.register_buffer(f"var_{name}", torch.ones(count, self.channels))
        self.register_buffer(f"batches_{name}", torch.zeros(count, dtype=torch.long))

    def targets_by_kind(self, on: Sequence[Sequence[bool]]) -> KindTargets:
        """Return the targets that each kind of operation leads to.

        Args:
            on: Which operations there are, flags ``(targets, operations)``.
        """
        names = (CONV_3X3, CONV_1X1, SKIP, POOL)
        columns = [self.operations.index(n) if n in self.operations else None for n in names]
        return KindTargets(*([t for t, row in enumerate(on) if c is not None and row[c]] for c in columns))

    def forward(self, x: Tensor, factors: Mapping[str, Tensor], active: Sequence[Sequence[bool]] | None) -> Tensor:
        """Compute the weighted sum at every target.

        Args:
            x: The state, ``(batch, channels, height, width)``, in channels_last memory.
            factors: Factors ``(targets,)`` of every operation, by its name.
            active: Operations to compute, flags ``(targets, operations)``; None computes all.

        Returns:
            ``(batch, targets * channels, height, width)``.
        """
        use = self.stored
        if active is not None:
            asked = self.targets_by_kind(active)
            use = KindTargets(*([t for t in a if t in b] for a, b in zip(self.stored, asked, strict=True)))
        relu = x.relu() if use.conv_3x3 or use.conv_1x1 else None
        weight = bias = None
        if relu is not None and use.conv_1x1:
            weight, bias = self._folded_1x1(relu, use.conv_1x1, factors[CONV_1X1])
        if relu is not None and use.conv_3x3:
            total = self._weighted_3x3(relu, use.conv_3x3, factors[CONV_3X3], bias)
            if len(use.conv_3x3) < self.targets:
                total = self._spread(total, use.conv_3x3, x, bias)
        else:
            total = self._spread(None, [], x, bias)
        inputs, columns, targets = [], [], []
        for name, each in ((SKIP, use.skip), (POOL, use.pool)):
            if each:
                inputs.append((x if name == SKIP else average_pool(x, 1)).to(total.dtype))
                columns.append(factors[name])
                targets.append(each)
        if weight is None and not inputs:
            return total
        rows = torch.stack(columns) if columns else x.new_zeros(0, self.targets)
        product = (None, None) if weight is None or relu is None else (relu.to(total.dtype), weight.to(total.dtype))
        result: Tensor = _Sum.apply(total, *product, rows, targets, *inputs)
        return result

    def _weighted_3x3(self, relu: Tensor, targets: Sequence[int], factors: Tensor, bias: Tensor | None) -> Tensor:
        """The 3x3 convolutions, normalized and weighted: ``(batch, len(targets) * channels, height, width)``."""
        rows = None if len(targets) == self.targets else _index(targets, relu)
        if bias is not None:
            bias = (bias if rows is None else bias[rows]).flatten()
        scale = factors if rows is None else factors[rows]
        # repeated in memory, because in torch 2.15 on a CPU the backward pass reads beyond an expanded weight
        return self._normalized_3x3(relu, targets, scale.repeat_interleave(self.channels), bias)

    def _normalized_3x3(
        self, relu: Tensor, targets: Sequence[int], scale: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        rows = _stored_rows(self.stored.conv_3x3, targets, relu)
        weight, mean, var = self.weight_3, self.mean_3, self.var_3
        if rows is not None:
            weight = weight.unflatten(0, (-1, self.channels))[rows].flatten(0, 1)
            mean, var = mean[rows], var[rows]
        y = F.conv2d(relu, weight, None, 1, 1)
        mean, var = mean.flatten(), var.flatten()
        # views of the stored statistics where all rows are taken, so that batch_norm updates those
        y = F.batch_norm(y, mean, var, scale, bias, self.training, MOMENTUM, EPS)
        self._store("3", rows, mean, var)
        return y

    def _folded_1x1(self, relu: Tensor, targets: Sequence[int], factors: Tensor | None) -> tuple[Tensor, Tensor]:
        """The folded 1x1 convolutions: weight ``(targets * channels, channels)``, bias ``(targets, channels)``."""
        rows = _stored_rows(self.stored.conv_1x1, targets, relu)
        pointwise, mean, var = self.weight_1, self.mean_1, self.var_1
        if rows is not None:
            pointwise, mean, var = pointwise[rows], mean[rows], var[rows]
        measured = None
        if self.training:
            centre, covariance = moments(relu, 1)
            count = len(targets)
            measured = centre.expand(count, -1), covariance.expand(count, -1, -1), relu.numel() // relu.shape[1]
        whole = len(targets) == self.targets
        scale = factors if factors is None or whole else factors[_index(targets, relu)]
        weight, bias = fold(pointwise, measured, (mean, var), scale)
        self._store("1", rows, mean, var)
        if not whole:
            index = _index(targets, relu)
            weight = weight.new_zeros(self.targets, *weight.shape[1:]).index_copy(0, index, weight)
            bias = bias.new_zeros(self.targets, self.channels).index_copy(0, index, bias)
        return weight.flatten(0, 1), bias

    def _store(self, name: str, rows: Tensor | None, mean: Tensor, var: Tensor) -> None:
        """Store updated statistics, which are copies where only some rows were taken."""
        if not self.training:
            return
        batches = getattr(self, f"batches_{name}")
        if rows is None:
            batches.add_(1)
            return
        batches[rows] += 1
        # .data: autograd holds the statistics of a path that took them whole, and would take this for a change of them
        getattr(self, f"mean_{name}").data[rows] = mean.view(-1, self.channels)
        getattr(self, f"var_{name}").data[rows] = var.view(-1, self.channels)

    def _spread(self, y: Tensor | None, targets: Sequence[int], x: Tensor, bias: Tensor | None) -> Tensor:
        """Return the blocks of all targets, given those of some; the others hold their bias, or zero."""
        blocks = [] if y is None else list(y.chunk(len(targets), dim=1))
        dtype = x.dtype if y is None else y.dtype
        parts = []
        for t in range(self.targets):
            if t in targets:
                parts.append(blocks[targets.index(t)])
            else:
                row = x.new_zeros(self.channels) if bias is None else bias[t]
                parts.append(row.to(dtype).view(1, -1, 1, 1).expand_as(x))
        return torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last)


def _stored_rows(stored: Sequence[int], targets: Sequence[int], like: Tensor) -> Tensor | None:
    """Rows of the stored tensors; None for all of them."""
    return None if len(stored) == len(targets) else _index([stored.index(t) for t in targets], like)


def _index(rows: Sequence[int], like: Tensor) -> Tensor:
    """An index on the device of a tensor, moved there without waiting for what the device computes."""
    return torch.tensor(rows).to(like.device, non_blocking=True)
