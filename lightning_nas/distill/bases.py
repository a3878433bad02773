"""Scheme 1 of the two-scheme pipeline: many bases, turned into images by a few hallucinators."""

from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.checks import at_least
from lightning_nas.data.splits import derived_seed
from lightning_nas.distill.base import Scheme, Selection, Synthetic
from lightning_nas.distill.images import check_selected, enlarged, selected
from lightning_nas.errors import ConfigError, DataError

KERNEL = 3
"""Side of the hallucinators' convolutions."""

_LIFT = 2.5
"""Hardly any value of a normalized image is below minus this."""


class HallucinatedBases(Scheme):
    """Scheme 1: every pair of a stored base and a shared hallucinator makes an image.

    So |B| bases and |H| hallucinators make |B| |H| images. A hallucinator is a 3x3 convolution without padding, a
    learned scale and shift of every value, and a transposed 3x3 convolution back to the size of the image:

        image = decode(scale * encode(base) + shift)

    Hallucinators start near the identity, so that every image starts as a real one with some noise. Each step of
    matching draws one hallucinator for all bases. Images of one base share stored values and form a group.

    The text of the pipeline's Scheme 1 is not public. This is a reconstruction, following the factorization below.

    References:
        1. Liu, Qiao, Zhao, Deng, Yan: A new pipeline with ultimate search efficiency for neural architecture search,
           Neural Networks, 2025
        2. Liu, Wang, Yang, Ye, Wang: Dataset Distillation via Factorization, NeurIPS 2022,
           https://arxiv.org/abs/2210.16774

    Args:
        bases_per_class: Number of bases per class, at least 1.
        hallucinators: Number of hallucinators, which all classes share, at least 1 (paper 2: 5).
        base_channels: Channels of a base: 1, or the channels of the images. With 1, bases of colour images take a third
            of the bytes. The channels of the images if null.
        downscale: Side of an image divided by that of a base, at least 1. With 2, bases take a quarter of the bytes.
        width: Channels inside a hallucinator, at least those of the images. If null, those of the images; a
            hallucinator of 32x32 colour images then has 5,568 parameters.
        nonlinear: Whether a ReLU follows scale and shift.
        noise: Standard deviation of the normal noise by which hallucinators differ at the start, at least 0. Without
            it, all of them would stay equal.
        hallucinator_lr: Learning rate of the hallucinators; that of the bases if null.
        selection: Choice of the real images that bases are made of; random ones if null.
        padded: Whether the first convolution pads images with 0. Without padding, as in paper 2, hallucinators lose the
            outermost pixels at the start, 23 % of an image of 16x16 pixels; with it, they start near the identity if
            ``noise`` is small, such as 0.02.

    Raises:
        ConfigError: An argument is out of its range.

    Example:
        ```yaml
        scheme:
          class_path: HallucinatedBases
          init_args:
            bases_per_class: 10
            hallucinators: 5
            hallucinator_lr: 0.01
        ```
    """

    parameter_names = ("bases", "encode", "encode_bias", "scale", "shift", "decode", "decode_bias")
    slice_dims = MappingProxyType({"bases": 1})

    def __init__(
        self,
        bases_per_class: int = 10,
        *,
        hallucinators: int = 5,
        base_channels: int | None = None,
        downscale: int = 1,
        width: int | None = None,
        nonlinear: bool = False,
        noise: float = 0.15,
        hallucinator_lr: float | None = None,
        selection: Selection | None = None,
        padded: bool = False,
    ) -> None:
        super().__init__()
        at_least(1, bases_per_class=bases_per_class, hallucinators=hallucinators, base_channels=base_channels)
        at_least(1, downscale=downscale, width=width)
        at_least(0, noise=noise)
        self.bases_per_class = bases_per_class
        self.hallucinators = hallucinators
        self.base_channels = base_channels
        self.downscale = downscale
        self.width = width
        self.nonlinear = nonlinear
        self.noise = noise
        self.hallucinator_lr = hallucinator_lr
        self.selection = selection
        self.padded = padded

    @property
    def _cut(self) -> int:
        """Pixels by which the first convolution makes each side smaller."""
        return 0 if self.padded else KERNEL - 1

    def check(self, labels: Tensor, num_classes: int) -> None:
        """See ``Scheme.check``."""
        check_selected(self.selection, labels, self.bases_per_class, num_classes, "bases_per_class")

    def start(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> None:
        """Make bases from real images, and hallucinators from the identity; see ``Scheme.start``."""
        chosen = selected(
            self.selection, images, labels, self.bases_per_class, num_classes, generator, "bases_per_class"
        )
        bases = images[chosen]
        channels, height, side = bases.shape[1:]
        stored = self.base_channels or channels
        self._check(stored, channels, height, side)
        if stored != channels:
            bases = bases.mean(1, keepdim=True)
        self.bases = nn.Parameter(F.avg_pool2d(bases, self.downscale).clone())
        self.register_buffer("labels", labels[chosen].clone())
        self._start_hallucinators(stored, channels, height, side, generator)

    def _check(self, stored: int, channels: int, height: int, side: int) -> None:
        """Refuse images that cannot be stored as the arguments ask."""
        if stored not in (1, channels):
            raise ConfigError(f"base_channels is {stored}; it must be 1 or {channels}, the channels of the images.")
        if height % self.downscale or side % self.downscale or min(height, side) < max(KERNEL, self.downscale):
            raise DataError(
                f"Images of {height}x{side} pixels cannot be stored at 1/{self.downscale} of that. Use a downscale "
                f"that divides both sides, and images of at least {KERNEL} pixels."
            )
        if self.width is not None and self.width < channels:
            raise ConfigError(f"width is {self.width}; it must be at least {channels}, the channels of the images.")

    def _start_hallucinators(
        self, stored: int, channels: int, height: int, side: int, generator: torch.Generator
    ) -> None:
        """Make hallucinators that change bases little, each in its own way."""

        def noisy(start: Tensor) -> nn.Parameter:
            return nn.Parameter(start + self.noise * torch.randn(start.shape, generator=generator))

        count, width, middle = self.hallucinators, self.width or channels, KERNEL // 2
        encode, decode = torch.zeros(count, width, stored, KERNEL, KERNEL), torch.zeros(count, width, channels, 3, 3)
        for inner in range(width):
            encode[:, inner, inner % stored, middle, middle] = 1.0
            # several inner channels that stand for the same image channel share its value
            alike = len(range(inner % channels, width, channels))
            decode[:, inner, inner % channels, middle, middle] = 1.0 / alike
        inside = (count, width, height - self._cut, side - self._cut)
        self.encode, self.decode = noisy(encode), noisy(decode)
        self.encode_bias = nn.Parameter(torch.zeros(count, width))
        # values are lifted above the ReLU and lowered again, so that it cuts off hardly any of them at the start
        lift = _LIFT if self.nonlinear else 0.0
        self.decode_bias = nn.Parameter(torch.full((count, channels), -lift))
        self.scale, self.shift = noisy(torch.ones(inside)), nn.Parameter(torch.full(inside, lift))

    def hallucinate(self, chosen: slice = slice(None)) -> Tensor:
        """Make the images of all bases by some hallucinators.

        Args:
            chosen: Indices of the hallucinators.

        Returns:
            ``(bases, hallucinators, channels, height, width)``.
        """
        x = enlarged(self.bases, self.downscale)
        count = len(self.encode[chosen])
        # one convolution encodes for all hallucinators; the transposed one has a group for each
        padding = (KERNEL - 1 - self._cut) // 2
        x = F.conv2d(x, self.encode[chosen].flatten(0, 1), self.encode_bias[chosen].flatten(), padding=padding)
        x = x * self.scale[chosen].flatten(0, 1) + self.shift[chosen].flatten(0, 1)
        if self.nonlinear:
            x = x.relu()
        weights, bias = self.decode[chosen].flatten(0, 1), self.decode_bias[chosen].flatten()
        x = F.conv_transpose2d(x, weights, bias, padding=padding, groups=count)
        images: Tensor = x.unflatten(1, (count, -1))
        return images

    def proxy(self) -> Synthetic:
        """Make the images of all pairs. Those of a base are one group."""
        labels = self.get_buffer("labels")
        groups = torch.arange(len(labels), device=labels.device)
        count = len(self.encode)
        images = self.hallucinate().flatten(0, 1)
        return Synthetic(images, labels.repeat_interleave(count), groups.repeat_interleave(count))

    def layout(self, num_classes: int) -> tuple[Tensor, Tensor]:
        """See ``Scheme.layout``."""
        labels = torch.arange(num_classes).repeat_interleave(self.bases_per_class)
        groups = torch.arange(len(labels))
        return labels.repeat_interleave(self.hallucinators), groups.repeat_interleave(self.hallucinators)

    def draw(self, seed: int) -> Synthetic:
        """Make the images of all bases by one random hallucinator; see ``Scheme.draw``."""
        generator = torch.Generator().manual_seed(derived_seed(seed, "draw"))
        return self.by_one(int(torch.randint(len(self.encode), (1,), generator=generator)))

    def by_one(self, hallucinator: int) -> Synthetic:
        """Make the images of all bases by one hallucinator.

        Args:
            hallucinator: Its index.
        """
        labels = self.get_buffer("labels")
        images = self.hallucinate(slice(hallucinator, hallucinator + 1))[:, 0]
        return Synthetic(images, labels, torch.arange(len(labels), device=labels.device))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the bases, and the hallucinators with their learning rate; see ``Scheme.parameter_groups``."""
        own = {} if self.hallucinator_lr is None else {"lr": self.hallucinator_lr}
        hallucinators = [getattr(self, name) for name in self.parameter_names[1:]]
        return [{"params": [self.bases]}, {"params": hallucinators, **own}]

    def arguments(self) -> dict[str, Any]:
        """See ``Scheme.arguments``."""
        names = ("bases_per_class", "hallucinators", "base_channels", "downscale", "width", "nonlinear", "padded")
        return {name: getattr(self, name) for name in names}

    def proxy_shape(self) -> tuple[int, int, int, int]:
        """See ``Scheme.proxy_shape``."""
        n, stored, low, narrow = self.bases.shape
        count, width, channels = (*self.encode.shape[:2], self.decode.shape[2])
        height, side = low * self.downscale, narrow * self.downscale
        inside = (count, width, height - self._cut, side - self._cut)
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
