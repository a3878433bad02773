"""Proxies, the schemes that make them, and what trains those: matchers and regularizers."""

import reprlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_nas.errors import ArtifactError, ConfigError, DataError
from lightning_nas.files.artifacts import LARGEST_TENSORS, read_json, read_tensors, write_json, write_tensors
from lightning_nas.files.classes import class_path, find_class

_REPAIR = "Make it with 'lightning-nas fit --config configs/distill/…', or check the path."

Batch = tuple[Tensor, Tensor]
"""Images ``(batch, channels, height, width)`` and labels ``(batch,)``."""


class Synthetic(NamedTuple):
    """Images that a scheme makes.

    Attributes:
        images: Normalised, ``(n, channels, height, width)``.
        labels: The class that each stands for, int64 ``(n,)``, from 0.
        groups: int64 ``(n,)``; images of one group share stored values and must not be split between halves.
        targets: Soft labels, ``(n, classes)``; None where labels are hard.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor
    targets: Tensor | None = None

    @property
    def answers(self) -> Tensor:
        """What a network should answer: soft labels where there are some, else hard ones. For a cross-entropy."""
        return self.labels if self.targets is None else self.targets

    def detached(self) -> "Synthetic":
        """The same without gradients."""
        return Synthetic(*(None if t is None else t.detach() for t in self))  # type: ignore[arg-type]  # in order


class Scheme(nn.Module, ABC):
    """How a proxy is stored: a few tensors that become images.

    Attributes:
        parameter_names: Of its tensors that training may change.
        buffer_names: Of its other tensors.
    """

    parameter_names: tuple[str, ...]
    buffer_names: tuple[str, ...] = ("labels",)

    @abstractmethod
    def start(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> None:
        """Make the tensors from the source.

        Args:
            images: All normalised training images, ``(n, channels, height, width)``.
            labels: ``(n,)``.
            num_classes: Number of classes.
            generator: Source of all random choices.

        Raises:
            ConfigError: More images are asked for than a class has.
        """

    @abstractmethod
    def proxy(self) -> Synthetic:
        """All images, differentiable in the parameters."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor that make a scheme of the same form, as JSON values."""

    @abstractmethod
    def made(self) -> tuple[int, int, int, int]:
        """The shape of ``proxy().images``, without making them.

        Raises:
            ValueError: The tensors don't fit each other.
        """

    def draw(self, seed: int) -> Synthetic:
        """What one step of matching works on, differentiable; by default all images.

        Args:
            seed: Of the choice.
        """
        return self.proxy()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters for an optimizer; a group may have a learning rate of its own."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    @property
    def stored_bytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(t.numel() * t.element_size() for t in self.state_dict().values())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take stored tensors, in the place of ``start``.

        Raises:
            ValueError: Other tensors than this scheme's, of another kind or shape.
        """
        names = {*self.parameter_names, *self.buffer_names}
        if set(tensors) != names:
            raise ValueError(f"it stores {reprlib.repr(sorted(tensors))} instead of {sorted(names)}")
        for name, tensor in tensors.items():
            kind = torch.int64 if name in self.buffer_names else torch.float32
            if tensor.dtype != kind:
                raise ValueError(f"{name} is {tensor.dtype} instead of {kind}")
            if name in self.parameter_names:
                self.register_parameter(name, nn.Parameter(tensor.clone()))
            else:
                self.register_buffer(name, tensor.clone())


@dataclass(frozen=True)
class Proxy:
    """A small data set that stands for a large one: ``proxy.safetensors``, with ``proxy.json`` beside it.

    Attributes:
        scheme: What is stored.
        class_names: Names by label.
        mean: Of every channel of the source's training images, on a scale from 0 to 1.
        std: Likewise the deviation.
        info: Matcher, source, counts, seed.
    """

    scheme: Scheme
    class_names: list[str]
    mean: list[float]
    std: list[float]
    info: dict[str, Any]

    @cached_property
    def synthetic(self) -> Synthetic:
        """All images that the scheme makes."""
        with torch.no_grad():
            return self.scheme.proxy().detached()

    @property
    def images(self) -> Tensor:
        """Normalised, ``(n, channels, height, width)``."""
        return self.synthetic.images

    @property
    def labels(self) -> Tensor:
        """The class that each image stands for, ``(n,)``."""
        return self.synthetic.labels

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        return self.scheme.made()[1:]

    def save(self, path: str | Path) -> Path:
        """Write both files."""
        path = Path(path)
        # float32 is what is read, whatever the distillation computed in
        tensors = self.scheme.state_dict().items()
        write_tensors(path, {name: t.float() if t.is_floating_point() else t for name, t in tensors})
        kind = type(self.scheme)
        scheme = {"class_path": class_path(kind), "arguments": self.scheme.arguments()}
        content = {"class_names": self.class_names, "mean": self.mean, "std": self.std, "scheme": scheme, **self.info}
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
            names, mean, std, scheme = (info.pop(key) for key in ("class_names", "mean", "std", "scheme"))
        except KeyError as error:
            raise ArtifactError(f"{path.with_suffix('.json')} is of no proxy: {error} is missing. {_REPAIR}") from None
        if not _is_list(names, str) or not _is_list(mean, int, float) or not _is_list(std, int, float):
            raise ArtifactError(
                f"{path.with_suffix('.json')} is of no proxy: class_names must be a list of text, and mean and std "
                f"lists of finite numbers. {_REPAIR}"
            )
        proxy = cls(_rebuilt(scheme, tensors, path), names, mean, std, info)
        labels = proxy.labels
        fits = (
            int(labels.min()) >= 0
            and int(labels.max()) < len(names)
            and (proxy.synthetic.targets is None or proxy.synthetic.targets.shape[1] == len(names))
            and len(mean) == len(std) == proxy.image_shape[0]
            and min(std) > 0
        )
        if not fits:
            raise ArtifactError(
                f"{path} is no proxy of {len(names)} classes and {len(mean)} channels with deviations above 0: its "
                f"images have shape {tuple(proxy.images.shape)} and labels from {int(labels.min())} to "
                f"{int(labels.max())}. {_REPAIR}"
            )
        return proxy


def _rebuilt(named: Any, tensors: Mapping[str, Tensor], path: Path) -> Scheme:
    """The scheme that a proxy's file names, with its stored tensors.

    Raises:
        ArtifactError: No such scheme, or its tensors don't fit it.
    """
    try:
        kind, arguments = str(named["class_path"]), dict(named["arguments"])
        scheme: Scheme = find_class(kind, Scheme)(**arguments)
        scheme.restore(tensors)
        shape = scheme.made()
        if min(shape) < 1 or 4 * shape[0] * shape[1] * shape[2] * shape[3] > LARGEST_TENSORS:
            raise ValueError(f"it makes images of shape {shape}, none or more than {LARGEST_TENSORS} bytes")
    except (ArtifactError, ConfigError, DataError, ValueError, TypeError, LookupError, OverflowError) as error:
        where = path.with_suffix(".json")
        raise ArtifactError(
            f"{path} is no proxy of the scheme that {where} names: {str(error):.500}. {_REPAIR}"
        ) from None
    return scheme


def _is_list(value: Any, *kinds: type) -> bool:
    """Whether a value from JSON is a list of values of some kinds, and finite if they are numbers."""
    return isinstance(value, list) and all(
        type(each) in kinds and (isinstance(each, str) or abs(each) < sys.float_info.max) for each in value
    )


class Matcher(nn.Module, ABC):
    """What a proxy's images must have in common with the source's.

    What it keeps between steps are buffers, so that checkpoints hold it.

    Attributes:
        inputs: Files that it reads, by the kind of artifact.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inputs: dict[str, list[Path]] = {}

    def info(self) -> dict[str, Any]:
        """What of it belongs into ``proxy.json``, as JSON values; by default nothing."""
        return {}

    def start(self, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> None:  # noqa: B027
        """Make what is kept between steps; by default nothing.

        Args:
            image_shape: ``(channels, height, width)``.
            num_classes: Number of classes.
            seed: Of all random choices.
        """

    def check_source(self, source: Mapping[str, Any]) -> None:  # noqa: B027
        """Refuse a source that does not go with what the matcher reads; by default it reads nothing.

        Args:
            source: Mean, deviation, and split of the images that are distilled.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained with the proxy, for its optimizer; by default nothing."""
        return []

    @abstractmethod
    def loss(self, real: Batch, draw: Callable[[int], Synthetic], seed: int) -> Tensor:
        """The distance, a scalar that is differentiable in what is drawn.

        Args:
            real: Images and labels of a batch of the source in which all classes have the same number of images.
            draw: ``Scheme.draw``; most matchers call it once.
            seed: Of all random choices in this step.
        """

    def advance(self, draw: Callable[[int], Synthetic], seed: int) -> None:  # noqa: B027
        """Change what is kept, after the optimizer's step; by default nothing.

        Args:
            draw: ``Scheme.draw``, without gradients.
            seed: Of all random choices in this step.
        """


class ProxyRegularizer(nn.Module, ABC):
    """What else a proxy should be like, beside what the matcher asks for."""

    def start(self, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> None:  # noqa: B027
        """Make what is kept between steps; see ``Matcher.start``."""

    @abstractmethod
    def loss(self, real: Batch, scheme: Scheme, seed: int) -> Tensor:
        """What is added to the matcher's loss, weighted, a scalar.

        Args:
            real: As for ``Matcher.loss``.
            scheme: What is trained.
            seed: Of all random choices in this step.

        Raises:
            ConfigError: It does not work on such a scheme.
        """
