"""A discrete point of a search space, as it is handed from stage to stage."""

import contextlib
import importlib
import reprlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_nas.artifacts import read_json, write_json
from lightning_nas.errors import ArchitectureError, ArtifactError, ConfigError

if TYPE_CHECKING:
    from lightning_nas.spaces.base import SearchSpace

_REPAIR = "Write one with a search (lightning-nas fit), or check the path."


def find_class(class_path: str, base: type) -> type:
    """Look up a class that an artifact names.

    An artifact may come from anywhere, so nothing is imported for it but this library's own modules; a class of the
    user's must be in a module that is imported already.

    Args:
        class_path: Full dotted path.
        base: The class that it must inherit from.

    Raises:
        ArtifactError: There is no such class, or it is not a ``base``.
    """
    module_name, _, name = class_path.rpartition(".")
    parts = module_name.split(".")
    # modules are imported from the outermost to the innermost: a path of thousands must not be tried
    if parts[0] == "lightning_nas" and len(parts) < 10 and all(part.isidentifier() for part in parts):
        with contextlib.suppress(ImportError):
            importlib.import_module(module_name)
    found = getattr(sys.modules.get(module_name), name, None)
    if not isinstance(found, type) or not issubclass(found, base):
        raise ArtifactError(
            f"{class_path!r:.200} is no {base.__name__} that is imported. If it is a class of yours, import its module "
            "before reading the artifact (naming it in the configuration does); otherwise the file is not usable."
        )
    return found


def _freeze(value: Any) -> Any:
    return tuple(_freeze(v) for v in value) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class SpaceSpec:
    """The identity of a search space: what decides which architectures it holds, and nothing else.

    Args:
        class_path: Full dotted path of the space's class.
        arguments: Constructor arguments as ``(name, value)`` pairs, sequences as tuples.
    """

    class_path: str
    arguments: tuple[tuple[str, Any], ...] = ()

    def build(self) -> "SearchSpace":
        """Make the space again, with defaults for all that is not part of its identity.

        Raises:
            ArtifactError: There is no such class, or it refuses the arguments.
        """
        from lightning_nas.spaces.base import SearchSpace

        space = find_class(self.class_path, SearchSpace)
        try:
            built: SearchSpace = space(**dict(self.arguments))
        except (ConfigError, TypeError, ValueError, AttributeError, RecursionError) as error:
            arguments = reprlib.repr(dict(self.arguments))
            raise ArtifactError(f"{self.class_path} cannot be made from {arguments}: {error}") from None
        return built


@dataclass(frozen=True)
class Architecture:
    """A discrete point of a search space: frozen, hashable, with a JSON round trip.

    Args:
        space: The space that it belongs to.
        choices: What was chosen, as integers whose meaning the space defines.
    """

    space: SpaceSpec
    choices: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """The content of ``architecture.json`` without schema and provenance."""
        space = {"class_path": self.space.class_path, "arguments": dict(self.space.arguments)}
        return {"space": space, "choices": list(self.choices)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Architecture":
        """Read what ``to_dict`` wrote, and check that the point lies in its space.

        Raises:
            ArtifactError: A field is missing or of a wrong type.
            ArchitectureError: The choices are no point of the space.
        """
        try:
            arguments = tuple(sorted((str(k), _freeze(v)) for k, v in content["space"]["arguments"].items()))
            spec = SpaceSpec(content["space"]["class_path"], arguments)
            choices = tuple(content["choices"])
        except (LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ArtifactError(f"Not an architecture: {error!r} in {reprlib.repr(content)}.") from None
        if not isinstance(spec.class_path, str) or not all(type(c) is int for c in choices):
            raise ArtifactError("Not an architecture: 'class_path' must be text and 'choices' integers.")
        architecture = cls(spec, choices)
        spec.build().check(architecture)
        return architecture

    def save(self, path: str | Path, **provenance: Any) -> Path:
        """Write ``architecture.json``.

        Args:
            path: The file.
            **provenance: How it was found: scores, seeds, the search's configuration. JSON values.
        """
        return write_json(path, {**self.to_dict(), "provenance": provenance})

    @classmethod
    def load(cls, path: str | Path) -> "Architecture":
        """Read ``architecture.json``.

        Raises:
            ArtifactError: The file is missing, truncated, foreign or of a newer schema.
            ArchitectureError: The choices are no point of the space.
        """
        content = read_json(path, repair=_REPAIR)
        try:
            return cls.from_dict(content)
        except (ArchitectureError, ArtifactError) as error:
            raise type(error)(f"{path}: {str(error):.1000} {_REPAIR}") from None
