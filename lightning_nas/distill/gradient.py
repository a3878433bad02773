"""Gradient matching."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.checks import at_least, greater_than
from lightning_nas.data.sets import Batch
from lightning_nas.data.splits import derived_seed
from lightning_nas.distill.base import Matcher, Synthetic
from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.convnet_derivatives import Derivatives
from lightning_nas.distill.siamese import SiameseAugmentation

_MOMENTUM = 0.5
"""Momentum of the network's training, as published."""


class GradientMatching(Matcher):
    """Matches the gradients that real and synthetic images give a network's weights.

    The distance is

        sum over classes, weights and rows of 1 - cos(gradient on real images, gradient on proxy images)

    where gradients are those of the cross-entropy on the images of one class. A row is everything that leads to one
    output: a filter of a convolution, a row of the classifier. As published, biases and the parameters of norms are not
    matched. After every step the network, a ``ConvNet``, is trained on the proxy; after every ``reset_every`` steps it
    is replaced by a new one. Its weights are buffers, so that checkpoints contain them.

    Real and synthetic images of a class get the same augmentation, drawn for each step and class. Images that the
    network is trained on get one augmentation per training step, where the paper draws one per image.

    Several processes average the gradients of their real images. Everything is computed in the precision of the
    weights, even under autocast: in half precision, products of small gradients would vanish.

    References:
        1. Zhao, Mopuri, Bilen: Dataset Condensation with Gradient Matching, ICLR 2021, https://arxiv.org/abs/2006.05929
        2. Zhao, Bilen: Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021,
           https://arxiv.org/abs/2102.08259

    Args:
        width: Channels of the network, at least 1 (the papers: 128).
        depth: Blocks of the network, at least 1; each halves the image (the papers: 3 at 32x32).
        network_steps: Training steps of the network, on all synthetic images, after each matching step, at least 0 (the
            papers: 0, 50 and 10 for 1, 10 and 50 images per class).
        reset_every: Matching steps with one network, at least 1 (the papers: 1, 10 and 50 for 1, 10 and 50 images per
            class).
        network_lr: Learning rate of the network, above 0 (the papers: 0.01). Its momentum is 0.5, as published.
        augmentation: Change that real and synthetic images get alike; none if null.

    Raises:
        ConfigError: An argument is out of its range.

    Example:
        ```yaml
        matcher:
          class_path: GradientMatching
          init_args:
            network_steps: 50
            reset_every: 10
            augmentation:
              class_path: SiameseAugmentation
        ```
    """

    def __init__(
        self,
        width: int = 128,
        *,
        depth: int = 3,
        network_steps: int = 50,
        reset_every: int = 10,
        network_lr: float = 0.01,
        augmentation: SiameseAugmentation | None = None,
    ) -> None:
        super().__init__()
        at_least(1, width=width, depth=depth, reset_every=reset_every)
        at_least(0, network_steps=network_steps)
        greater_than(0, network_lr=network_lr)
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
        """Compute the distance; see ``Matcher.loss``.

        Its gradient with respect to the drawn images and labels is computed here, class by class, so that only one
        class at a time takes memory. The returned scalar passes it on to the scheme.
        """
        synthetic = draw(seed)
        derivatives = Derivatives(self.network)
        targets = self._targets(synthetic, derivatives)
        loss = targets.new_zeros(())
        for c in synthetic.labels.unique().tolist():
            own, change = synthetic.labels == c, derived_seed(seed, "class", c)
            reals = self._changed(real[0][real[1] == c], change, derivatives)
            images, rows = self._changed(synthetic.images[own], change, derivatives), targets[own]
            with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
                wanted = _averaged(derivatives.mean_gradients(reals, self._one_hot(c, targets)))
                found = derivatives.distance(images, rows, wanted, images.requires_grad or rows.requires_grad)
            loss = loss + found.value
            if found.images is not None and found.targets is not None:
                # these terms are zero and have the gradients that were computed above
                loss = loss + ((images - images.detach()) * found.images).sum()
                loss = loss + ((rows - rows.detach()) * found.targets).sum()
        return loss

    def advance(self, draw: Callable[[int], Synthetic], seed: int) -> None:
        """Train the network on the proxy, or replace it by a new one; see ``Matcher.advance``."""
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
            targets = self._targets(synthetic, derivatives)
            images = self._changed(synthetic.images, turn, derivatives)
            with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
                gradients = derivatives.mean_gradients(images, targets, every=True)
                for w, v, g in zip(derivatives.trained, velocities.trained, gradients, strict=True):
                    v.mul_(_MOMENTUM).add_(g)
                    w.sub_(v, alpha=self.network_lr)

    def _changed(self, images: Tensor, seed: int, derivatives: Derivatives) -> Tensor:
        return (images if self.augmentation is None else self.augmentation(images, seed)).to(derivatives.like.dtype)

    def _targets(self, synthetic: Synthetic, derivatives: Derivatives) -> Tensor:
        """Return the probabilities of the classes that the network should give, ``(n, classes)``."""
        hard = F.one_hot(synthetic.labels, self.num_classes)
        return (hard if synthetic.soft_labels is None else synthetic.soft_labels).to(derivatives.like.dtype)

    def _one_hot(self, label: int, like: Tensor) -> Tensor:
        return F.one_hot(torch.tensor([label]).to(like.device, non_blocking=True), self.num_classes).to(like.dtype)


def _averaged(gradients: list[Tensor]) -> list[Tensor]:
    """Average over all processes, which have the same number of real images of the class."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        flat = torch.cat([g.flatten() for g in gradients])
        torch.distributed.all_reduce(flat)
        flat /= torch.distributed.get_world_size()
        parts = flat.split([g.numel() for g in gradients])
        return [part.view(g.shape) for part, g in zip(parts, gradients, strict=True)]
    return gradients
