"""The published results of all NAS-Bench-201 cells."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.spaces.nasbench201 import NASBench201Space
from lightning_nas.spaces.nasbench201_network import CELL_OPERATIONS

_EDGES = 6
_UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, NotImplementedError, RuntimeError),
    *(SyntaxError, MemoryError, zipfile.BadZipFile, zlib.error),
)
"""What numpy and zipfile raise for a damaged or foreign file."""


class NASBench201Table:
    """Results of the 15,625 cells of NAS-Bench-201, read from one npz file.

    The file holds ``ops``, ``(cells, 6)``, indices into ``op_names``, the published names, for the edges 1<-0, 2<-0,
    2<-1, 3<-0, 3<-1, 3<-2. Its other arrays, one number a cell, are columns, such as ``cifar10_test_200``: the mean
    test accuracy on CIFAR-10 in percent after 200 epochs. Only columns that are asked for are read.

    References:
        1. Dong, Yang: NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search, ICLR 2020,
           https://arxiv.org/abs/2001.00326

    Args:
        path: The npz file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._read: dict[str, Any] = {}

    @contextmanager
    def _file(self) -> Iterator[Any]:
        """The open file.

        Raises:
            DataError: It is missing, damaged or of another kind.
        """
        try:
            # numpy leaves a damaged file open that it has opened itself
            with self.path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                yield file
        except FileNotFoundError:
            raise DataError(
                f"{self.path} does not exist. Set the table's path to the npz file of NAS-Bench-201's results."
            ) from None
        except _UNREADABLE as error:
            raise DataError(
                f"{self.path} cannot be read ({type(error).__name__}: {str(error):.200}). Use the npz file of "
                "NAS-Bench-201's results."
            ) from None

    @cached_property
    def columns(self) -> list[str]:
        """Names of all columns."""
        with self._file() as file:
            return sorted(name for name in file.files if name not in ("arch", "ops", "op_names"))

    @cached_property
    def _rows(self) -> Any:
        """Row of a cell by its six operations, in the order of ``CELL_OPERATIONS``; -1 for cells that are not there."""
        with self._file() as file:
            names, cells = [str(name) for name in file["op_names"]], file["ops"]
        published = list(CELL_OPERATIONS)
        known = sorted(names) == sorted(published)
        if not known or cells.ndim != 2 or cells.shape[1] != _EDGES or not (cells.astype(int) < len(names)).all():
            raise DataError(
                f"{self.path} has operations {names!s:.300} and 'ops' of shape {cells.shape}; expected {published} and "
                f"(cells, {_EDGES}), indices of these. Use the npz file of NAS-Bench-201's results."
            )
        rows = np.full((len(names),) * _EDGES, -1, np.int32)
        order = np.array([published.index(name) for name in names])
        rows[tuple(order[cells.T])] = np.arange(len(cells))
        return rows

    def _column(self, name: str) -> Any:
        if name not in self._read:
            if name not in self.columns:
                raise ConfigError(f"{self.path} has no column {name!r}; it has {self.columns}.")
            with self._file() as file:
                values, cells = file[name], len(file["ops"])
            if values.shape != (cells,) or values.dtype.kind not in "fiu":
                raise DataError(
                    f"{name!r} of {self.path} is {values.dtype} of shape {values.shape}; expected {cells} numbers. "
                    "Use the npz file of NAS-Bench-201's results."
                )
            self._read[name] = values
        return self._read[name]

    def lookup(self, architecture: Architecture, column: str) -> float:
        """Look a cell up.

        Args:
            architecture: Of any ``NASBench201Space``, whatever the order of its operations.
            column: Such as ``cifar10_test_200``.

        Returns:
            The column's value; accuracies are percent.

        Raises:
            ArchitectureError: The architecture is of another space.
            ConfigError: There is no such column.
            DataError: The file cannot be used, or has no value for this cell.
        """
        space = architecture.space.build()
        if not isinstance(space, NASBench201Space):
            raise ArchitectureError(
                f"{self.path} has cells of NASBench201Space; the architecture is of {architecture.space.class_path}. "
                "Take architectures of that space, or another evaluator."
            )
        text = space.text(architecture)
        published = list(CELL_OPERATIONS)
        values = self._column(column)
        row = self._rows[tuple(published.index(space.operations[choice]) for choice in architecture.choices)]
        value = float("nan") if row < 0 else float(values[row])
        if not np.isfinite(value):
            raise DataError(f"{self.path} has no {column} of {text}. Take another column or table.")
        return value
