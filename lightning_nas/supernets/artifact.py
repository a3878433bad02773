"""Trained supernets as artifacts: what a search that shares weights starts from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_nas.errors import ArtifactError, ConfigError, DataError
from lightning_nas.files.artifacts import read_json, read_tensors, write_json, write_tensors
from lightning_nas.files.classes import class_path, find_class
from lightning_nas.spaces.base import Supernet, SupernetSpace
from lightning_nas.spaces.convert import inherit

_REPAIR = "Make it with 'lightning-nas fit --config configs/supernet/uniform.yaml', or check the path."
_LARGEST = 2**16


@dataclass(frozen=True, eq=False)
class TrainedSupernet:
    """A supernet with its weights, and what it is of.

    In files: ``supernet.safetensors``, with ``supernet.json`` beside it.

    Attributes:
        network: Takes images and ``space.to_path(architecture)``.
        space: The architectures that it holds.
        image_shape: ``(channels, height, width)`` of its images.
        num_classes: Width of its classifier.
        info: How it was trained, as JSON values.
    """

    network: nn.Module
    space: SupernetSpace
    image_shape: tuple[int, int, int]
    num_classes: int
    info: dict[str, Any]

    def save(self, path: str | Path) -> Path:
        """Write both files."""
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
            path: ``supernet.safetensors``.
            repair: What to do where it cannot be read.

        Raises:
            ArtifactError: A file is missing, truncated, foreign or of a newer schema, or the two don't fit.
        """
        path = Path(path)
        tensors = read_tensors(path, repair=repair)
        content = read_json(path.with_suffix(".json"), repair=repair)
        try:
            shape, classes = tuple(content["image_shape"]), content["num_classes"]
            if len(shape) != 3 or not all(type(n) is int and 0 < n <= _LARGEST for n in (*shape, classes)):
                raise ValueError(f"image_shape {shape} and num_classes {classes} are not whole numbers in range")
            space: SupernetSpace = find_class(content["space"]["class_path"], SupernetSpace)(
                **content["space"]["init_args"]
            )
            with torch.device("meta"):  # a network of sizes that are not those of the weights is never allocated
                expected = space.supernet(num_classes=classes, image_shape=shape).state_dict()
            differing = [n for n in {**expected, **tensors} if _form(expected.get(n)) != _form(tensors.get(n))]
            if differing:
                raise ValueError(f"{len(differing)} tensors are not those of the space, such as {differing[0]!r}")
            with torch.random.fork_rng(devices=[]):  # the draws of its first weights
                network = space.supernet(num_classes=classes, image_shape=shape)
            network.load_state_dict(tensors)
            return cls(network, space, shape, classes, dict(content["info"]))
        except (ConfigError, DataError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
            raise ArtifactError(
                f"{path} holds no supernet of the space that {path.with_suffix('.json')} describes: "
                f"{type(error).__name__}, {str(error):.500}. {repair}"
            ) from None

    def with_classes(self, num_classes: int) -> "TrainedSupernet":
        """The same body with a new classifier for other classes.

        All tensors whose shape depends on the number of classes are drawn anew from torch's global generator, all
        others are kept: transfer as in Supernet Shifting.

        Args:
            num_classes: Of the new data, at least 1.

        Raises:
            ConfigError: ``num_classes`` is below 1.
        """
        if num_classes < 1:
            raise ConfigError(f"num_classes is {num_classes}; it must be at least 1.")
        network = self.space.supernet(num_classes=num_classes, image_shape=self.image_shape)
        new, drawn = self.classifier(), network.state_dict()
        network.load_state_dict({n: drawn[n] if n in new else value for n, value in self.network.state_dict().items()})
        return TrainedSupernet(network, self.space, self.image_shape, num_classes, self.info)

    def classifier(self) -> set[str]:
        """Names of the tensors whose shape depends on the number of classes."""
        with torch.device("meta"):
            other = self.space.supernet(num_classes=self.num_classes + 1, image_shape=self.image_shape).state_dict()
        return {name for name, value in self.network.state_dict().items() if value.shape != other[name].shape}

    def hand_on(self, network: nn.Module) -> None:
        """Give the weights and statistics to a supernet of this space or of a restriction of it, by name.

        Args:
            network: Receives.

        Raises:
            ArtifactError: It needs something that is not here, or of another shape.
        """
        try:
            if isinstance(network, Supernet) and isinstance(self.network, Supernet):
                inherit(network, self.network)
            else:
                own = self.network.state_dict()
                network.load_state_dict({name: own[name] for name in network.state_dict()})
        except (DataError, LookupError, RuntimeError) as error:
            raise ArtifactError(
                f"The supernet of {self.space.arguments()!s:.200} lacks weights of this one: {error!s:.300} Start "
                "from one of the same space or a wider one, with the same sizes and classes."
            ) from None


def _form(tensor: torch.Tensor | None) -> Any:
    return None if tensor is None else (tensor.shape, tensor.dtype)
