"""Arithmetic on groups of channels: batch norm folded into a linear map, depthwise convolutions, pooling.

Tensors have one of two layouts. A *wide* tensor is ``(batch, groups * channels, height, width)`` in channels_last
memory, and goes through convolutions. A *dense* tensor is ``(groups, channels, pixels * batch)``, contiguous, for
images that are so small that a convolution is fastest as one matrix over all pixels.

Gradients that are written by hand below have three purposes, none of which changes the mathematics: fewer calls (a
small cell consists of many tiny operations), gradients that can be skipped one by one (a step of the alphas needs no
gradients of weights, and the other way round), and detours around slow paths of oneDNN, the library behind
convolutions on a CPU. All of them can be differentiated a second time.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Moments = tuple[Tensor, Tensor, int]
"""Mean ``(groups, channels)``, covariance ``(groups, channels, channels)``, and the number of values behind them."""

EPS = 1e-5
"""Number that batch norms add to variances, PyTorch's default."""

MOMENTUM = 0.1
"""Weight of a batch in running statistics, PyTorch's default."""

MERGED_CHANNELS = 8
"""Largest number of channels up to which groups are merged: narrower groups leave a processor's vector lanes empty."""

POOLED_PIXELS, POOLED_CHANNELS = 64, 64
"""Largest number of pixels, and least number of channels, for which PyTorch's average pooling is the faster one."""

MATRIX_CHANNELS = 16
"""Number of channels from which products over all pixels are faster as matrix products than as oneDNN's gradients."""


def _merged(groups: int, channels: int) -> int:
    """How many groups are merged into one."""
    return max(m for m in range(1, groups + 1) if groups % m == 0 and (m == 1 or m * channels <= MERGED_CHANNELS))


def _products(x: Tensor, y: Tensor, groups: int) -> Tensor:
    """Sum over all pixels of the channels of x times those of y, group by group: ``(groups, x's, y's)``."""
    wide, other = x.shape[1] // groups, y.shape[1] // groups
    if x.is_cuda or min(wide, other) >= MATRIX_CHANNELS:
        rows = [t.permute(0, 2, 3, 1).reshape(-1, groups, t.shape[1] // groups) for t in (x, y)]
        return torch.bmm(rows[0].permute(1, 2, 0), rows[1].transpose(0, 1))
    # these sums are the weight gradient of a grouped 1x1 convolution
    shape = x.new_zeros(()).expand(x.shape[1], other, 1, 1)
    found: Tensor = torch.ops.aten.convolution_backward(
        x, y, shape, None, [1, 1], [0, 0], [1, 1], False, [0, 0], groups, [False, True, False]
    )[1]
    return found.view(groups, wide, other)


class _Pointwise(torch.autograd.Function):
    """A grouped 1x1 convolution whose bias gradient is a plain sum: oneDNN's own takes several times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight.flatten(0, 1)[:, :, None, None], bias, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        return (
            pointwise(grad, weight.transpose(1, 2), None) if needed[0] else None,
            _products(grad, x, len(weight)) if needed[1] else None,
            grad.sum((0, 2, 3)) if needed[2] else None,
        )


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a linear map to the channels of every group of a wide tensor.

    Args:
        x: ``(batch, groups * in, height, width)``.
        weight: ``(groups, out, in)``.
        bias: ``(groups * out,)`` or None.

    Returns:
        ``(batch, groups * out, height, width)``.
    """
    groups, out, channels = weight.shape
    m = _merged(groups, channels)
    if m > 1:
        # a merged group has the weights of its m groups as blocks on its diagonal
        weight = weight.view(-1, m, out, 1, channels) * _eye(m, weight.dtype, weight.device)
        weight = weight.reshape(groups // m, m * out, m * channels)
    if x.is_cuda or torch.is_autocast_enabled(x.device.type) or not torch.is_grad_enabled():
        return F.conv2d(x, weight.flatten(0, 1)[:, :, None, None], bias, groups=groups // m)
    result: Tensor = _Pointwise.apply(x, weight, bias)
    return result


@lru_cache(maxsize=64)
def _eye(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return torch.eye(size, dtype=dtype, device=device).view(size, 1, size, 1)


class _WideMoments(torch.autograd.Function):
    """Mean ``(groups, channels)`` and covariance ``(groups, channels, channels)`` of a wide tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        channels = x.shape[1] // groups
        count = x.numel() // x.shape[1]
        m = _merged(groups, channels)
        blocks = _products(x, x, groups // m).view(-1, m, channels, m, channels)
        second = blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).reshape(groups, channels, channels)
        mean = x.sum((0, 2, 3)).view(groups, channels) / count
        ctx.save_for_backward(x, mean)
        return mean, torch.baddbmm(second, mean.unsqueeze(2), mean.unsqueeze(1), beta=1 / count, alpha=-1)

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_covariance: Tensor) -> tuple[Tensor, None]:
        x, mean = ctx.saved_tensors
        slope, offset = _moments_gradient(mean, grad_mean, grad_covariance, x.numel() // x.shape[1])
        return pointwise(x, slope, offset.reshape(-1)), None


class _DenseMoments(torch.autograd.Function):
    """Mean ``(groups, channels)`` and covariance ``(groups, channels, channels)`` of a dense tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean(2)
        ctx.save_for_backward(x, mean)
        second = torch.bmm(x, x.transpose(1, 2))
        return mean, torch.baddbmm(second, mean.unsqueeze(2), mean.unsqueeze(1), beta=1 / x.shape[2], alpha=-1)

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_covariance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        slope, offset = _moments_gradient(mean, grad_mean, grad_covariance, x.shape[2])
        return torch.baddbmm(offset.unsqueeze(2), slope, x)


def _moments_gradient(mean: Tensor, grad_mean: Tensor, grad: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The gradient of mean and covariance with respect to the values, which is ``slope @ values + offset``."""
    slope = (grad + grad.transpose(1, 2)) / count
    return slope, grad_mean / count - torch.bmm(slope, mean.unsqueeze(2)).squeeze(2)


def moments(x: Tensor, groups: int | None) -> tuple[Tensor, Tensor]:
    """Compute mean and covariance of the channels of every group, at least in single precision.

    The covariance is the mean of products minus the product of means. Its relative error is small as long as the means
    are not much larger than the deviations, which holds for the outputs of ReLU and of convolutions of normalized
    states, the only tensors that come here.

    Args:
        x: Wide or dense tensor.
        groups: Number of groups of a wide tensor; None for a dense one.

    Returns:
        Mean ``(groups, channels)`` and covariance ``(groups, channels, channels)``.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        result: tuple[Tensor, Tensor] = _DenseMoments.apply(x) if groups is None else _WideMoments.apply(x, groups)
    return result


def _normalizer(pointwise: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Statistics of the outputs of a linear map, given the moments of its inputs.

    Returns:
        Mean and variance of the outputs, the factor that normalizes them, and the map times the covariance.
    """
    centre = torch.bmm(pointwise, mean.unsqueeze(2)).squeeze(2)
    product = torch.bmm(pointwise, covariance)
    # rounding can make the variance of a constant slightly negative
    variance = (product * pointwise).sum(2).clamp(min=0)
    return centre, variance, (variance + EPS).rsqrt(), product


class _Fold(torch.autograd.Function):
    """See ``fold``. Written by hand, because two dozen tiny nodes would cost more than the rest of a small cell."""

    @staticmethod
    def forward(
        ctx: Any, pointwise: Tensor, mean: Tensor, covariance: Tensor, scale: Tensor | None
    ) -> tuple[Tensor, ...]:
        centre, variance, rate, product = _normalizer(pointwise, mean, covariance)
        scaled = rate if scale is None else rate * scale.unsqueeze(1)
        ctx.mark_non_differentiable(centre, variance)
        ctx.set_materialize_grads(False)  # gradients of weight and bias always come, the others never
        ctx.save_for_backward(pointwise, mean, covariance, scale, centre, rate, product)
        return pointwise * scaled.unsqueeze(2), (centre * scaled).neg_(), centre, variance

    @staticmethod
    def backward(ctx: Any, grad_weight: Tensor, grad_bias: Tensor, *unused: None) -> tuple[Tensor | None, ...]:
        pointwise, mean, covariance, scale, centre, rate, product = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second differentiation, what was saved must depend on the inputs again
            centre, _, rate, product = _normalizer(pointwise, mean, covariance)
        scaled = rate if scale is None else rate * scale.unsqueeze(1)
        grad_scaled = (grad_weight * pointwise).sum(2) - grad_bias * centre
        grad_scale = None if scale is None else (grad_scaled * rate).sum(1)
        grad_centre = (grad_bias * scaled).neg().unsqueeze(2)
        # the derivative of rate = (variance + EPS) ** -0.5 is -0.5 * rate ** 3
        grad_variance = (grad_scaled * scaled * rate.square()).mul(-0.5).unsqueeze(2)
        grad_pointwise = grad_weight * scaled.unsqueeze(2) + grad_centre * mean.unsqueeze(1)
        grad_pointwise = grad_pointwise + 2 * grad_variance * product
        turned = pointwise.transpose(1, 2)
        grad_mean = torch.bmm(turned, grad_centre).squeeze(2)
        return grad_pointwise, grad_mean, torch.bmm(turned, grad_variance * pointwise), grad_scale


def fold(
    pointwise: Tensor,
    measured: Moments | None,
    running: tuple[Tensor, Tensor],
    scale: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Merge a linear map, the batch norm of its output and a factor into one affine map.

    Mean and variance of the output follow from those of the input: ``W mean`` and the diagonal of ``W covariance W'``.
    So the output itself is never needed: one pass over the input replaces three passes over the output, and as many in
    the backward pass.

    Args:
        pointwise: Linear maps W, ``(groups, outputs, channels)``.
        measured: Moments of the inputs in training; None to normalize with the running statistics.
        running: Running means and variances of the outputs, ``(groups, outputs)`` each; updated in place in training.
        scale: Factors of the outputs, ``(groups,)``, or None.

    Returns:
        Weight ``(groups, outputs, channels)`` and bias ``(groups, outputs)`` of the affine map.
    """
    with torch.autocast(pointwise.device.type, enabled=False):
        if measured is None:
            rate = (running[1] + EPS).rsqrt()
            rate = rate if scale is None else rate * scale.unsqueeze(1)
            return pointwise * rate.unsqueeze(2), -running[0] * rate
        mean, covariance, count = measured
        weight, bias, centre, variance = _Fold.apply(pointwise, mean, covariance, scale)
        with torch.no_grad():
            running[0].lerp_(centre.to(running[0].dtype), MOMENTUM)
            # running variances are unbiased, as in PyTorch's batch norm
            unbiased = variance * (count / max(count - 1, 1))
            running[1].lerp_(unbiased.to(running[1].dtype), MOMENTUM)
        return weight, bias


class _WeightPath(torch.autograd.Function):
    """The gradient of a depthwise convolution with respect to its weight, as an autograd node of its own.

    The output has the size of the convolution's output, but takes no memory. Autograd runs a node only if a gradient
    that is asked for lies behind it; if ``_Depthwise`` computed both gradients, that of the weight would be computed
    even where only gradients of alphas are asked for.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, saved: list[Tensor], stride: int, size: torch.Size) -> Tensor:
        # the convolution's input comes in a list, so that autograd does not see it as an input of this node
        ctx.save_for_backward(saved[0])
        ctx.stride = stride
        return weight.new_zeros(()).expand(size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        # oneDNN has a fast path for kernels of width 3, and two of them cover the five columns
        left = _weight_gradient(grad, F.pad(x, (2, 0)), (5, 3), ctx.stride, (2, 0))
        right = _weight_gradient(grad, F.pad(x, (0, 2)), (5, 3), ctx.stride, (2, 0))
        return torch.cat([left, right[..., 1:]], dim=3), None, None, None


def _weight_gradient(grad: Tensor, x: Tensor, kernel: tuple[int, int], stride: int, padding: tuple[int, int]) -> Tensor:
    channels = x.shape[1]
    shape = x.new_zeros(()).expand(channels, 1, *kernel)
    result: Tensor = torch.ops.aten.convolution_backward(
        grad, x, shape, None, [stride] * 2, padding, [1, 1], False, [0, 0], channels, [False, True, False]
    )[1]
    return result


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution that leaves the gradient of its weight to ``_WeightPath``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, path: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[3] // 2, 1, x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        x, weight = ctx.saved_tensors
        channels, padding = x.shape[1], weight.shape[3] // 2
        grad_x = torch.ops.aten.convolution_backward(
            grad,
            x,
            weight,
            None,
            [ctx.stride] * 2,
            [padding] * 2,
            [1, 1],
            False,
            [0, 0],
            channels,
            [True, False, False],
        )[0]
        return grad_x, None, grad, None


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Apply a depthwise convolution to a wide tensor; it keeps the size of images, or halves it at stride 2.

    Args:
        x: ``(batch, channels, height, width)``.
        weight: ``(channels, kernel * kernel)``.
        stride: 1 or 2.
        dilation: 1 or 2.
    """
    kernel = int(weight.shape[1] ** 0.5)
    weight = weight.view(-1, 1, kernel, kernel)
    plain = x.is_cuda or torch.is_autocast_enabled(x.device.type) or not torch.is_grad_enabled()
    if kernel == 5 and dilation == 1 and weight.requires_grad and not plain:
        size = torch.Size((*x.shape[:2], -(-x.shape[2] // stride), -(-x.shape[3] // stride)))
        path = _WeightPath.apply(weight, [x], stride, size)
        result: Tensor = _Depthwise.apply(x, weight, path, stride)
        return result
    return F.conv2d(x, weight, None, stride, dilation * (kernel // 2), dilation, x.shape[1])


def to_grids(x: Tensor) -> Tensor:
    """Stack the four sub-grids of every second pixel along the batch: ``(4 * batch, channels, height/2, width/2)``.

    Args:
        x: ``(batch, channels, height, width)`` with even sides.
    """
    batch, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(batch, height // 2, 2, width // 2, 2, channels)
    grids = pixels.permute(2, 4, 0, 1, 3, 5).reshape(4 * batch, height // 2, width // 2, channels)
    return grids.permute(0, 3, 1, 2)


def from_grids(x: Tensor) -> Tensor:
    """Undo ``to_grids``.

    Args:
        x: ``(4 * batch, channels, height, width)``.
    """
    batch, channels, height, width = x.shape
    grids = x.permute(0, 2, 3, 1).reshape(2, 2, batch // 4, height, width, channels)
    pixels = grids.permute(2, 3, 0, 4, 1, 5).reshape(batch // 4, 2 * height, 2 * width, channels)
    return pixels.permute(0, 3, 1, 2)


@lru_cache(maxsize=256)
def convolution_basis(
    kernel: int, stride: int, dilation: int, height: int, width: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the matrices of a depthwise convolution, one per tap: ``(kernel * kernel, pixels out * pixels in)``.

    The taps of a kernel times these matrices give the matrix from all pixels of an image to all pixels of the result.

    Args:
        kernel: Side of the kernel.
        stride: Stride of the convolution.
        dilation: Dilation of the convolution.
        height: Height of the image.
        width: Width of the image.
        dtype: Type of the numbers.
        device: Where the matrices shall be.
    """
    # what is cached must be an ordinary tensor, whatever the mode of the first call
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        images = torch.eye(height * width, dtype=dtype, device=device).view(-1, 1, height, width)
        taps = torch.eye(kernel * kernel, dtype=dtype, device=device).view(-1, 1, kernel, kernel)
        result = F.conv2d(images, taps, None, stride, dilation * (kernel // 2), dilation)  # (in, taps, ...)
        return result.flatten(2).permute(1, 2, 0).reshape(kernel * kernel, -1)


@lru_cache(maxsize=64)
def average_matrix(stride: int, height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return 3x3 average pooling as a matrix, ``(pixels out, pixels in)``; means leave the padding out.

    Args:
        stride: Stride of the pooling.
        height: Height of the image.
        width: Width of the image.
        dtype: Type of the numbers.
        device: Where the matrix shall be.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        images = torch.eye(height * width, dtype=dtype, device=device).view(-1, 1, height, width)
        return F.avg_pool2d(images, 3, stride, 1, count_include_pad=False).flatten(1).t().contiguous()


@lru_cache(maxsize=64)
def _inverse_counts(stride: int, height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """One divided by the number of pixels in each 3x3 window."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        ones = torch.ones(1, 1, height, width, dtype=dtype, device=device)
        return 1 / F.conv2d(ones, torch.ones(1, 1, 3, 3, dtype=dtype, device=device), None, stride, 1)


def average_pool(x: Tensor, stride: int) -> Tensor:
    """Apply 3x3 average pooling to a wide tensor; means leave the padding out.

    On a CPU, a convolution with ones and a table of inverse counts takes a third to two thirds of the time of PyTorch's
    pooling on large images of few channels; elsewhere PyTorch's is faster.

    Args:
        x: ``(batch, channels, height, width)``.
        stride: 1 or 2.
    """
    _, channels, height, width = x.shape
    if x.is_cuda or stride == 2 or height * width <= POOLED_PIXELS or channels >= POOLED_CHANNELS:
        return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
    counts = _inverse_counts(stride, x.shape[2], x.shape[3], x.dtype, x.device)
    return F.conv2d(x, x.new_ones(x.shape[1], 1, 3, 3), None, stride, 1, 1, x.shape[1]) * counts
