"""The edges that leave one state of a NAS-Bench-201 cell, evaluated together."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.spaces.attention import OperationScores, apply_scores
from lightning_nas.spaces.kernels import EPS, MOMENTUM, average_pool, fold, moments

WIDE, NARROW, SKIP, POOL = "nor_conv_3x3", "nor_conv_1x1", "skip_connect", "avg_pool_3x3"


class _Sum(torch.autograd.Function):
    """Add a 1x1 convolution and weighted inputs to the stacked sums of all targets, in place.

    By hand for three reasons: in-place changes of views cost copies in autograd; a factor times a slice of channels is
    one pass on a CPU if the factor is a number; and the targets' gradients are summed before they are stored.
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
        numbers = None if total.is_cuda else factors.tolist()  # on a GPU, reading them would wait for it
        for k, (each, y) in enumerate(zip(targets, inputs, strict=True)):
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
            grad_factors = _products(blocks, inputs, ctx.targets)
        plain = grad.is_cuda or torch.is_grad_enabled()  # tensors, on a GPU or to be differentiated again
        numbers = factors.to(grad.dtype) if plain else factors.tolist()
        needed = ctx.needs_input_grad[5:]
        grad_inputs = [
            _combination(blocks, numbers[k], each) if wanted else None
            for k, (each, wanted) in enumerate(zip(ctx.targets, needed, strict=True))
        ]
        return grad, grad_x, grad_weight, grad_factors, None, *grad_inputs


def _rows(x: Tensor) -> Tensor:
    """Images in channels_last memory as a matrix ``(pixels, channels)``."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _images(rows: Tensor, like: Tensor) -> Tensor:
    """Undo ``_rows``."""
    batch, _, height, width = like.shape
    images: Tensor = rows.view(batch, height, width, -1).permute(0, 3, 1, 2)
    return images


def _products(blocks: Sequence[Tensor], inputs: Sequence[Tensor], targets: Sequence[Sequence[int]]) -> Tensor:
    """Scalar products of inputs and the blocks of their targets, ``(inputs, blocks)``; zero where none is asked for."""
    zero = blocks[0].new_zeros((), dtype=torch.promote_types(blocks[0].dtype, torch.float32))
    # one memory for all products, unless they are to be differentiated again
    memory = None if torch.is_grad_enabled() or not inputs else torch.empty_like(inputs[0])
    rows = []
    for each, y in zip(targets, inputs, strict=True):
        row = [torch.mul(y, b, out=memory).sum(dtype=zero.dtype) if t in each else zero for t, b in enumerate(blocks)]
        rows.append(torch.stack(row))
    return torch.stack(rows)


def _combination(blocks: Sequence[Tensor], factors: Any, targets: Sequence[int]) -> Tensor:
    """The weighted sum of some blocks."""
    total: Tensor = blocks[targets[0]] * factors[targets[0]]
    for t in targets[1:]:
        if isinstance(factors, Tensor):
            total = total + blocks[t] * factors[t]
        else:
            total.add_(blocks[t], alpha=factors[t])
    return total


class Computed(NamedTuple):
    """The targets to which each kind of operation leads."""

    wide: list[int]
    narrow: list[int]
    skip: list[int]
    pool: list[int]


class FusedEdges(nn.Module):
    """All edges that leave one state of a cell, and the weighted sum of their operations at each target.

    What the edges share is computed once: ReLU, average pooling, the covariance of the channels. The 3x3 convolutions
    are one convolution with stacked outputs, and the mixture's factors are the weight of its batch norm. The batch
    norms of 1x1 convolutions are folded into them (``grouped.fold``), and all 1x1 convolutions are one matrix product.
    Nothing is stored for an operation that an edge may not take.

    Args:
        operations: Names of the operations, in the order of the mixture's columns.
        allowed: What each target may take, bool ``(targets, operations)``.
        channels: Channels of a state.
    """

    weight_3: Tensor
    mean_3: Tensor
    var_3: Tensor
    batches_3: Tensor
    weight_1: Tensor
    mean_1: Tensor
    var_1: Tensor
    batches_1: Tensor

    def __init__(self, operations: Sequence[str], allowed: Tensor, channels: int) -> None:
        super().__init__()
        self.operations = tuple(operations)
        self.targets, self.channels = len(allowed), channels
        self.stored = self.computed(allowed.tolist())
        if self.stored.wide:
            count = len(self.stored.wide)
            self.weight_3 = nn.Parameter(self._drawn((count * channels, channels, 3, 3), 9 * channels))
            self._statistics("3", count)
        if self.stored.narrow:
            count = len(self.stored.narrow)
            self.weight_1 = nn.Parameter(self._drawn((count, channels, channels), channels))
            self._statistics("1", count)

    @staticmethod
    def _drawn(shape: tuple[int, ...], fan: int) -> Tensor:
        """Weights as ``nn.Conv2d`` draws them: uniform within ``1 / sqrt(fan)``."""
        return torch.empty(shape).uniform_(-(fan**-0.5), fan**-0.5)

    def _statistics(self, name: str, count: int) -> None:
        self.register_buffer(f"mean_{name}", torch.zeros(count, self.channels))
        self.register_buffer(f"var_{name}", torch.ones(count, self.channels))
        self.register_buffer(f"batches_{name}", torch.zeros(count, dtype=torch.long))

    def computed(self, on: Sequence[Sequence[bool]]) -> Computed:
        """The targets of each kind, from flags ``(targets, operations)``."""
        columns = [self.operations.index(n) if n in self.operations else None for n in (WIDE, NARROW, SKIP, POOL)]
        return Computed(*([t for t, row in enumerate(on) if c is not None and row[c]] for c in columns))

    def forward(
        self,
        x: Tensor,
        factors: Mapping[str, Tensor],
        active: Sequence[Sequence[bool]] | None,
        scores: OperationScores | None = None,
    ) -> Tensor:
        """Sum at every target.

        Args:
            x: The state, ``(batch, channels, height, width)``, in channels_last memory.
            factors: Factors of an operation by its name, ``(targets,)``.
            active: Which operations are computed, flags ``(targets, operations)``; None computes all.
            scores: OperationScores of operations, see ``Attention.operation_scores``.

        Returns:
            ``(batch, targets * channels, height, width)``.
        """
        use = self.stored
        if active is not None:
            asked = self.computed(active)
            use = Computed(*([t for t in a if t in b] for a, b in zip(self.stored, asked, strict=True)))
        if scores is not None:
            return self._scored(x, factors, use, scores)
        relu = x.relu() if use.wide or use.narrow else None
        weight = bias = None
        if relu is not None and use.narrow:
            weight, bias = self._narrow(relu, use.narrow, factors[NARROW])
        if relu is not None and use.wide:
            total = self._wide(relu, use.wide, factors[WIDE], bias)
            if len(use.wide) < self.targets:
                total = self._spread(total, use.wide, x, bias)
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

    def _wide(self, relu: Tensor, targets: Sequence[int], factors: Tensor, bias: Tensor | None) -> Tensor:
        """The 3x3 convolutions, normalised and weighted: ``(batch, len(targets) * channels, height, width)``."""
        whole = len(targets) == self.targets
        if bias is not None:
            bias = (bias if whole else bias[targets]).flatten()
        scale = factors if whole else factors[targets]
        # repeated in memory: with torch 2.15 on a CPU, the backward pass reads past an expanded weight
        return self._normalised(relu, targets, scale.repeat_interleave(self.channels), bias)

    def _normalised(self, relu: Tensor, targets: Sequence[int], scale: Tensor | None, bias: Tensor | None) -> Tensor:
        rows = self._stored_rows(self.stored.wide, targets)
        weight, mean, var = self.weight_3, self.mean_3, self.var_3
        if rows is not None:
            weight = weight.unflatten(0, (-1, self.channels))[rows].flatten(0, 1)
            mean, var = mean[rows], var[rows]
        y = F.conv2d(relu, weight, None, 1, 1)
        mean, var = mean.flatten(), var.flatten()
        # where the stored statistics are taken whole, these are views of them
        y = F.batch_norm(y, mean, var, scale, bias, self.training, MOMENTUM, EPS)
        self._store("3", rows, mean, var)
        return y

    def _narrow(self, relu: Tensor, targets: Sequence[int], factors: Tensor | None) -> tuple[Tensor, Tensor]:
        """The folded 1x1 convolutions: weight ``(targets * channels, channels)``, bias ``(targets, channels)``."""
        rows = self._stored_rows(self.stored.narrow, targets)
        pointwise, mean, var = self.weight_1, self.mean_1, self.var_1
        if rows is not None:
            pointwise, mean, var = pointwise[rows], mean[rows], var[rows]
        measured = None
        if self.training:
            centre, covariance = moments(relu, 1)
            count = len(targets)
            measured = centre.expand(count, -1), covariance.expand(count, -1, -1), relu.numel() // relu.shape[1]
        whole = len(targets) == self.targets
        scale = factors if factors is None or whole else factors[targets]
        weight, bias = fold(pointwise, measured, (mean, var), scale)
        self._store("1", rows, mean, var)
        if not whole:
            index = torch.tensor(targets, device=weight.device)
            weight = weight.new_zeros(self.targets, *weight.shape[1:]).index_copy(0, index, weight)
            bias = bias.new_zeros(self.targets, self.channels).index_copy(0, index, bias)
        return weight.flatten(0, 1), bias

    def _stored_rows(self, stored: Sequence[int], targets: Sequence[int]) -> Tensor | None:
        """Rows of the stored tensors; None for all of them."""
        if len(stored) == len(targets):
            return None
        return torch.tensor([stored.index(t) for t in targets])

    def _store(self, name: str, rows: Tensor | None, mean: Tensor, var: Tensor) -> None:
        """Keep the moved statistics, which are copies where only some rows were taken."""
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
        """Blocks of all targets from those of some; the others hold their bias, or zero."""
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

    def _scored(self, x: Tensor, factors: Mapping[str, Tensor], use: Computed, scores: OperationScores) -> Tensor:
        """With factors that differ from sample to sample."""
        outputs: list[dict[str, Tensor]] = [{} for _ in range(self.targets)]
        relu = x.relu()
        if use.wide:
            blocks = self._normalised(relu, use.wide, None, None).chunk(len(use.wide), dim=1)
            for t, y in zip(use.wide, blocks, strict=True):
                outputs[t][WIDE] = y
        if use.narrow:
            weight, bias = self._narrow(relu, use.narrow, None)
            y = F.conv2d(relu, weight[:, :, None, None], bias.flatten())
            for t in use.narrow:
                outputs[t][NARROW] = y.chunk(self.targets, dim=1)[t]
        pooled = average_pool(x, 1) if use.pool else x
        for name, each, y in ((SKIP, use.skip, x), (POOL, use.pool, pooled)):
            for t in each:
                outputs[t][name] = y
        zero = x.new_zeros(x.shape[:2])
        means = [[row[n].mean((2, 3)) if n in row else zero for n in self.operations] for row in outputs]
        before = torch.stack([factors[name] for name in self.operations], dim=1)
        changed = apply_scores(before, torch.stack([torch.stack(row, dim=1) for row in means], dim=1), scores)
        column = {name: i for i, name in enumerate(self.operations)}
        totals = []
        for t, row in enumerate(outputs):
            weighted = [y * changed[:, t, column[name], None, None, None] for name, y in row.items()]
            totals.append(sum(weighted[1:], weighted[0]) if weighted else torch.zeros_like(x))
        return torch.cat(totals, dim=1)
