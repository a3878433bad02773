"""Building networks of any space: only the sizes that its networks have are handed to it."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.constrained import ConstrainedSpace

OPTIONAL = ("channels", "cells", "auxiliary")
"""Arguments of ``SearchSpace.network`` that a space may leave out."""

_ALWAYS = ("num_classes", "image_shape")


def taken_arguments(space: SearchSpace, given: Mapping[str, Any]) -> dict[str, Any]:
    """Choose those arguments that a space's ``network`` takes.

    Args:
        space: The space.
        given: Arguments for the networks of any space: ``num_classes``, ``image_shape`` and, where they are known,
            ``channels``, ``cells`` and ``auxiliary``; also further arguments, which the space must have.

    Returns:
        The given arguments, without those of ``OPTIONAL`` that the space's ``network`` does not have.

    Raises:
        ConfigError: An auxiliary classifier is asked for and there is none, the space does not take a further argument,
            or it needs one that is not given.
    """
    while isinstance(space, ConstrainedSpace):
        space = space.space
    name, taken = type(space).__name__, dict(inspect.signature(space.network).parameters)
    del taken[next(iter(taken))]  # the architecture
    if any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        return dict(given)
    if given.get("auxiliary") and "auxiliary" not in taken:
        raise ConfigError(
            f"An auxiliary classifier is asked for, but the networks of {name} have none. Set auxiliary_weight to 0."
        )
    unknown = [each for each in given if each not in taken and each not in OPTIONAL]
    needed = [each for each, of in taken.items() if of.default is of.empty and each not in given]
    if unknown or needed:
        problem = f"does not take {', '.join(unknown)}" if unknown else f"needs {', '.join(needed)}"
        raise ConfigError(
            f"The method network of {name} {problem}. It must take {' and '.join(_ALWAYS)}, may take "
            f"{', '.join(OPTIONAL)}, and needs defaults for all other arguments, which network_arguments of TrainTask "
            "sets."
        )
    return {each: value for each, value in given.items() if each in taken}


def build_network(
    space: SearchSpace, architecture: Architecture, *, num_classes: int, image_shape: Sequence[int], **sizes: Any
) -> nn.Module:
    """Build the ordinary network of an architecture of any space.

    Args:
        space: The space.
        architecture: A point of it.
        num_classes: Number of classes.
        image_shape: Shape of an image, ``(channels, height, width)``.
        **sizes: ``channels``, ``cells`` and ``auxiliary``, which are left out where the networks of the space have no
            such size, and further arguments of the space's ``network``.

    Raises:
        ArchitectureError: The architecture belongs to another space.
        ConfigError: The space does not build a network from these arguments.
        DataError: The images are too small.
    """
    given = {"num_classes": num_classes, "image_shape": image_shape, **sizes}
    made: Any = space.network(architecture, **taken_arguments(space, given))
    if not isinstance(made, nn.Module):
        raise ConfigError(
            f"The method network of {type(space).__name__} returns an object of {type(made).__name__}; it must return "
            "a torch.nn.Module."
        )
    if sizes.get("auxiliary") and not hasattr(made, "forward_auxiliary"):
        raise ConfigError(
            f"{type(made).__name__} has no method forward_auxiliary, which returns logits and auxiliary logits. Add "
            "it, or set auxiliary_weight to 0."
        )
    return made
