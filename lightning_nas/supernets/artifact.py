"""Trained supernets as artifacts, from which searches with shared weights start."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_nas.checks import at_least
from lightning_nas.errors import ArtifactError, ConfigError, DataError
from lightning_nas.files.artifacts import read_json, read_tensors, write_json, write_tensors
from lightning_nas.files.classes import class_path, find_class
from lightning_nas.spaces.base import SupernetSpace
from lightning_nas.spaces.convert import inherit
from lightning_nas.spaces.supernet import Supernet

_REPAIR = "Make one with 'lightning-nas fit --config supernet/uniform', or check the path."
_LARGEST = 2**16
"""Largest size of images and classifiers that is read: a hostile file must not make endless layers."""


@dataclass(frozen=True, eq=False)
class TrainedSupernet:
    """A supernet with its weights, its search space and its sizes.

    On disk it is ``supernet.safetensors``, with ``supernet.json`` beside it. ``SupernetTask`` writes both.

    Attributes:
        network: The supernet, which takes images and ``space.to_path(architecture)``.
        space: The search space whose architectures it contains.
        image_shape: ``(channels, height, width)`` of its images.
        num_classes: Number of classes of its classifier.
        info: How it was trained, as JSON values.

    Example:
        ```python
        trained = TrainedSupernet.load("supernet.safetensors")
        architecture = trained.space.sample(torch.Generator().manual_seed(0))
        logits = trained.network(images, trained.space.to_path(architecture))
        ```
    """

    network: nn.Module
    space: SupernetSpace
    image_shape: tuple[int, int, int]
    num_classes: int
    info: dict[str, Any]

    def save(self, path: str | Path) -> Path:
        """Write both files.

        Args:
            path: Path of ``supernet.safetensors``.

        Returns:
            The path.
        """
        path = Path(path)
        write_tensors(path, self.network.state_dict())
        kind = type(self.space)
        content = {
            "space": {"class_path": class_path(kind), "init_args": self.space.arguments()},
            "image_shape": list(self.image_shape),
            "num_classes": self.num_classes,
            "info": self.info,
        }
        write_json(path.with_suffix(".json"), content)
        return path

    @classmethod
    def load(cls, path: str | Path, repair: str = _REPAIR) -> "TrainedSupernet":
        """Read both files.

        Args:
            path: Path of ``supernet.safetensors``.
            repair: How to get such a file: one or more sentences for the error message.

        Raises:
            ArtifactError: A file is missing, truncated, foreign or of a newer schema, or the two do not match.
        """
        path = Path(path)
        tensors = read_tensors(path, repair=repair)
        content = read_json(path.with_suffix(".json"), repair=repair)
        try:
            shape, classes = tuple(content["image_shape"]), content["num_classes"]
            if len(shape) != 3 or not all(type(n) is int and 0 < n <= _LARGEST for n in (*shape, classes)):
                raise ValueError(f"image_shape {shape} and num_classes {classes} must be integers from 1 to {_LARGEST}")
            space: SupernetSpace = find_class(content["space"]["class_path"], SupernetSpace)(
                **content["space"]["init_args"]
            )
            with torch.device("meta"):  # a network whose sizes are not those of the weights is never allocated
                expected = space.supernet(num_classes=classes, image_shape=shape).state_dict()
            differing = [n for n in {**expected, **tensors} if _form(expected.get(n)) != _form(tensors.get(n))]
            if differing:
                raise ValueError(f"{len(differing)} tensors are not those of the space, such as {differing[0]!r}")
            with torch.random.fork_rng(devices=[]):  # whose state the draw of initial weights would change
                network = space.supernet(num_classes=classes, image_shape=shape)
            network.load_state_dict(tensors)
            return cls(network, space, shape, classes, dict(content["info"]))
        except (ConfigError, DataError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
            raise ArtifactError(
                f"{path} does not contain a supernet of the space that {path.with_suffix('.json')} describes: "
                f"{type(error).__name__}, {str(error):.500}. {repair}"
            ) from None

    def with_classes(self, num_classes: int) -> "TrainedSupernet":
        """Return the same body with a new classifier, for other classes, as Supernet Shifting transfers supernets.

        Tensors whose shape depends on the number of classes are drawn anew from torch's global generator. All others
        are kept.

        Args:
            num_classes: Number of classes of the new data, at least 1.

        Raises:
            ConfigError: ``num_classes`` is below 1.
        """
        at_least(1, num_classes=num_classes)
        network = self.space.supernet(num_classes=num_classes, image_shape=self.image_shape)
        new, drawn = self.classifier(), network.state_dict()
        network.load_state_dict({n: drawn[n] if n in new else value for n, value in self.network.state_dict().items()})
        return TrainedSupernet(network, self.space, self.image_shape, num_classes, self.info)

    def classifier(self) -> set[str]:
        """Return the names of the tensors whose shape depends on the number of classes."""
        with torch.device("meta"):
            other = self.space.supernet(num_classes=self.num_classes + 1, image_shape=self.image_shape).state_dict()
        return {name for name, value in self.network.state_dict().items() if value.shape != other[name].shape}

    def hand_on(self, network: nn.Module) -> None:
        """Copy weights and statistics, by name, into a supernet of the same space or of a restriction of it.

        Args:
            network: The supernet that receives them.

        Raises:
            ArtifactError: The other supernet needs a tensor that this one lacks, or that has another shape here.
        """
        try:
            if isinstance(network, Supernet) and isinstance(self.network, Supernet):
                inherit(network, self.network)
            else:
                own = self.network.state_dict()
                network.load_state_dict({name: own[name] for name in network.state_dict()})
        except (DataError, LookupError, RuntimeError) as error:
            raise ArtifactError(
                f"The supernet of {self.space.arguments()!s:.200} lacks weights that are needed: {error!s:.300} Start "
                "from a supernet of the same space or a wider one, with the same sizes and classes."
            ) from None


def _form(tensor: torch.Tensor | None) -> Any:
    return None if tensor is None else (tensor.shape, tensor.dtype)
