"""The convolutional network of the dataset distillation literature."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.checks import at_least
from lightning_nas.errors import DataError

CACHE_BYTES = 2**23
"""Size of the widest tensor that is efficient on a CPU. A few of these fit into its cache; the memory of larger ones is
mapped anew each time."""


class ConvNet(nn.Module):
    """``depth`` blocks of 3x3 convolution, instance norm, ReLU and 2x2 average pooling, then a linear classifier.

    References:
        1. Gidaris, Komodakis: Dynamic Few-Shot Visual Learning without Forgetting, CVPR 2018,
           https://arxiv.org/abs/1804.09458

    Args:
        image_shape: ``(channels, height, width)``; height and width must be at least ``2 ** depth``.
        num_classes: Number of classes.
        width: Channels of every block (the field: 128).
        depth: Number of blocks; each halves the image (the field: 3 at 32x32).

    Raises:
        ConfigError: ``width`` or ``depth`` is below 1.
        DataError: The images are too small for the poolings.

    Example:
        ```yaml
        model:
          class_path: TrainTask
          init_args:
            architecture: null
            network:
              class_path: ConvNet
              init_args:
                width: 64
        ```
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        at_least(1, width=width, depth=depth)
        channels, height, side = image_shape
        if min(height, side) < 2**depth:
            raise DataError(
                f"Images of {height}x{side} pixels are too small for {depth} poolings, which need "
                f"{2**depth}x{2**depth}. Use a smaller depth."
            )
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
            channels, height, side = width, height // 2, side // 2
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Linear(width * height * side, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(batch, channels, height, width)`` to logits ``(batch, classes)``."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


def cached_images(images: Tensor, width: int) -> int:
    """Return how many images at a time a ConvNet computes fastest.

    On a CPU, its widest tensors should fit into the cache; a GPU takes all images at once.

    Args:
        images: ``(n, channels, height, width)``.
        width: Channels of the network.
    """
    if images.device.type != "cpu":
        return len(images)
    return max(1, CACHE_BYTES // (width * images[0, 0].numel() * images.element_size()))


def train_convnet(
    images: Tensor,
    labels: Tensor,
    classes: int,
    batches: Iterable[Tensor],
    *,
    steps: int,
    width: int,
    depth: int,
    learning_rate: float,
    generator: torch.Generator,
    heard: Callable[[int, Tensor, Tensor], None] | None = None,
) -> ConvNet:
    """Train a ``ConvNet`` briefly, by SGD with momentum 0.9 and a learning rate that falls to 0 along a cosine.

    Args:
        images: ``(n, channels, height, width)``.
        labels: int64 ``(n,)``.
        classes: Number of classes.
        batches: Indices of the images of every step. They may be drawn from ``generator`` as they are taken.
        steps: Number of steps of the cosine.
        width: Channels of the network.
        depth: Blocks of the network.
        learning_rate: Learning rate at the first step.
        generator: Source of the seed of the weights, on the CPU.
        heard: Takes the step, indices of images and their logits before that step.
    """
    _, channels, height, side = images.shape
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        network = ConvNet((channels, height, side), classes, width, depth)
        optimizer = torch.optim.SGD(network.parameters(), learning_rate, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
        for step, batch in enumerate(batches):
            optimizer.zero_grad()
            for part in batch.split(cached_images(images, width)):
                logits = network(images[part])
                if heard is not None:
                    heard(step, part, logits.detach())
                (F.cross_entropy(logits, labels[part], reduction="sum") / len(batch)).backward()
            optimizer.step()
            scheduler.step()
    return network
