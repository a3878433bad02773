"""The published results of all cells of NAS-Bench-201."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError, DataError
from lightning_nas.spaces.artifact import build_space
from lightning_nas.spaces.nasbench201.network import CELL_OPERATIONS
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tables.base import Table

EDGES = 6
"""Number of edges of a cell."""

_PUBLISHED = list(CELL_OPERATIONS)


class NASBench201Table(Table):
    """The results of the 15,625 cells of NAS-Bench-201, read from an npz file.

    The array ``ops``, ``(cells, 6)``, holds the operations of the edges 1<-0, 2<-0, 2<-1, 3<-0, 3<-1 and 3<-2, as
    indices into ``op_names``, their published names. All other arrays are columns, such as ``cifar10_test_200``, the
    test accuracies on CIFAR-10 after 200 epochs in percent. Architectures may be of any ``NASBench201Space``, whatever
    the order of its operations. The name of an architecture is its published string. ``nasbench201_from_download``
    writes the file from the official downloads.

    References:
        1. Dong, Yang: NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search, ICLR 2020,
           https://arxiv.org/abs/2001.00326

    Args:
        path: Path of the npz file.
        extra: Paths of further npz files with columns of the same cells, such as measured latencies, and the strings of
            the cells in ``arch``; see ``Table``.

    Example:
        ```yaml
        table: {class_path: NASBench201Table, init_args: {path: nasbench201.npz}}
        ```
    """

    contents = "NAS-Bench-201's results"
    members = ("arch", "ops", "op_names")

    @cached_property
    def space(self) -> NASBench201Space:
        """The space of all cells, with the operations in their published order."""
        return NASBench201Space()

    @cached_property
    def _last(self) -> NASBench201Space:
        """The space of the architecture that was looked up last, kept because most lookups are in the same one."""
        return self.space

    @cached_property
    def _cells(self) -> Any:
        """The operations of all cells, as indices into ``CELL_OPERATIONS``."""
        op_names, cells = self._arrays(self.path, "op_names", "ops")
        names = [str(name) for name in op_names.ravel()]
        indices = cells.dtype.kind in "iu" and bool(((cells >= 0) & (cells < len(names))).all())
        if sorted(names) != sorted(_PUBLISHED) or cells.shape[1:] != (EDGES,) or not len(cells) or not indices:
            raise DataError(
                f"{self.path} has operations {names!s:.300} and 'ops' of {cells.dtype} and shape {cells.shape}; "
                f"expected {_PUBLISHED} and (cells, {EDGES}), indices of these. Use the npz file of {self.contents}."
            )
        return np.array([_PUBLISHED.index(name) for name in names])[cells]

    @cached_property
    def _rows(self) -> Any:
        """The row of every cell by its six operations; -1 for cells that the file does not have."""
        rows = np.full((len(_PUBLISHED),) * EDGES, -1, np.int64)
        rows[tuple(self._cells.T)] = np.arange(len(self))
        if (rows >= 0).sum() != len(self):
            raise DataError(f"'ops' of {self.path} has a cell twice. Use the npz file of {self.contents}.")
        return rows

    def __len__(self) -> int:
        """Number of cells."""
        return len(self._cells)

    def architecture(self, row: int) -> Architecture:
        """The cell of a row; see ``Table.architecture``."""
        self._check_row(row)
        return self.space.architecture(self._cells[row].tolist())

    def rows(self, architectures: Sequence[Architecture]) -> Any:
        """The rows of cells; see ``Table.rows``."""
        cells = np.empty((len(architectures), EDGES), np.int64)
        space = self._last
        for cell, architecture in zip(cells, architectures, strict=True):
            if architecture.space != space.spec():
                other = build_space(architecture.space)
                if not isinstance(other, NASBench201Space):
                    raise ArchitectureError(
                        f"{self.path} has cells of NASBench201Space; the architecture is of "
                        f"{architecture.space.class_path}. Use architectures of that space, or another evaluator."
                    )
                space = self._last = other
            space.check(architecture)
            cell[:] = [_PUBLISHED.index(space.operations[choice]) for choice in architecture.choices]
        return self._rows[tuple(cells.T)]

    def named(self, names: Sequence[str]) -> Any:
        """The rows of cells given by their published strings; see ``Table.named``.

        Args:
            names: Strings such as ``|none~0|+|none~0|none~1|+|none~0|none~1|none~2|``.
        """
        cells = self._cells.tolist()
        rows = {published_name([_PUBLISHED[op] for op in cell]): row for row, cell in enumerate(cells)}
        return np.array([rows.get(name, -1) for name in names], np.int64)


def published_name(operations: Sequence[str]) -> str:
    """The published string of a cell.

    Args:
        operations: Names of the operations of the six edges, in the order of ``NASBench201Space``.
    """
    return "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*operations)
