"""The residual network for small images."""

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.checks import integer_at_least, one_of

STEMS = ("cifar", "imagenet")
"""Names of the layers before the first block."""


class CIFARResNet(nn.Module):
    """The residual network for CIFAR: three stages of basic blocks, with ``6 * blocks + 2`` layers.

    A 3x3 convolution is followed by three stages of ``width``, ``2 * width`` and ``4 * width`` channels; the second
    and third stages halve height and width. A block is two 3x3 convolutions with batch norm beside a shortcut without
    parameters, which is strided and padded with zero channels where the shape changes. The mean over all pixels goes
    to a linear classifier.

    References:
        1. He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2,
           https://arxiv.org/abs/1512.03385

    Args:
        image_shape: ``(channels, height, width)`` of an image.
        num_classes: Number of classes.
        blocks: Blocks per stage, at least 1 (ResNet-20: 3, ResNet-56: 9).
        width: Channels of the first stage, at least 1 (the paper: 16).
        stem: ``cifar``, a 3x3 convolution, or ``imagenet``, which divides height and width by 4 with a strided 7x7
            convolution and a max pooling, for large images.

    Raises:
        ConfigError: ``blocks`` or ``width`` is below 1, or the stem is unknown.

    Example:
        ```yaml
        model:
          class_path: TrainTask
          init_args:
            architecture: null
            network: {class_path: CIFARResNet, init_args: {blocks: 3, width: 16}}
        ```
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        blocks: int = 3,
        width: int = 16,
        stem: str = "cifar",
    ) -> None:
        super().__init__()
        integer_at_least(1, blocks=blocks, width=width)
        one_of(STEMS, stem=stem)
        kernel, stride = (3, 1) if stem == "cifar" else (7, 2)
        layers: list[nn.Module] = [
            nn.Conv2d(image_shape[0], width, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        if stem == "imagenet":
            layers.append(nn.MaxPool2d(3, 2, 1))
        channels = width
        for stage in range(3):
            for block in range(blocks):
                halves = stage > 0 and block == 0
                layers.append(BasicBlock(channels, width * 2**stage, 2 if halves else 1))
                channels = width * 2**stage
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(batch, channels, height, width)`` to logits ``(batch, classes)``."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to their input.

    Args:
        channels_in: Channels of the input.
        channels: Channels of the output, at least those of the input.
        stride: Stride of the first convolution.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.added = channels - channels_in
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels_in, height, width)`` to ``(batch, channels, height / stride, width / stride)``."""
        before = self.added // 2
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.added - before))
        return F.relu(shortcut + self.body(x))
