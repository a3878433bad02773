"""The trajectories that trajectory matching follows: weights of networks in the course of their training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_nas.distill.convnet import ConvNet
from lightning_nas.errors import ArtifactError, DataError
from lightning_nas.files.artifacts import read_json, read_tensors, write_json, write_tensors

_REPAIR = "Make them with 'lightning-nas fit --config distill/experts', or check the path."

_LARGEST = 2**16
"""Largest size of a network that is read: a hostile file must not make endless layers."""


@dataclass(frozen=True, eq=False)
class Experts:
    """Weights of several ConvNets before their training and after every epoch of it.

    On disk they are ``experts.safetensors``, with ``experts.json`` beside it; ``ExpertsTask`` writes both.

    Attributes:
        weights: float32 ``(experts, epochs + 1, parameters)``. The last axis holds a network's parameters in their
            order, each flattened.
        width: Channels of the networks, see ``ConvNet``.
        depth: Blocks of the networks.
        image_shape: ``(channels, height, width)`` of their images.
        num_classes: Number of classes.
        info: How they were trained, as JSON values: source, split, seed.

    Example:
        ```python
        experts = Experts.load("experts.safetensors")
        network = experts.network()
        weights = named_weights(network, experts.weights[0, -1])  # of the first expert at the end
        logits = torch.func.functional_call(network, weights, (images,))
        ```
    """

    weights: Tensor
    width: int
    depth: int
    image_shape: tuple[int, int, int]
    num_classes: int
    info: dict[str, Any]

    @property
    def epochs(self) -> int:
        """Number of epochs that every expert was trained for."""
        return self.weights.shape[1] - 1

    def network(self) -> ConvNet:
        """Return a network of this form whose parameters have shapes but no values; see ``named_weights``."""
        return shape_only(self.image_shape, self.num_classes, self.width, self.depth)

    def save(self, path: str | Path) -> Path:
        """Write both files.

        Args:
            path: Path of ``experts.safetensors``.

        Returns:
            The path.
        """
        path = Path(path)
        write_tensors(path, {"weights": self.weights})
        network = {name: getattr(self, name) for name in ("width", "depth", "image_shape", "num_classes")}
        write_json(path.with_suffix(".json"), {"network": network, "info": self.info})
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Experts":
        """Read both files.

        Args:
            path: Path of ``experts.safetensors``.

        Raises:
            ArtifactError: A file is missing, truncated, foreign or of a newer schema, or the two do not match.
        """
        path = Path(path)
        tensors = read_tensors(path, repair=_REPAIR)
        content = read_json(path.with_suffix(".json"), repair=_REPAIR)
        try:
            return cls(info=dict(content["info"]), **_checked(tensors, content["network"]))
        except (DataError, ValueError, TypeError, LookupError, RuntimeError) as error:
            raise ArtifactError(
                f"{path} does not contain experts of the network that {path.with_suffix('.json')} describes: "
                f"{type(error).__name__}, {str(error):.500}. {_REPAIR}"
            ) from None


def shape_only(image_shape: tuple[int, int, int], num_classes: int, width: int, depth: int) -> ConvNet:
    """Make a ``ConvNet`` whose parameters have shapes but no values. Arguments are those of ``ConvNet``."""
    with torch.device("meta"):
        return ConvNet(image_shape, num_classes, width, depth).requires_grad_(False)


def named_weights(network: nn.Module, flat: Tensor) -> dict[str, Tensor]:
    """Split flat weights into named ones, as ``torch.func.functional_call`` takes them.

    Args:
        network: A network with the names and shapes of the parameters. Their values do not matter.
        flat: All parameters, ``(parameters,)``.

    Returns:
        Views of ``flat`` by name.
    """
    parameters = dict(network.named_parameters())
    pieces = flat.split([p.numel() for p in parameters.values()])
    return {name: piece.view(p.shape) for (name, p), piece in zip(parameters.items(), pieces, strict=True)}


def _checked(tensors: Mapping[str, Tensor], network: Any) -> dict[str, Any]:
    """Check the content of both files.

    Returns:
        Arguments of ``Experts``.

    Raises:
        ValueError: The two do not match. Content of another kind altogether raises other errors.
    """
    if set(tensors) != {"weights"}:
        raise ValueError(f"it stores {sorted(tensors)} instead of ['weights']")
    found = {name: network[name] for name in ("width", "depth", "image_shape", "num_classes")}
    shape = found["image_shape"] = tuple(found["image_shape"])
    sizes = [found["width"], found["depth"], found["num_classes"], *shape]
    if len(shape) != 3 or not all(type(size) is int and 1 <= size <= _LARGEST for size in sizes):
        raise ValueError(f"the sizes {found} must be integers from 1 to {_LARGEST}, three of them in image_shape")
    weights = tensors["weights"]
    count = sum(p.numel() for p in shape_only(**found).parameters())
    fits = weights.ndim == 3 and len(weights) > 0 and weights.shape[1] > 1 and weights.shape[2] == count
    if not fits or weights.dtype != torch.float32:
        raise ValueError(
            f"weights are {weights.dtype} of shape {tuple(weights.shape)} instead of torch.float32 of shape "
            f"(experts, epochs + 1, {count})"
        )
    if not bool(weights.isfinite().all()):
        raise ValueError("some weights are not finite")
    return {"weights": weights, **found}
