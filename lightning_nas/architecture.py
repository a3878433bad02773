"""Architectures: discrete points of a search space, as one stage hands them to the next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from lightning_nas.files.artifacts import write_json
from lightning_nas.files.classes import imported_class


@dataclass(frozen=True)
class SpaceSpec:
    """The identity of a search space: what decides which architectures it contains, and nothing else.

    Sizes of its networks, such as channels, are not part of it: the same architecture can be built in any size.

    A pickled identity refers to the classes that it names, so that another process, such as a worker of
    ``Processes``, imports their modules when it unpickles an architecture.

    Args:
        class_path: Dotted path of the space's class, such as ``lightning_nas.spaces.DARTSSpace``.
        arguments: Constructor arguments as ``(name, value)`` pairs, in any order. The attribute has them in
            alphabetical order, with lists as tuples.
    """

    class_path: str
    arguments: Sequence[tuple[str, Any]] = ()

    def __post_init__(self) -> None:
        """Bring the arguments into the form in which equal ones are equal and can be hashed."""
        pairs = [(str(name), frozen(value)) for name, value in self.arguments]
        object.__setattr__(self, "arguments", tuple(sorted(pairs, key=itemgetter(0))))

    def __reduce__(self) -> tuple[Any, ...]:
        """Refer to the classes by themselves, too: unpickling a class imports its module."""
        named = {text: imported_class(text) for text in (self.class_path, *_texts(self.arguments))}
        return _unpickled, (self.class_path, self.arguments, [kind for kind in named.values() if kind is not None])


def frozen(value: Any) -> Any:
    """Convert lists to tuples at all depths, so that the value can be hashed.

    Args:
        value: JSON value without dictionaries.
    """
    return tuple(frozen(each) for each in value) if isinstance(value, (list, tuple)) else value


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _texts(each)


def _unpickled(class_path: str, arguments: tuple[tuple[str, Any], ...], classes: list[type]) -> SpaceSpec:
    """Make an identity whose classes have been imported on the way."""
    return SpaceSpec(class_path, arguments)


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
