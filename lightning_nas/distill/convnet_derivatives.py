"""Derivatives of a ``ConvNet`` that gradient matching needs, derived by hand."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

from lightning_nas.distill.convnet import ConvNet, cached_images

_SMALLEST = 1e-8
"""Length below which a row of a gradient has no direction."""


def directions(found: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the distance between two gradients of a weight, and its derivative with respect to the first.

    Args:
        found: The first gradient. Rows are along its first dimension.
        target: The second gradient, of the same shape.

    Returns:
        The sum over rows of ``1 - cosine``, which is exactly 0 for equal gradients, and its derivative, of the shape of
        ``found``. The derivative of a row is zero where ``found`` has no direction.
    """
    a, b = found.flatten(1), target.flatten(1)
    length = torch.linalg.vector_norm(a, dim=1, keepdim=True)
    a, b = F.normalize(a, eps=_SMALLEST), F.normalize(b, eps=_SMALLEST)
    slope = ((a * b).sum(1, keepdim=True) * a - b) / length.clamp(min=_SMALLEST)
    slope = slope.masked_fill(length < _SMALLEST, 0.0)
    return (a - b).square().sum() / 2, slope.view(found.shape)


class Distance(NamedTuple):
    """A distance, and its gradients if they were asked for.

    Attributes:
        value: The distance, a scalar.
        images: Gradient with respect to the images, or None.
        targets: Gradient with respect to the targets, or None.
    """

    value: Tensor
    images: Tensor | None = None
    targets: Tensor | None = None


class _Slope(NamedTuple):
    """Derivatives at the output of a convolution, and their component along the normalized output.

    Attributes:
        values: ``(n, channels, height, width)``.
        along: For each image and channel, ``(n, channels, 1, 1)``; see ``_Block.project``.
    """

    values: Tensor
    along: Tensor


class _Block(NamedTuple):
    """What the forward pass keeps of a block.

    Attributes:
        inputs: Input of the convolution.
        centred: Output of the convolution minus its mean over the pixels of each image.
        scale: Reciprocal of its standard deviation, ``(n, channels, 1, 1)``. The instance norm is ``centred * scale``.
        outputs: Output of the ReLU.
    """

    inputs: Tensor
    centred: Tensor
    scale: Tensor
    outputs: Tensor

    def passed(self, x: Tensor) -> Tensor:
        """Return ``x`` where the ReLU was active, and zero elsewhere."""
        # takes a fraction of the time of torch.where
        kept: Tensor = torch.ops.aten.threshold_backward(x, self.outputs, 0)
        return kept

    def project(self, x: Tensor, factors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Multiply a tensor by the derivative of the instance norm, which is symmetric.

        With y the normalized values, this is ``scale * (x - mean(x) - y * mean(x * y))`` per image and channel.

        Args:
            x: The tensor, ``(n, channels, height, width)``.
            factors: Factors of its channels, ``(channels,)``; ones if None.

        Returns:
            The product, and ``mean(x * y)``, ``(n, channels, 1, 1)``, both times the factors.
        """
        scale = self.scale if factors is None else self.scale * _channels(factors)
        along = scale * _mean(x * self.centred)
        projected = torch.addcmul(-scale * _mean(x), x, scale)
        return projected.addcmul_(self.centred, -self.scale.square() * along), along


def _mean(x: Tensor) -> Tensor:
    """Average over the pixels of each image."""
    return x.mean((2, 3), keepdim=True)


class Derivatives:
    """First and second derivatives of the cross-entropy of a ``ConvNet``, derived by hand.

    Autograd finds the same values, but also computes second derivatives with respect to the weights, which are
    not needed: ``benchmarks/distill_speed.py`` measures what that costs. Here, the gradient of ``turn . dL/dweights``
    with respect to the images takes two passes. The forward pass computes how all values change when the weights move
    along ``turn``. The backward pass reuses the derivatives that the backward pass of ``dL/dweights`` found. The biases
    of the convolutions are left out: instance norm subtracts them, so that their gradients are 0.

    Args:
        network: The network. Only the memory format of its weights is changed.

    Attributes:
        matched: Weights of the convolutions and of the classifier.
        trained: The same, then the classifier's bias, then weight and bias of every norm.
        like: One of the weights, for its type and device.
    """

    def __init__(self, network: ConvNet) -> None:
        on_cpu = network.classifier.weight.device.type == "cpu"
        # on a CPU, pooling takes ten times as long in the other format, and convolutions a fifth longer
        self.format = torch.channels_last if on_cpu else torch.contiguous_format
        network.to(memory_format=self.format)
        self.convolutions = [m.weight for m in network.features if isinstance(m, nn.Conv2d)]
        self.norms = [m for m in network.features if isinstance(m, nn.GroupNorm)]
        self.classifier = network.classifier
        self.like = self.classifier.weight
        self.matched = [*self.convolutions, self.like]
        affine = [p for norm in self.norms for p in (norm.weight, norm.bias)]
        self.trained = [*self.matched, self.classifier.bias, *affine]

    def mean_gradients(self, images: Tensor, targets: Tensor, every: bool = False) -> list[Tensor]:
        """Compute the gradient of the mean cross-entropy.

        Args:
            images: ``(n, channels, height, width)``.
            targets: Probabilities of the classes, ``(n, classes)``, or ``(1, classes)`` for all images alike.
            every: Whether to differentiate with respect to ``trained`` instead of ``matched``.

        Returns:
            One tensor per weight.
        """
        total: list[Tensor] = []
        chunk = cached_images(images, len(self.convolutions[0]))
        for x, y in zip(images.split(chunk), targets.expand(len(images), -1).split(chunk), strict=True):
            blocks, features = self._forward(x)
            errors = (self._shares(features) * y.sum(1, keepdim=True) - y) / len(images)
            gradients, _ = self._backward(blocks, features, errors, every)
            total = [a.add_(g) for a, g in zip(total, gradients, strict=True)] if total else gradients
        return total

    def distance(self, images: Tensor, targets: Tensor, gradient: list[Tensor], differentiate: bool = True) -> Distance:
        """Compute the distance between the gradient of the mean cross-entropy and another gradient.

        Args:
            images: ``(n, channels, height, width)``.
            targets: Probabilities of the classes, ``(n, classes)``.
            gradient: The other gradient, one tensor for each of ``matched``.
            differentiate: Whether to compute the gradients with respect to ``images`` and ``targets``.
        """
        blocks, features = self._forward(images)
        shares, mass = self._shares(features), targets.sum(1, keepdim=True)
        errors = (shares * mass - targets) / len(images)
        gradients, slopes = self._backward(blocks, features, errors)
        pairs = [directions(g, t) for g, t in zip(gradients, gradient, strict=True)]
        value = torch.stack([d for d, _ in pairs]).sum()
        if not differentiate:
            return Distance(value)
        *turns, last = [turn for _, turn in pairs]
        moved, moves = self._move(blocks, slopes, turns)
        logits = moved.flatten(1) @ self.like.t() + features.flatten(1) @ last.t()
        logits -= (shares * logits).sum(1, keepdim=True)
        bent = shares * logits * mass / len(images)
        at_features = (bent @ self.like + errors @ last).view(features.shape)
        return Distance(value, self._bend(blocks, slopes, turns, moves, at_features), -logits / len(images))

    def _shares(self, features: Tensor) -> Tensor:
        """Return the probabilities of the classes."""
        logits: Tensor = self.classifier(features.flatten(1))
        return logits.softmax(1)

    def _forward(self, x: Tensor) -> tuple[list[_Block], Tensor]:
        """Return the blocks, and the output of the last one."""
        blocks = []
        x = x.contiguous(memory_format=self.format)
        for weight, norm in zip(self.convolutions, self.norms, strict=True):
            centred = F.conv2d(x, weight, padding=1)
            centred -= _mean(centred)
            scale = (_mean(centred.square()) + norm.eps).rsqrt()
            outputs = torch.addcmul(_channels(norm.bias), centred, scale * _channels(norm.weight)).relu_()
            blocks.append(_Block(x, centred, scale, outputs))
            x = F.avg_pool2d(outputs, 2)
        return blocks, x

    def _unpooled(self, gradient: Tensor, block: _Block) -> Tensor:
        """Pass a gradient back through pooling and ReLU."""
        height, width = block.outputs.shape[2:]
        spread = F.interpolate((gradient / 4).contiguous(memory_format=self.format), scale_factor=2)
        if height % 2 or width % 2:  # pooling leaves out the last row or column
            spread = F.pad(spread, (0, width % 2, 0, height % 2))
        return block.passed(spread)

    def _backward(
        self, blocks: list[_Block], features: Tensor, errors: Tensor, every: bool = False
    ) -> tuple[list[Tensor], list[_Slope]]:
        """Compute the gradient with respect to ``matched`` or ``trained``, and the derivatives at each block.

        Args:
            blocks: Blocks of the forward pass.
            features: Output of the last block.
            errors: Gradient with respect to the logits.
            every: Whether to differentiate with respect to ``trained``.
        """
        weights, affine, slopes = [errors.t() @ features.flatten(1)], list[Tensor](), list[_Slope]()
        gradient = (errors @ self.like).view(features.shape)
        for i in range(len(blocks) - 1, -1, -1):
            block, weight = blocks[i], self.convolutions[i]
            after = self._unpooled(gradient, block)
            slope = _Slope(*block.project(after, self.norms[i].weight))
            slopes.insert(0, slope)
            if every:
                affine = [(after * block.centred * block.scale).sum((0, 2, 3)), after.sum((0, 2, 3)), *affine]
            weights.insert(0, conv2d_weight(block.inputs, list(weight.shape), slope.values, padding=1))
            if i:
                gradient = conv2d_input(list(block.inputs.shape), weight, slope.values, padding=1)
        return [*weights, *([errors.sum(0), *affine] if every else [])], slopes

    def _move(
        self, blocks: list[_Block], slopes: list[_Slope], turns: list[Tensor]
    ) -> tuple[Tensor, list[tuple[_Slope, Tensor]]]:
        """Compute how the features change when the convolutions move along ``turns``, and what the way back needs."""
        moved: Tensor | None = None  # the images do not move
        moves = []
        for block, slope, weight, norm, turn in zip(blocks, slopes, self.convolutions, self.norms, turns, strict=True):
            move = F.conv2d(block.inputs, turn, padding=1)
            if moved is not None:
                move += F.conv2d(moved, weight, padding=1)
            projected = _Slope(*block.project(move))
            moves.append((projected, _mean(move * slope.values)))
            moved = F.avg_pool2d(block.passed(projected.values), 2) * _channels(norm.weight)
        assert moved is not None
        return moved, moves

    def _bend(
        self,
        blocks: list[_Block],
        slopes: list[_Slope],
        turns: list[Tensor],
        moves: list[tuple[_Slope, Tensor]],
        gradient: Tensor,
    ) -> Tensor:
        """Turn the gradient with respect to the features into that with respect to the images."""
        for i in range(len(blocks) - 1, -1, -1):
            block, slope, (moved, both) = blocks[i], slopes[i], moves[i]
            back, _ = block.project(self._unpooled(gradient, block), self.norms[i].weight)
            # the derivative of the norm changes with its input as well
            back.addcmul_(block.centred, -both * block.scale.square())
            back.addcmul_(slope.values, -moved.along * block.scale)
            back.addcmul_(moved.values, -slope.along * block.scale)
            gradient = conv2d_input(list(block.inputs.shape), self.convolutions[i], back, padding=1)
            gradient += conv2d_input(list(block.inputs.shape), turns[i], slope.values, padding=1)
        return gradient


def _channels(values: Tensor) -> Tensor:
    return values[:, None, None]
