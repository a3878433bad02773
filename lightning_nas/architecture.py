"""Architectures: discrete points of a search space, as one stage hands them to the next."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_nas.files.artifacts import write_json


@dataclass(frozen=True)
class SpaceSpec:
    """The identity of a search space: what decides which architectures it contains, and nothing else.

    Sizes of its networks, such as channels, are not part of it: the same architecture can be built in any size.

    Args:
        class_path: Dotted path of the space's class, such as ``lightning_nas.spaces.DARTSSpace``.
        arguments: Constructor arguments as ``(name, value)`` pairs in alphabetical order, with sequences as tuples.
    """

    class_path: str
    arguments: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Architecture:
    """A discrete point of a search space: frozen, hashable, and storable as JSON.

    It holds plain data and knows nothing of its space; ``lightning_nas.spaces.load_architecture`` reads one from a file
    and checks it against its space.

    Args:
        space: The identity of the space that it belongs to.
        choices: What was chosen, as integers whose meaning the space defines.

    Example:
        >>> from lightning_nas.spaces import NASBench201Space, load_architecture
        >>> architecture = NASBench201Space().architecture([3, 3, 1, 3, 1, 3])
        >>> load_architecture(architecture.save("architecture.json", score=0.93)) == architecture
        True
    """

    space: SpaceSpec
    choices: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``architecture.json`` without schema and provenance, as JSON values."""
        space = {"class_path": self.space.class_path, "arguments": dict(self.space.arguments)}
        return {"space": space, "choices": list(self.choices)}

    def save(self, path: str | Path, **provenance: Any) -> Path:
        """Write ``architecture.json``.

        Args:
            path: The file to write.
            **provenance: How the architecture was found, as JSON values: scores, seeds, the configuration of the
                search.

        Returns:
            The path.

        Raises:
            ArtifactError: The file cannot be written.
        """
        return write_json(path, {**self.to_dict(), "provenance": provenance})
