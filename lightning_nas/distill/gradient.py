"""Gradient matching."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

from lightning_nas.data.splits import derived_seed
from lightning_nas.distill.base import Batch, Matcher, Synthetic
from lightning_nas.distill.convnet import ConvNet, cached_images
from lightning_nas.distill.siamese import SiameseAugmentation
from lightning_nas.errors import ConfigError

_MOMENTUM = 0.5
"""Of the network's training, as published."""

_SMALLEST = 1e-8
"""A row of a gradient that is shorter has no direction."""


class GradientMatching(Matcher):
    """``sum over classes and weights of sum over rows of 1 - cosine(gradient on real, gradient on proxy images)``.

    The gradients are those of the cross-entropy on the images of one class. A row is what leads to one output: a filter
    of a convolution, a row of the classifier. As published, biases and the norms' parameters are not matched. The
    network is trained on the proxy after every step, and replaced by a fresh one after every ``reset_every`` steps; its
    weights are part of the state, so checkpoints hold them. Real and synthetic images of a class get the same change,
    drawn for every step and class, and the images that the network is trained on one for every step of it. (The paper
    changes each of the latter in its own way.)

    Several processes average the gradients of their real images. Everything is computed in the precision of the
    weights, also under autocast: in half precision the products of small gradients would vanish.

    References:
        1. Zhao, Mopuri, Bilen: Dataset Condensation with Gradient Matching, ICLR 2021, https://arxiv.org/abs/2006.05929
        2. Zhao, Bilen: Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021,
           https://arxiv.org/abs/2102.08259

    Args:
        width: Channels of the network (the papers: 128).
        depth: Its blocks; each halves the image (the papers: 3 at 32x32).
        network_steps: Steps of the network on all synthetic images after a matching step, from 0 (the papers: 50 with
            10 images a class, 10 with 50; none with 1).
        reset_every: Matching steps with one network, at least 1 (the papers: 10 with 10 images a class, 50 with 50; 1
            with 1).
        network_lr: Learning rate of the network (the papers: 0.01), whose momentum is 0.5.
        augmentation: Of real and synthetic images alike; none if null.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 3,
        network_steps: int = 50,
        reset_every: int = 10,
        network_lr: float = 0.01,
        augmentation: SiameseAugmentation | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or depth < 1 or network_steps < 0:
            raise ConfigError(
                f"width is {width}, depth is {depth} and network_steps is {network_steps}; they must be at least 1, 1 "
                "and 0."
            )
        if reset_every < 1 or network_lr <= 0:
            raise ConfigError(
                f"reset_every is {reset_every} and network_lr is {network_lr}; they must be at least 1 and above 0."
            )
        self.width = width
        self.depth = depth
        self.network_steps = network_steps
        self.reset_every = reset_every
        self.network_lr = network_lr
        self.augmentation = augmentation

    def start(self, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> None:
        """Make the network; see ``Matcher.start``."""
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.network = self._fresh(seed)
        self.velocity = copy.deepcopy(self.network)
        for value in self.velocity.parameters():
            value.zero_()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def _fresh(self, seed: int) -> ConvNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return ConvNet(self.image_shape, self.num_classes, self.width, self.depth).requires_grad_(False)

    def loss(self, real: Batch, draw: Callable[[int], Synthetic], seed: int) -> Tensor:
        """The distance; see ``Matcher.loss``.

        Its gradient with respect to what is drawn is made here, class by class, so that what one class needs is in
        memory at a time; what is returned carries it on to the scheme.
        """
        synthetic = draw(seed)
        derivatives = Derivatives(self.network)
        answers = self._answers(synthetic, derivatives)
        loss = answers.new_zeros(())
        for c in synthetic.labels.unique().tolist():
            own, change = synthetic.labels == c, derived_seed(seed, "class", c)
            reals = self._changed(real[0][real[1] == c], change, derivatives)
            images, rows = self._changed(synthetic.images[own], change, derivatives), answers[own]
            with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
                target = _averaged(derivatives.mean_gradients(reals, self._one_hot(c, answers)))
                found = derivatives.distance(images, rows, target, images.requires_grad or rows.requires_grad)
            loss = loss + found.value
            if found.images is not None and found.answers is not None:
                # zeros, with the gradients that were made
                loss = loss + ((images - images.detach()) * found.images).sum()
                loss = loss + ((rows - rows.detach()) * found.answers).sum()
        return loss

    def advance(self, draw: Callable[[int], Synthetic], seed: int) -> None:
        """Train the network on the proxy, or replace it by a fresh one; see ``Matcher.advance``."""
        steps = self.get_buffer("steps")
        steps += 1
        if int(steps) % self.reset_every == 0:
            fresh = self._fresh(derived_seed(seed, "network"))
            for own, new in zip(self.network.parameters(), fresh.parameters(), strict=True):
                own.copy_(new)
            for velocity in self.velocity.parameters():
                velocity.zero_()
            return
        derivatives, velocities = Derivatives(self.network), Derivatives(self.velocity)
        for k in range(self.network_steps):
            turn = derived_seed(seed, "train", k)
            synthetic = draw(turn)
            answers = self._answers(synthetic, derivatives)
            images = self._changed(synthetic.images, turn, derivatives)
            with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
                gradients = derivatives.mean_gradients(images, answers, every=True)
                for w, v, g in zip(derivatives.trained, velocities.trained, gradients, strict=True):
                    v.mul_(_MOMENTUM).add_(g)
                    w.sub_(v, alpha=self.network_lr)

    def _changed(self, images: Tensor, seed: int, derivatives: "Derivatives") -> Tensor:
        return (images if self.augmentation is None else self.augmentation(images, seed)).to(derivatives.like.dtype)

    def _answers(self, synthetic: Synthetic, derivatives: "Derivatives") -> Tensor:
        """Probabilities, ``(n, classes)``."""
        hard = F.one_hot(synthetic.labels, self.num_classes)
        return (hard if synthetic.targets is None else synthetic.targets).to(derivatives.like.dtype)

    def _one_hot(self, label: int, like: Tensor) -> Tensor:
        return F.one_hot(torch.tensor([label], device=like.device), self.num_classes).to(like.dtype)


def _averaged(gradients: list[Tensor]) -> list[Tensor]:
    """The mean over all processes, which have the same number of real images of the class."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        flat = torch.cat([g.flatten() for g in gradients])
        torch.distributed.all_reduce(flat)
        flat /= torch.distributed.get_world_size()
        parts = flat.split([g.numel() for g in gradients])
        return [part.view(g.shape) for part, g in zip(parts, gradients, strict=True)]
    return gradients


def directions(found: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The distance between two gradients of a weight, and its derivative with respect to the first.

    Args:
        found: Rows are along the first dimension.
        target: The same shape.

    Returns:
        The sum over rows of ``1 - cosine``, which is exactly 0 for equal gradients, and a tensor of the shape of
        ``found``; a row of zeros where ``found`` has no direction.
    """
    a, b = found.flatten(1), target.flatten(1)
    length = torch.linalg.vector_norm(a, dim=1, keepdim=True)
    a, b = F.normalize(a, eps=_SMALLEST), F.normalize(b, eps=_SMALLEST)
    slope = ((a * b).sum(1, keepdim=True) * a - b) / length.clamp(min=_SMALLEST)
    slope = slope.masked_fill(length < _SMALLEST, 0.0)
    return (a - b).square().sum() / 2, slope.view(found.shape)


class Found(NamedTuple):
    """A distance, and its gradients if they were asked for."""

    value: Tensor
    images: Tensor | None = None
    answers: Tensor | None = None


class _Slope(NamedTuple):
    """Derivatives at a convolution's output, and their mean along its instance norm, an image and channel."""

    values: Tensor
    along: Tensor


class _Block(NamedTuple):
    """What the forward pass leaves of a block.

    The instance norm of its convolution's output is ``centred * scale``; ``outputs`` come after the ReLU.
    """

    inputs: Tensor
    centred: Tensor
    scale: Tensor
    outputs: Tensor

    def passed(self, x: Tensor) -> Tensor:
        """What passes the ReLU."""
        kept: Tensor = torch.ops.aten.threshold_backward(x, self.outputs, 0)  # a fraction of torch.where's time
        return kept

    def project(self, x: Tensor, factors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The derivative of the instance norm, which is symmetric, times a tensor; and the mean of that along the norm.

        Args:
            x: What is multiplied.
            factors: Of its channels; ones by default.
        """
        scale = self.scale if factors is None else self.scale * _channels(factors)
        along = scale * _mean(x * self.centred)
        projected = torch.addcmul(-scale * _mean(x), x, scale)
        return projected.addcmul_(self.centred, -self.scale.square() * along), along


def _mean(x: Tensor) -> Tensor:
    """Over the places of an image."""
    return x.mean((2, 3), keepdim=True)


class Derivatives:
    """First and second derivatives of a ConvNet's cross-entropy, written out.

    Autograd finds the same values, and with them what nobody asks for: the second derivatives with respect to the
    weights. The gradient of ``turn . dL/dweights`` with respect to the images takes one pass forward, in which all
    values get the slope that they have when the weights move along ``turn``, and one pass backward; the slopes that the
    backward pass of ``dL/dweights`` found are used again. The convolutions' biases are left out: the norm takes them
    away, so that their gradient is 0.

    Attributes:
        matched: Weights of the convolutions and of the classifier.
        trained: The same, then the classifier's bias, then weight and bias of every norm.
        like: One of them, for its type and device.
    """

    def __init__(self, network: ConvNet) -> None:
        on_cpu = network.classifier.weight.device.type == "cpu"
        # there, pooling takes ten times as long in the other format, and convolutions a fifth more
        self.format = torch.channels_last if on_cpu else torch.contiguous_format
        network.to(memory_format=self.format)
        self.convolutions = [m.weight for m in network.features if isinstance(m, nn.Conv2d)]
        self.norms = [m for m in network.features if isinstance(m, nn.GroupNorm)]
        self.classifier = network.classifier
        self.like = self.classifier.weight
        self.matched = [*self.convolutions, self.like]
        affine = [p for norm in self.norms for p in (norm.weight, norm.bias)]
        self.trained = [*self.matched, self.classifier.bias, *affine]

    def mean_gradients(self, images: Tensor, answers: Tensor, every: bool = False) -> list[Tensor]:
        """The gradient of the mean cross-entropy.

        Args:
            images: ``(n, channels, height, width)``.
            answers: Probabilities, ``(n, classes)``, or ``(1, classes)`` for all images alike.
            every: With respect to ``trained`` instead of ``matched``.
        """
        total: list[Tensor] = []
        chunk = cached_images(images, len(self.convolutions[0]))
        for x, y in zip(images.split(chunk), answers.expand(len(images), -1).split(chunk), strict=True):
            blocks, features = self._forward(x)
            errors = (self._shares(features) * y.sum(1, keepdim=True) - y) / len(images)
            gradients, _ = self._backward(blocks, features, errors, every)
            total = [a.add_(g) for a, g in zip(total, gradients, strict=True)] if total else gradients
        return total

    def distance(self, images: Tensor, answers: Tensor, target: list[Tensor], differentiate: bool = True) -> Found:
        """The distance of the gradient of the mean cross-entropy from another gradient.

        Args:
            images: ``(n, channels, height, width)``.
            answers: Probabilities, ``(n, classes)``.
            target: A tensor for each of ``matched``.
            differentiate: Whether to return the gradients with respect to ``images`` and ``answers``.
        """
        blocks, features = self._forward(images)
        shares, mass = self._shares(features), answers.sum(1, keepdim=True)
        errors = (shares * mass - answers) / len(images)
        gradients, slopes = self._backward(blocks, features, errors)
        pairs = [directions(g, t) for g, t in zip(gradients, target, strict=True)]
        value = torch.stack([d for d, _ in pairs]).sum()
        if not differentiate:
            return Found(value)
        *turns, last = [turn for _, turn in pairs]
        moved, moves = self._move(blocks, slopes, turns)
        logits = moved.flatten(1) @ self.like.t() + features.flatten(1) @ last.t()
        logits -= (shares * logits).sum(1, keepdim=True)
        bent = shares * logits * mass / len(images)
        gradient = (bent @ self.like + errors @ last).view(features.shape)
        return Found(value, self._bend(blocks, slopes, turns, moves, gradient), -logits / len(images))

    def _shares(self, features: Tensor) -> Tensor:
        """Probabilities of the classes."""
        logits: Tensor = self.classifier(features.flatten(1))
        return logits.softmax(1)

    def _forward(self, x: Tensor) -> tuple[list[_Block], Tensor]:
        """Blocks, and what the last one gives."""
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
        """Back through pooling and ReLU."""
        height, width = block.outputs.shape[2:]
        spread = F.interpolate((gradient / 4).contiguous(memory_format=self.format), scale_factor=2)
        if height % 2 or width % 2:  # pooling has left out the last ones
            spread = F.pad(spread, (0, width % 2, 0, height % 2))
        return block.passed(spread)

    def _backward(
        self, blocks: list[_Block], features: Tensor, errors: Tensor, every: bool = False
    ) -> tuple[list[Tensor], list[_Slope]]:
        """The gradient with respect to ``matched`` or ``trained``, and slopes block by block.

        Args:
            blocks: From the forward pass.
            features: Likewise.
            errors: Gradient of the logits.
            every: With respect to ``trained``.
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
        """How features move when the convolutions' weights move along ``turns``, and what the way back needs."""
        moved: Tensor | None = None  # images stay
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
        """From the gradient with respect to features to that with respect to images."""
        for i in range(len(blocks) - 1, -1, -1):
            block, slope, (moved, both) = blocks[i], slopes[i], moves[i]
            back, _ = block.project(self._unpooled(gradient, block), self.norms[i].weight)
            # the derivative of the norm changes with its input, too
            back.addcmul_(block.centred, -both * block.scale.square())
            back.addcmul_(slope.values, -moved.along * block.scale)
            back.addcmul_(moved.values, -slope.along * block.scale)
            gradient = conv2d_input(list(block.inputs.shape), self.convolutions[i], back, padding=1)
            gradient += conv2d_input(list(block.inputs.shape), turns[i], slope.values, padding=1)
        return gradient


def _channels(values: Tensor) -> Tensor:
    return values[:, None, None]
