"""The convolutional network of the dataset distillation literature."""

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
