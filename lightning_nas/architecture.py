"""A discrete point of a search space, as it is handed from stage to stage."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_nas.files.artifacts import write_json


@dataclass(frozen=True)
class SpaceSpec:
    """The identity of a search space: what decides which architectures it holds, and nothing else.

    Args:
        class_path: Full dotted path of the space's class.
        arguments: Constructor arguments as ``(name, value)`` pairs, sequences as tuples.
    """

    class_path: str
    arguments: tuple[tuple[str, Any], ...] = ()


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

    def save(self, path: str | Path, **provenance: Any) -> Path:
        """Write ``architecture.json``.

        Args:
            path: The file.
            **provenance: How it was found: scores, seeds, the search's configuration. JSON values.
        """
        return write_json(path, {**self.to_dict(), "provenance": provenance})
