"""Proxies, the schemes that make them and the matchers that train those."""

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_nas.artifacts import read_json, read_tensors, write_json, write_tensors
from lightning_nas.errors import ArtifactError

_REPAIR = "Make it with 'lightning-nas fit --config configs/distill/…', or check the path."
_TENSORS = ("images", "labels", "groups")


@dataclass(frozen=True)
class Proxy:
    """A small data set that stands for a large one: ``proxy.safetensors``, with ``proxy.json`` beside it.

    Attributes:
        images: Normalised, ``(n, channels, height, width)``.
        labels: ``(n,)``, from 0.
        groups: ``(n,)``; images of one group share stored pixels and must not be split between halves.
        class_names: Names by label.
        mean: Of every channel of the source's training images, on a scale from 0 to 1.
        std: Likewise the deviation.
        info: Scheme, source, counts, seed.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor
    class_names: list[str]
    mean: list[float]
    std: list[float]
    info: dict[str, Any]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def save(self, path: str | Path) -> Path:
        """Write both files."""
        path = Path(path)
        write_tensors(path, {"images": self.images, "labels": self.labels, "groups": self.groups})
        content = {"class_names": self.class_names, "mean": self.mean, "std": self.std, **self.info}
        write_json(path.with_suffix(".json"), content)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Proxy":
        """Read both files.

        Raises:
            ArtifactError: A file is missing, truncated, foreign or of a newer schema, or the two don't fit.
        """
        path = Path(path)
        tensors = read_tensors(path, repair=_REPAIR)
        info = read_json(path.with_suffix(".json"), repair=_REPAIR)
        try:
            images, labels, groups = (tensors[name] for name in _TENSORS)
            names, mean, std = info["class_names"], info["mean"], info["std"]
        except KeyError as error:
            raise ArtifactError(f"{path} is no proxy: {error} is missing. {_REPAIR}") from None
        if not _is_list(names, str) or not _is_list(mean, int, float) or not _is_list(std, int, float):
            raise ArtifactError(
                f"{path.with_suffix('.json')} is of no proxy: class_names must be a list of text, and mean and std "
                f"lists of finite numbers. {_REPAIR}"
            )
        fits = (
            images.ndim == 4
            and images.dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
            and 0 not in images.shape
            and labels.dtype == groups.dtype == torch.int64
            and len(images) == len(labels) == len(groups) > 0
            and labels.ndim == groups.ndim == 1
            and int(labels.min()) >= 0
            and int(labels.max()) < len(names)
            and len(mean) == len(std) == images.shape[1]
            and min(std) > 0
        )
        if not fits:
            shapes = {name: (tuple(tensors[name].shape), str(tensors[name].dtype)) for name in _TENSORS}
            raise ArtifactError(
                f"{path} is no proxy of {len(names)} classes and {len(mean)} channels, with labels below "
                f"{len(names)} and deviations above 0: it holds {shapes}. {_REPAIR}"
            )
        return cls(images, labels, groups, names, mean, std, info)


def _is_list(value: Any, *kinds: type) -> bool:
    """Whether a value from JSON is a list of values of some kinds, and finite if they are numbers."""
    return isinstance(value, list) and all(
        type(each) in kinds and (isinstance(each, str) or abs(each) < sys.float_info.max) for each in value
    )


class Scheme(nn.Module, ABC):
    """How a proxy is stored: parameters that become images."""

    @abstractmethod
    def start(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> None:
        """Make the parameters from the source.

        Args:
            images: All normalised training images, ``(n, channels, height, width)``.
            labels: ``(n,)``.
            num_classes: Number of classes.
            generator: Source of all random choices.

        Raises:
            ConfigError: More images are asked for than a class has.
        """

    @abstractmethod
    def proxy(self) -> tuple[Tensor, Tensor, Tensor]:
        """All images, labels and groups, differentiable in the parameters; see ``Proxy``."""


class Matcher(nn.Module, ABC):
    """What a proxy's images must have in common with the source's."""

    @abstractmethod
    def loss(self, real: tuple[Tensor, Tensor], proxy: tuple[Tensor, Tensor], seed: int) -> Tensor:
        """The distance, a scalar.

        Args:
            real: Images and labels of a batch of the source in which all classes have the same number of images.
            proxy: Images and labels of the whole proxy.
            seed: Of all random choices in this step.
        """
