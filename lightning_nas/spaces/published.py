"""Architectures as they are published: as text."""

import ast
from typing import Any

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.literals import expression, without_name
from lightning_nas.spaces.nasbench201.space import NASBench201Space


def as_text(value: Any) -> str:
    """The text of an architecture that YAML has read as a list or a dictionary.

    Args:
        value: The text itself, or lists and dictionaries of names, numbers, and parts of Python's tuples, which YAML
            takes for text: of ``[('skip_connect', 0)]`` it makes ``["('skip_connect'", "0)"]``.
    """
    if isinstance(value, str):
        return value
    return _rejoined(value)


def _rejoined(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{str(key)!r}: {_rejoined(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_rejoined, value)) + "]"
    is_name = isinstance(value, str) and value.isidentifier()
    return repr(value) if is_name else str(value)


def is_published(text: str) -> bool:
    """Whether a text is an architecture rather than the path of a file.

    Published forms have brackets or vertical bars; a path with such characters is one if it ends in ``.json``.

    Args:
        text: The text.
    """
    return not text.strip().endswith(".json") and any(character in text for character in "|([{")


def parse_published(text: str) -> Architecture:
    """Read an architecture in a published form, with or without a name before it.

    Args:
        text: ``Genotype(normal=[...], ...)`` of the DARTS space (see ``DARTSSpace.parse``), or
            ``|nor_conv_3x3~0|+...`` of NAS-Bench-201, also as nested tuples (see ``NASBench201Space.parse``).

    Raises:
        ArchitectureError: The text is not an architecture of these spaces. The message names what is different.

    Example:
        ```python
        architecture = parse_published("arch: |none~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|none~2|")
        ```
    """
    bare = without_name(text)
    if bare.startswith("|"):
        return NASBench201Space.parse(text)
    try:
        node = expression(bare)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deeply
        raise ArchitectureError(
            "Not an architecture in a published form, which are 'Genotype(normal=[...], ...)' and "
            f"'|op~0|+|op~0|op~1|+|op~0|op~1|op~2|': received {text[:120]!r}. Name the architecture.json of a search, "
            "or copy the whole text."
        ) from None
    if isinstance(node, (ast.Call, ast.Dict)):
        return DARTSSpace.parse(text)
    return NASBench201Space.parse(text)
