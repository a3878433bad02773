"""Names of many files in little memory."""

import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import torch
from torch import Tensor


class FileNames:
    """Paths of files, whose names lie one after the other in one array: about 60 bytes each instead of several hundred.

    Args:
        root: Folder that the names are relative to.
        names: The names, with ``/`` between folders.

    Example:
        ```python
        files = FileNames(Path("images"), ["cat/1.png", "dog/2.png"])
        files[1]  # Path("images/dog/2.png")
        ```
    """

    def __init__(self, root: Path | None = None, names: Iterable[str] = ()) -> None:
        text, ends = bytearray(), array("q", [0])
        for name in names:
            text += os.fsencode(name)
            ends.append(len(text))
        self.root = Path() if root is None else root
        self._text = bytes(text)
        limits = torch.frombuffer(ends, dtype=torch.int64)
        self._starts, self._ends = limits[:-1], limits[1:]

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, index: int) -> str:
        """The name of a file.

        Args:
            index: Its place.
        """
        return os.fsdecode(self._text[int(self._starts[index]) : int(self._ends[index])])

    def __getitem__(self, index: int) -> Path:
        """The path of a file."""
        return self.root / self.name(index)

    def __iter__(self) -> Iterator[Path]:
        """All paths in order."""
        return (self[index] for index in range(len(self)))

    def select(self, indices: Tensor) -> Self:
        """The files at some places, in that order.

        Args:
            indices: The places, ``(n,)`` of type int64.
        """
        chosen = object.__new__(type(self))
        chosen.root, chosen._text = self.root, self._text
        chosen._starts, chosen._ends = self._starts[indices], self._ends[indices]
        return chosen
