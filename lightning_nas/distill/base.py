"""What a distillation is made of: schemes, which store a proxy, and matchers and regularizers, which train it."""

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_nas.data.sets import Batch


class Synthetic(NamedTuple):
    """Images that a scheme makes.

    Attributes:
        images: Normalized images ``(n, channels, height, width)``.
        labels: The class that each image stands for, int64 ``(n,)``, from 0.
        groups: int64 ``(n,)``. Images of one group share stored values and must not be split between halves.
        soft_labels: Probabilities of the classes, ``(n, classes)``, or None where labels are hard.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor
    soft_labels: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """Targets of a cross-entropy: soft labels where there are any, else hard ones."""
        return self.labels if self.soft_labels is None else self.soft_labels

    def detached(self) -> "Synthetic":
        """Return the same images without gradients."""
        return Synthetic(*(None if t is None else t.detach() for t in self))  # type: ignore[arg-type]  # in order


class Scheme(nn.Module, ABC):
    """Base class of schemes: how a proxy is stored, as a few tensors that become images.

    ``start`` makes the tensors from real images, ``restore`` takes them from a file. Everything that is stored is a
    parameter or a buffer.

    Attributes:
        parameter_names: Names of the tensors that training may change.
        buffer_names: Names of all other tensors.
        slice_dims: Dimension of a tensor along which every index has a range of its own where the proxy is stored in
            few bits, by name; 0 where a tensor is not named.

    Example:
        ```python
        class MeanImages(Scheme):
            parameter_names = ("means",)

            def start(self, images, labels, num_classes, generator):
                means = [images[labels == c].mean(0) for c in range(num_classes)]
                self.means = nn.Parameter(torch.stack(means))
                self.register_buffer("labels", torch.arange(num_classes))

            def proxy(self):
                return Synthetic(self.means, self.labels, self.labels)

            def proxy_shape(self):
                return tuple(self.means.shape)

            def arguments(self):
                return {}
        ```
    """

    parameter_names: tuple[str, ...]
    buffer_names: tuple[str, ...] = ("labels",)
    slice_dims: Mapping[str, int] = MappingProxyType({})

    @abstractmethod
    def start(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> None:
        """Make the stored tensors from the source images.

        Args:
            images: All training images, normalized, ``(n, channels, height, width)``.
            labels: Their labels, int64 ``(n,)``.
            num_classes: Number of classes.
            generator: Generator of all random choices.

        Raises:
            ConfigError: More images are asked for than a class has.
        """

    @abstractmethod
    def proxy(self) -> Synthetic:
        """Make all images, differentiable in the parameters."""

    @abstractmethod
    def proxy_shape(self) -> tuple[int, int, int, int]:
        """Return the shape of ``proxy().images`` without making them.

        Raises:
            ValueError: The stored tensors do not fit each other.
        """

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Return constructor arguments that make a scheme of the same form, as JSON values."""

    def check(self, labels: Tensor, num_classes: int) -> None:  # noqa: B027
        """Refuse source images of which ``start`` could not make a proxy; accepts all by default.

        Args:
            labels: Labels of the training images, int64 ``(n,)``.
            num_classes: Number of classes.

        Raises:
            ConfigError: More images are asked for than a class has.
        """

    def layout(self, num_classes: int) -> tuple[Tensor, Tensor] | None:
        """Say what ``proxy`` will return, before ``start``, so that a search on it can be checked before it is made.

        Args:
            num_classes: Number of classes.

        Returns:
            Labels and groups of all images, each ``(n,)``; None, as by default, if they are not known beforehand.
        """
        return None

    def draw(self, seed: int) -> Synthetic:
        """Make the images that one step of matching works on, differentiable; by default all images.

        Args:
            seed: Seed of the choice.
        """
        return self.proxy()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters as parameter groups of an optimizer, which may set learning rates."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    @property
    def stored_bytes(self) -> int:
        """Size in bytes of all tensors as they are in memory; ``Proxy.stored_bytes`` is that of the file."""
        return sum(t.numel() * t.element_size() for t in self.state_dict().values())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take stored tensors instead of calling ``start``.

        Args:
            tensors: Tensors by name.

        Raises:
            ValueError: The tensors are not those of this scheme, or have another type.
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


class Selection(ABC):
    """Base class of selections: which real images a scheme starts from, or which ones are a control.

    Example:
        ```python
        class BrightImages(Selection):
            def choose(self, images, labels, per_class, num_classes, generator):
                order = images.flatten(1).mean(1).argsort(descending=True)
                return torch.cat([order[labels[order] == c][:per_class] for c in range(num_classes)])
        ```
    """

    @abstractmethod
    def choose(
        self, images: Tensor, labels: Tensor, per_class: int, num_classes: int, generator: torch.Generator
    ) -> Tensor:
        """Choose images of every class.

        Args:
            images: All training images, normalized, ``(n, channels, height, width)``.
            labels: Their labels, int64 ``(n,)``.
            per_class: Number of images per class.
            num_classes: Number of classes.
            generator: Generator of all random choices.

        Returns:
            Indices of different images, class by class.
        """

    def check(self, labels: Tensor, per_class: int, num_classes: int, name: str) -> None:  # noqa: B027
        """Refuse numbers of images that ``choose`` could not choose; accepts all by default.

        Args:
            labels: int64 ``(n,)``.
            per_class: Number of images per class, which every class has.
            num_classes: Number of classes.
            name: Name of the argument that says how many, for the error message.

        Raises:
            ConfigError: A class has too few images to choose from.
        """


class Matcher(nn.Module, ABC):
    """Base class of matchers: what a proxy's images must have in common with the source images.

    State that is kept between steps must be in buffers, so that checkpoints contain it.

    Attributes:
        inputs: Files that the matcher reads, by kind of artifact.

    Example:
        ```python
        class PixelMeans(Matcher):
            def loss(self, real, draw, seed):
                return (draw(seed).images.mean(0) - real[0].mean(0)).square().sum()
        ```
    """

    def __init__(self) -> None:
        super().__init__()
        self.inputs: dict[str, list[Path]] = {}

    def info(self) -> dict[str, Any]:
        """Return what ``proxy.json`` should say about the matcher, as JSON values; by default nothing."""
        return {}

    def start(self, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> None:  # noqa: B027
        """Make the state that is kept between steps; by default there is none.

        Args:
            image_shape: ``(channels, height, width)``.
            num_classes: Number of classes.
            seed: Seed of all random choices.
        """

    def check_source(self, source: Mapping[str, Any]) -> None:  # noqa: B027
        """Refuse source images that do not go with the files that the matcher reads; by default it reads none.

        Args:
            source: Mean, standard deviation and split of the images that are distilled.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return parameters that are trained together with the proxy; by default there are none."""
        return []

    @abstractmethod
    def loss(self, real: Batch, draw: Callable[[int], Synthetic], seed: int) -> Tensor:
        """Compute the distance between real and synthetic images.

        Args:
            real: Images and labels of a batch of the source, with the same number of images of every class.
            draw: ``Scheme.draw``; most matchers call it once.
            seed: Seed of all random choices in this step.

        Returns:
            A scalar that is differentiable in what ``draw`` returns.
        """

    def advance(self, draw: Callable[[int], Synthetic], seed: int) -> None:  # noqa: B027
        """Change the state after the optimizer's step; by default nothing changes.

        Args:
            draw: ``Scheme.draw``, without gradients.
            seed: Seed of all random choices in this step.
        """


class ProxyRegularizer(nn.Module, ABC):
    """Base class of regularizers: a property that a proxy should have in addition to what the matcher asks for.

    Example:
        ```python
        class Smoothness(ProxyRegularizer):
            def loss(self, real, scheme, seed):
                return 0.01 * scheme.draw(seed).images.diff(dim=3).square().mean()
        ```
    """

    def start(self, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> None:  # noqa: B027
        """Make the state that is kept between steps; see ``Matcher.start``."""

    @abstractmethod
    def loss(self, real: Batch, scheme: Scheme, seed: int) -> Tensor:
        """Compute the term that is added to the matcher's loss, including its weight.

        Args:
            real: A batch of the source; see ``Matcher.loss``.
            scheme: The scheme that is trained.
            seed: Seed of all random choices in this step.

        Returns:
            A scalar that is differentiable in the scheme's parameters.

        Raises:
            ConfigError: The regularizer does not work with such a scheme.
        """
