"""Reading architectures from artifacts, which rebuilds their spaces to check them."""

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_nas.architecture import Architecture, SpaceSpec
from lightning_nas.errors import ArchitectureError, ArtifactError, ConfigError
from lightning_nas.files.artifacts import read_json
from lightning_nas.files.classes import find_class
from lightning_nas.spaces.base import SearchSpace

_REPAIR = "Write one with a search (lightning-nas fit), or check the path."


def build_space(spec: SpaceSpec) -> SearchSpace:
    """Rebuild a space from its identity, with defaults for everything that is not part of it.

    Args:
        spec: The identity, as an artifact states it.

    Raises:
        ArtifactError: The class does not exist, or refuses the arguments.
    """
    space = find_class(spec.class_path, SearchSpace)
    try:
        built: SearchSpace = space(**dict(spec.arguments))
    except (ConfigError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        arguments = reprlib.repr(dict(spec.arguments))
        raise ArtifactError(f"{spec.class_path} cannot be made from {arguments}: {error}") from None
    return built


def architecture_from_dict(content: Mapping[str, Any]) -> Architecture:
    """Read what ``Architecture.to_dict`` wrote, and check that the architecture is a point of its space.

    Args:
        content: The dictionary.

    Raises:
        ArtifactError: A field is missing or has a wrong type.
        ArchitectureError: The choices are not a point of the space.
    """
    try:
        spec = SpaceSpec(content["space"]["class_path"], tuple(content["space"]["arguments"].items()))
        choices = tuple(content["choices"])
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"Not an architecture: {error!r} in {reprlib.repr(content)}.") from None
    if not isinstance(spec.class_path, str) or not all(type(c) is int for c in choices):
        raise ArtifactError("Not an architecture: 'class_path' must be text and 'choices' integers.")
    space = build_space(spec)
    identity = space.spec()  # names classes by their public names, where the file may name modules that define them
    if [name for name, _ in spec.arguments] != [name for name, _ in identity.arguments]:
        raise ArchitectureError(
            f"The architecture is of {reprlib.repr(spec)}, but {identity} was expected. Use the space that the search "
            "used."
        )
    architecture = Architecture(identity, choices)
    space.check(architecture)
    return architecture


def load_architecture(path: str | Path) -> Architecture:
    """Read ``architecture.json``, and check that the architecture is a point of its space.

    Args:
        path: The file, as ``Architecture.save`` writes it.

    Raises:
        ArtifactError: The file is missing, truncated, of another kind, or of a newer schema.
        ArchitectureError: The choices are not a point of the space.
    """
    content = read_json(path, repair=_REPAIR)
    try:
        return architecture_from_dict(content)
    except (ArchitectureError, ArtifactError) as error:
        raise type(error)(f"{path}: {str(error):.1000} {_REPAIR}") from None
