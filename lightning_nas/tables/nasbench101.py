"""The published results of all cells of NAS-Bench-101."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from lightning_nas.architecture import Architecture
from lightning_nas.errors import DataError
from lightning_nas.spaces.nasbench101.cell import VERTICES
from lightning_nas.spaces.nasbench101.network import CELL_OPERATIONS
from lightning_nas.spaces.nasbench101.space import NASBench101Space
from lightning_nas.tables.base import Table

_INNER = VERTICES - 2
_HASH = re.compile("[0-9a-f]{32}")


class NASBench101Table(Table):
    """The results of the 423,624 cells of NAS-Bench-101, read from an npz file.

    The file describes the cells by these arrays:

    - ``module_hash``, ``(cells, 16)``: the bytes of ``NASBench101Space.key``, by which the rows ascend
    - ``num_vertices``, ``(cells,)``, and ``edge_bits``, ``(cells,)``: the graph; bit ``x + y(y - 1)/2`` is the edge
      from vertex x to vertex y
    - ``ops``, ``(cells, 5)``: the operations of the inner vertices, as indices into ``op_names``, their published names

    All other arrays are columns, such as ``test_acc_108``, the test accuracies on CIFAR-10 after 108 epochs in percent.
    The name of an architecture is its key. ``nasbench101_from_tfrecord`` writes the file from the official download.

    References:
        1. Ying, Klein, Real, Christiansen, Murphy, Hutter: NAS-Bench-101: Towards Reproducible Neural Architecture
           Search, ICML 2019, https://arxiv.org/abs/1902.09635

    Args:
        path: Path of the npz file.
        extra: Paths of further npz files with columns of the same cells, and the keys of the cells in ``arch``; see
            ``Table``.

    Example:
        ```yaml
        table: {class_path: NASBench101Table, init_args: {path: nasbench101.npz}}
        ```
    """

    contents = "NAS-Bench-101's results"
    members = ("module_hash", "edge_bits", "num_vertices", "ops", "op_names")

    @cached_property
    def space(self) -> NASBench101Space:
        """The space of all cells."""
        return NASBench101Space()

    @cached_property
    def _hashes(self) -> Any:
        """The ascending hashes of all cells, 16 bytes each."""
        (stored,) = self._arrays(self.path, "module_hash")
        if stored.dtype != np.uint8 or stored.shape[1:] != (16,) or not len(stored):
            raise DataError(
                f"'module_hash' of {self.path} is {stored.dtype} of shape {stored.shape}; expected uint8 and (cells, "
                f"16). Use the npz file of {self.contents}."
            )
        hashes = np.ascontiguousarray(stored).view("S16").ravel()
        if not (hashes[:-1] < hashes[1:]).all():
            raise DataError(f"'module_hash' of {self.path} does not ascend. Use the npz file of {self.contents}.")
        return hashes

    @cached_property
    def _cells(self) -> tuple[Any, Any, Any, list[str]]:
        """Edge bits, number of vertices and operations of all cells, and the names of the operations."""
        bits, sizes, ops, op_names = self._arrays(self.path, "edge_bits", "num_vertices", "ops", "op_names")
        names, cells = [str(name) for name in op_names.ravel()], len(self)
        shapes = bits.shape == sizes.shape == (cells,) and ops.shape == (cells, _INNER)
        integers = {bits.dtype.kind, sizes.dtype.kind, ops.dtype.kind} <= {*"iu"}
        sound = shapes and integers and bool(((sizes >= 2) & (sizes <= VERTICES)).all())
        if sound:
            used = ops[np.arange(_INNER) < sizes[:, None].astype(int) - 2]
            sound = bool(((used >= 0) & (used < len(names))).all())
        if not sound or sorted(names) != sorted(CELL_OPERATIONS):
            raise DataError(
                f"{self.path} has operations {names!s:.300}, 'edge_bits', 'num_vertices' and 'ops' of the shapes "
                f"{bits.shape}, {sizes.shape} and {ops.shape}; expected {list(CELL_OPERATIONS)}, ({cells},), "
                f"({cells},), from 2 to {VERTICES}, and ({cells}, {_INNER}), indices of the operations. Use the npz "
                f"file of {self.contents}."
            )
        return bits, sizes, ops, names

    def __len__(self) -> int:
        """Number of cells."""
        return len(self._hashes)

    def architecture(self, row: int) -> Architecture:
        """The cell of a row, with its vertices in the order of the file; see ``Table.architecture``."""
        self._check_row(row)
        bits, sizes, ops, names = self._cells
        graph, size = int(bits[row]), int(sizes[row])
        matrix = [[graph >> x + y * (y - 1) // 2 & 1 if x < y else 0 for y in range(size)] for x in range(size)]
        return self.space.from_matrix(matrix, [names[op] for op in ops[row, : size - 2]])

    def rows(self, architectures: Sequence[Architecture]) -> Any:
        """See ``Table.rows``."""
        return self.named([self.space.key(architecture) for architecture in architectures])

    def named(self, names: Sequence[str]) -> Any:
        """The rows of cells given by their keys, 32 hexadecimal digits each; see ``Table.named``."""
        wanted = np.array([bytes.fromhex(name) if _HASH.fullmatch(name) else b"" for name in names], "S16")
        rows = np.searchsorted(self._hashes, wanted)
        found = self._hashes[np.minimum(rows, len(self) - 1)] == wanted
        return np.where(found, rows, -1)
