"""Kernel of fused edges for small images, where the number of calls decides the speed."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.spaces.darts.edge_weights import ConvolutionKind, EdgeSlice, EdgeWeights
from lightning_nas.spaces.darts.kernel_base import EdgeKernel
from lightning_nas.spaces.darts.rectangles import take
from lightning_nas.spaces.kernels import Moments, average_matrix, convolution_basis, moments
from lightning_nas.spaces.operations import AveragePooling


class DenseKernel(EdgeKernel):
    """Computes everything as batched matrix products over ``(channels, pixels * batch)``.

    A depthwise convolution is a matrix from all pixels of the input to all pixels of the output, so that one product
    computes all targets and kinds of convolution of one channel. N below is the number of output pixels times B.
    """

    def __init__(self, weights: EdgeWeights, states: Sequence[Tensor], skip_dropout: float = 0.0) -> None:
        super().__init__(weights, states, skip_dropout)
        pixels = [s.permute(1, 2, 3, 0).reshape(weights.channels, -1, self.batch) for s in states]
        # (S, C, H * W, B)
        self.x = pixels[0].unsqueeze(0).contiguous() if len(pixels) == 1 else torch.stack(pixels)
        self.columns = self.height_out * self.width_out * self.batch

    @property
    def one_by_one(self) -> bool:
        """See ``EdgeKernel``: all targets go together."""
        return False

    def prepare(self, weighted: bool) -> None:
        """See ``EdgeKernel``."""
        if weighted:
            self.relu = self.x.relu()
            if self.weights.reduces:
                self.halves = self._halves(self.relu)

    def _matrices(self, weight: Tensor, kinds: Sequence[ConvolutionKind], stride: int, dim: int) -> Tensor:
        """The convolutions as matrices, ``(..., pixels out * pixels in)``, stacked in dimension ``dim``."""
        size = (self.height, self.width) if stride == 2 else (self.height_out, self.width_out)
        parts = weight.split([k.taps for k in kinds], dim=-1)
        bases = [convolution_basis(k.kernel, stride, k.dilation, *size, weight.dtype, weight.device) for k in kinds]
        return torch.stack([part.contiguous() @ basis for part, basis in zip(parts, bases, strict=True)], dim=dim)

    def convolve(self, part: EdgeSlice) -> Tensor:
        """See ``EdgeKernel``; ``(T, K, S, C, N)``."""
        weights = self.weights
        t, k, s, c = len(part.targets), len(part.kinds), len(part.sources), weights.channels
        pixels, pixels_in = self.height_out * self.width_out, self.height * self.width
        kernels = part.weights["depthwise_1"].permute(1, 2, 0, 3).reshape(s * c, t, -1)
        first = self._matrices(kernels, part.kinds, weights.stride, 2)
        # all targets and kinds of one channel of a state in one matrix product
        relu = take(self.relu, 0, part.sources).reshape(s * c, pixels_in, self.batch)
        d = torch.bmm(first.view(s * c, t * k * pixels, pixels_in), relu)
        d = d.view(s, c, t, k, self.columns).permute(2, 3, 0, 1, 4)
        n = part.separable
        if not n:
            return d.contiguous()
        separable, dilated = d.split([n, k - n], dim=1)
        inner = separable.reshape(t * n * s, c, self.columns)
        measured = (*moments(inner, None), self.columns) if self.training else None
        weight, bias = self.fold(part, "1", part.weights["pointwise_1"], measured, None)
        y = torch.baddbmm(bias.view(-1, c, 1), weight.view(-1, c, c), inner).relu_()
        second = self._matrices(part.weights["depthwise_2"].reshape(t, s * c, -1), part.kinds[:n], 1, 1)
        y = torch.bmm(second.view(-1, pixels, pixels), y.view(-1, pixels, self.batch))
        y = y.view(t, n, s, c, self.columns)
        return y if n == k else torch.cat([y, dilated.to(y.dtype)], dim=1)

    def compute_free(self, columns: Sequence[int]) -> Tensor | None:
        """See ``EdgeKernel``; ``(operations, S, C, N)``."""
        weights = self.weights
        operations = weights.operations
        pools = [c for c in columns if c in weights.pools]
        flat = self.x.flatten(0, 1)
        parts = []
        for column in pools:
            if isinstance(operations[column], AveragePooling):
                matrix = average_matrix(weights.stride, self.height, self.width, flat.dtype, flat.device)
                parts.append(torch.matmul(matrix, flat))
            else:
                # (channels, pixels, batch) in memory is a channels_last image with the samples as channels
                images = flat.view(-1, self.height, self.width, self.batch).permute(0, 3, 1, 2)
                parts.append(F.max_pool2d(images, 3, weights.stride, 1).permute(0, 2, 3, 1).flatten(1, 2))
        shape = (-1, weights.sources, weights.channels, self.columns)
        free = []
        if parts:
            free.append(self.normalize_pools(torch.cat(parts).view(1, -1, self.columns), pools).view(shape))
        if any(operations[c].is_random for c in columns):
            free.append(torch.randn((1, *shape[1:]), dtype=flat.dtype, device=flat.device))
        if any(operations[c].is_skip for c in columns):
            free.append(self.passed_by_skips().view(shape))
        return torch.cat(free) if len(free) > 1 else free[0] if free else None

    def _halves(self, relu: Tensor) -> Tensor:
        """Every second pixel, and every second pixel shifted by one, as channels: ``(S, 2 * C, N)``."""
        images = relu.unflatten(2, (self.height, self.width))
        # after the shift, an odd side lacks one pixel
        shifted = F.pad(images, (0, 0, 0, self.width % 2, 0, self.height % 2))[:, :, 1::2, 1::2]
        return torch.cat([images[:, :, ::2, ::2], shifted], dim=1).flatten(2)

    def measure(self, part: EdgeSlice, inputs: Tensor) -> Moments:
        """See ``EdgeKernel``."""
        return *moments(inputs.flatten(0, 2), None), self.columns

    def measure_halves(self, part: EdgeSlice) -> Moments:
        """See ``EdgeKernel``."""
        mean, covariance = moments(take(self.halves, 0, part.sources), None)
        return mean.repeat(len(part.targets), 1), covariance.repeat(len(part.targets), 1, 1), self.columns

    def project(self, part: EdgeSlice, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """See ``EdgeKernel``."""
        weight = weight.permute(0, 3, 1, 2, 4).flatten(2)  # (T, out, K * S * C)
        return torch.baddbmm(bias.unsqueeze(2), weight, inputs.flatten(1, 3))

    def project_halves(self, part: EdgeSlice, weight: Tensor, bias: Tensor, total: Tensor | None) -> Tensor:
        """See ``EdgeKernel``."""
        halves = take(self.halves, 0, part.sources)
        weight = weight.transpose(1, 2).flatten(2)  # (T, out, S * 2 * C)
        y = (weight.flatten(0, 1) @ halves.flatten(0, 1)).view(*weight.shape[:2], -1) + bias.unsqueeze(2)
        return y if total is None else total + y

    def add_free(self, factors: Tensor, total: Tensor | None) -> Tensor:
        """See ``EdgeKernel``."""
        assert self.free is not None
        y = (factors @ self.free.flatten(0, 1).flatten(1)).view(-1, self.weights.channels, self.columns)
        return y if total is None else total + y

    def unstack(self, y: Tensor, targets: int) -> Sequence[Tensor]:
        """See ``EdgeKernel``."""
        return y.unbind()

    def stack(self, pieces: list[Tensor]) -> Tensor:
        """See ``EdgeKernel``."""
        return torch.stack(pieces)

    def finish(self, total: Tensor | None, targets: int) -> Tensor:
        """See ``EdgeKernel``."""
        if total is None:
            total = self.x.new_zeros(targets, self.weights.channels, self.columns)
        images = total.reshape(-1, self.height_out, self.width_out, self.batch)
        return images.permute(3, 0, 1, 2)
