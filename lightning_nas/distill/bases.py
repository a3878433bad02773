"""Scheme 1 of the two-scheme pipeline: many bases, turned into images by a few hallucinators."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.data.splits import derived_seed
from lightning_nas.distill.base import Scheme, Synthetic
from lightning_nas.distill.images import class_subset
from lightning_nas.errors import ConfigError, DataError

KERNEL = 3
"""Side of the hallucinators' convolutions."""

_LIFT = 2.5
"""Normalised images have hardly any values below minus this."""


class HallucinatedBases(Scheme):
    """Every pair of a stored base and a shared hallucinator makes an image: ``|B| |H|`` from ``|B|`` stored ones.

    A hallucinator is a 3x3 convolution without padding, a learned scale and shift of every value, and a transposed 3x3
    convolution back to the image's size. All of them are computed together: the second convolution has a group each.
    They start near the identity, so that a base starts as a real image. A step of matching draws one hallucinator for
    all bases. Images of one base are one group.

    The scheme is a reconstruction of the pipeline's Scheme 1, whose text is not public, after the factorization below.

    References:
        1. Liu, Qiao, Zhao, Deng, Yan: A new pipeline with ultimate search efficiency for neural architecture search,
           Neural Networks, 2025
        2. Liu, Wang, Yang, Ye, Wang: Dataset Distillation via Factorization, NeurIPS 2022,
           https://arxiv.org/abs/2210.16774

    Args:
        bases_per_class: |B| of a class, at least 1.
        hallucinators: |H|, shared by all classes, at least 1.
        base_channels: Channels of a base, 1 or those of the images; 1 stores a third for colour images. Those of the
            images if null.
        downscale: Side of an image divided by that of a base; 2 stores a quarter.
        width: Channels inside a hallucinator, at least those of the images; these if null, which at 32x32x3 are 5,568
            parameters.
        nonlinear: Whether a ReLU follows scale and shift.
        noise: Deviation of the normal noise that hallucinators differ by at the start.
        hallucinator_lr: Learning rate of the hallucinators; that of the bases if null.

    Raises:
        ConfigError: A number is out of its range.
    """

    parameter_names = ("bases", "encode", "encode_bias", "scale", "shift", "decode", "decode_bias")

    def __init__(
        self,
        bases_per_class: int = 10,
        hallucinators: int = 5,
        base_channels: int | None = None,
        downscale: int = 1,
        width: int | None = None,
        nonlinear: bool = False,
        noise: float = 0.15,
        hallucinator_lr: float | None = None,
    ) -> None:
        super().__init__()
        counts = {
            "hallucinators": hallucinators,
            "base_channels": base_channels,
            "downscale": downscale,
            "width": width,
        }
        for name, value in {"bases_per_class": bases_per_class, **counts}.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")
        if noise < 0:
            raise ConfigError(f"noise is {noise}; it must be at least 0.")
        self.bases_per_class = bases_per_class
        self.hallucinators = hallucinators
        self.base_channels = base_channels
        self.downscale = downscale
        self.width = width
        self.nonlinear = nonlinear
        self.noise = noise
        self.hallucinator_lr = hallucinator_lr

    def start(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> None:
        """Bases from real images, hallucinators from the identity; see ``Scheme.start``."""
        chosen = class_subset(labels, self.bases_per_class, num_classes, generator, "bases_per_class")
        bases = images[chosen]
        channels, height, side = bases.shape[1:]
        stored = self.base_channels or channels
        if stored not in (1, channels):
            raise ConfigError(f"base_channels is {stored}; it must be 1 or {channels}, the channels of the images.")
        if height % self.downscale or side % self.downscale or min(height, side) < max(KERNEL, self.downscale):
            raise DataError(
                f"Images of {height}x{side} pixels cannot be stored at 1/{self.downscale} of that. Use a downscale "
                f"that divides both sides, and images of at least {KERNEL} pixels."
            )
        if stored != channels:
            bases = bases.mean(1, keepdim=True)
        self.bases = nn.Parameter(F.avg_pool2d(bases, self.downscale).clone())
        self.register_buffer("labels", labels[chosen].clone())
        count, width = self.hallucinators, self.width or channels
        if width < channels:
            raise ConfigError(f"width is {width}; images of {channels} channels need at least so many.")

        def noisy(start: Tensor) -> nn.Parameter:
            return nn.Parameter(start + self.noise * torch.randn(start.shape, generator=generator))

        middle = KERNEL // 2
        encode, decode = torch.zeros(count, width, stored, KERNEL, KERNEL), torch.zeros(count, width, channels, 3, 3)
        for inner in range(width):
            encode[:, inner, inner % stored, middle, middle] = 1.0
            # several inner channels of one image channel share its value
            alike = len(range(inner % channels, width, channels))
            decode[:, inner, inner % channels, middle, middle] = 1.0 / alike
        inside = (count, width, height - KERNEL + 1, side - KERNEL + 1)
        self.encode, self.decode = noisy(encode), noisy(decode)
        self.encode_bias = nn.Parameter(torch.zeros(count, width))
        # lifted above the ReLU and back again: hardly any value of a normalised image is cut off
        lift = _LIFT if self.nonlinear else 0.0
        self.decode_bias = nn.Parameter(torch.full((count, channels), -lift))
        self.scale, self.shift = noisy(torch.ones(inside)), nn.Parameter(torch.full(inside, lift))

    def hallucinate(self, chosen: slice = slice(None)) -> Tensor:
        """Images of all bases by some hallucinators, ``(bases, hallucinators, channels, height, width)``."""
        x: Tensor = self.bases
        if self.downscale > 1:
            x = F.interpolate(x, scale_factor=self.downscale, mode="bilinear", align_corners=False)
        count = len(self.encode[chosen])
        x = F.conv2d(x, self.encode[chosen].flatten(0, 1), self.encode_bias[chosen].flatten())
        x = x * self.scale[chosen].flatten(0, 1) + self.shift[chosen].flatten(0, 1)
        if self.nonlinear:
            x = x.relu()
        x = F.conv_transpose2d(x, self.decode[chosen].flatten(0, 1), self.decode_bias[chosen].flatten(), groups=count)
        images: Tensor = x.unflatten(1, (count, -1))
        return images

    def proxy(self) -> Synthetic:
        """All pairs; the images of a base are one group."""
        labels = self.get_buffer("labels")
        groups = torch.arange(len(labels), device=labels.device)
        count = len(self.encode)
        images = self.hallucinate().flatten(0, 1)
        return Synthetic(images, labels.repeat_interleave(count), groups.repeat_interleave(count))

    def draw(self, seed: int) -> Synthetic:
        """All bases by one hallucinator; see ``Scheme.draw``."""
        generator = torch.Generator().manual_seed(derived_seed(seed, "draw"))
        return self.by_one(int(torch.randint(len(self.encode), (1,), generator=generator)))

    def by_one(self, hallucinator: int) -> Synthetic:
        """All bases by the hallucinator of an index."""
        labels = self.get_buffer("labels")
        images = self.hallucinate(slice(hallucinator, hallucinator + 1))[:, 0]
        return Synthetic(images, labels, torch.arange(len(labels), device=labels.device))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The bases, and the hallucinators with a learning rate of their own; see ``Scheme.parameter_groups``."""
        own = {} if self.hallucinator_lr is None else {"lr": self.hallucinator_lr}
        hallucinators = [getattr(self, name) for name in self.parameter_names[1:]]
        return [{"params": [self.bases]}, {"params": hallucinators, **own}]

    def arguments(self) -> dict[str, Any]:
        """See ``Scheme.arguments``."""
        names = ("bases_per_class", "hallucinators", "base_channels", "downscale", "width", "nonlinear")
        return {name: getattr(self, name) for name in names}

    def made(self) -> tuple[int, int, int, int]:
        """See ``Scheme.made``."""
        n, stored, low, narrow = self.bases.shape
        count, width, channels = (*self.encode.shape[:2], self.decode.shape[2])
        height, side = low * self.downscale, narrow * self.downscale
        inside = (count, width, height - KERNEL + 1, side - KERNEL + 1)
        expected = {
            "encode": (count, width, stored, KERNEL, KERNEL),
            "encode_bias": (count, width),
            "scale": inside,
            "shift": inside,
            "decode": (count, width, channels, KERNEL, KERNEL),
            "decode_bias": (count, channels),
            "labels": (n,),
        }
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape or min(shape) < 1:
                raise ValueError(f"{name} has shape {tuple(getattr(self, name).shape)}; expected {shape}, none empty")
        return n * count, channels, height, side
