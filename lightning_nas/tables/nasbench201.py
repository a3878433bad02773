"""The published results of all NAS-Bench-201 cells."""

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

_EDGES = 6
_PUBLISHED = list(CELL_OPERATIONS)


class NASBench201Table(Table):
    """Results of the 15,625 cells of NAS-Bench-201, read from an npz file.

    The file holds ``ops``, ``(cells, 6)``, indices into ``op_names``, the published names, for the edges 1<-0, 2<-0,
    2<-1, 3<-0, 3<-1, 3<-2. Its other arrays are columns, such as ``cifar10_test_200``: the mean test accuracy on
    CIFAR-10 in percent after 200 epochs. Architectures may be of any ``NASBench201Space``, whatever the order of its
    operations; their names are the published strings.

    References:
        1. Dong, Yang: NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search, ICLR 2020,
           https://arxiv.org/abs/2001.00326

    Args:
        path: The npz file.
        extra: More npz files with columns of the same cells, such as measured latencies, and the cells' strings in
            ``arch``; see ``Table``.
    """

    contents = "NAS-Bench-201's results"
    members = ("arch", "ops", "op_names")

    @cached_property
    def space(self) -> NASBench201Space:
        """The space with all operations in their published order."""
        return NASBench201Space()

    @cached_property
    def _last(self) -> NASBench201Space:
        """The space of the architecture that was looked up last."""
        return self.space

    @cached_property
    def _cells(self) -> Any:
        """The operations of all cells, in the order of ``CELL_OPERATIONS``."""
        op_names, cells = self._arrays(self.path, "op_names", "ops")
        names = [str(name) for name in op_names.ravel()]
        indices = cells.dtype.kind in "iu" and bool(((cells >= 0) & (cells < len(names))).all())
        if sorted(names) != sorted(_PUBLISHED) or cells.shape[1:] != (_EDGES,) or not len(cells) or not indices:
            raise DataError(
                f"{self.path} has operations {names!s:.300} and 'ops' of {cells.dtype} and shape {cells.shape}; "
                f"expected {_PUBLISHED} and (cells, {_EDGES}), indices of these. Use the npz file of {self.contents}."
            )
        return np.array([_PUBLISHED.index(name) for name in names])[cells]

    @cached_property
    def _rows(self) -> Any:
        """Row of a cell by its six operations; -1 for cells that are not there."""
        rows = np.full((len(_PUBLISHED),) * _EDGES, -1, np.int64)
        rows[tuple(self._cells.T)] = np.arange(len(self))
        if (rows >= 0).sum() != len(self):
            raise DataError(f"'ops' of {self.path} has a cell twice. Use the npz file of {self.contents}.")
        return rows

    def __len__(self) -> int:
        """Number of cells."""
        return len(self._cells)

    def architecture(self, row: int) -> Architecture:
        """See ``Table.architecture``."""
        self._check_row(row)
        return self.space.architecture(self._cells[row].tolist())

    def rows(self, architectures: Sequence[Architecture]) -> Any:
        """See ``Table.rows``."""
        cells = np.empty((len(architectures), _EDGES), np.int64)
        # built anew only where it is another than before: many look-ups are of one architecture
        space = self._last
        for cell, architecture in zip(cells, architectures, strict=True):
            if architecture.space != space.spec():
                other = build_space(architecture.space)
                if not isinstance(other, NASBench201Space):
                    raise ArchitectureError(
                        f"{self.path} has cells of NASBench201Space; the architecture is of "
                        f"{architecture.space.class_path}. Take architectures of that space, or another evaluator."
                    )
                space = self._last = other
            space.check(architecture)
            cell[:] = [_PUBLISHED.index(space.operations[choice]) for choice in architecture.choices]
        return self._rows[tuple(cells.T)]

    def named(self, names: Sequence[str]) -> Any:
        """See ``Table.named``; names are such as ``|none~0|+|none~0|none~1|+|none~0|none~1|none~2|``."""
        form = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format
        rows = {form(*(_PUBLISHED[op] for op in cell)): row for row, cell in enumerate(self._cells.tolist())}
        return np.array([rows.get(name, -1) for name in names], np.int64)
