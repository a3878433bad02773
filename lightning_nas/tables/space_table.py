"""A table of results of the architectures of any space."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.tables.base import Table
from lightning_nas.tables.official import write_table


class SpaceTable(Table):
    """Results of architectures of any space, such as measurements of your own, read from an npz file.

    The array ``choices``, integers of shape ``(rows, choices)``, describes the architectures. All other arrays are
    columns. The name of an architecture is its published text (``SearchSpace.text``). ``write_space_table`` writes such
    a file.

    Args:
        path: Path of the npz file.
        space: The space of the architectures.
        extra: Paths of further npz files with columns of the same architectures, and their texts in ``arch``; see
            ``Table``.

    Example:
        ```yaml
        table: {class_path: SpaceTable, init_args: {path: nasbench_macro.npz, space: NASBenchMacroSpace}}
        ```
    """

    contents = "measured architectures"
    members = ("choices",)

    def __init__(self, path: str, space: SearchSpace, *, extra: Sequence[str] = ()) -> None:
        super().__init__(path, extra)
        self._space = space

    @property
    def space(self) -> SearchSpace:
        """The space of the architectures."""
        return self._space

    @cached_property
    def _architectures(self) -> list[Architecture]:
        """The architectures, row by row."""
        (choices,) = self._arrays(self.path, "choices")
        width = len(self._space.num_values)
        if choices.dtype.kind not in "iu" or choices.shape[1:] != (width,) or not len(choices):
            raise DataError(
                f"'choices' of {self.path} is {choices.dtype} of shape {choices.shape}; expected integers of shape "
                f"(architectures, {width}), the choices of {type(self._space).__name__}. Use another file or space."
            )
        try:
            return [self._space.architecture(row) for row in choices.tolist()]
        except ArchitectureError as error:
            raise DataError(
                f"'choices' of {self.path} has something that is not of {type(self._space).__name__}: {error!s:.300} "
                "Use another file or space."
            ) from None

    @cached_property
    def _rows(self) -> dict[str, int]:
        """Rows by key."""
        rows = {self._space.key(architecture): row for row, architecture in enumerate(self._architectures)}
        if len(rows) != len(self):
            raise DataError(
                f"'choices' of {self.path} has {len(self)} rows for {len(rows)} different networks. Keep one row per "
                "network."
            )
        return rows

    @cached_property
    def _names(self) -> dict[str, int]:
        """Rows by published text."""
        return {self._space.text(architecture): row for row, architecture in enumerate(self._architectures)}

    def __len__(self) -> int:
        """Number of architectures."""
        return len(self._architectures)

    def architecture(self, row: int) -> Architecture:
        """The architecture of a row; see ``Table.architecture``."""
        self._check_row(row)
        return self._architectures[row]

    def rows(self, architectures: Sequence[Architecture]) -> Any:
        """The rows of architectures; see ``Table.rows``."""
        return np.array([self._rows.get(self._space.key(each), -1) for each in architectures], np.int64)

    def named(self, names: Sequence[str]) -> Any:
        """The rows of architectures given by their texts; see ``Table.named``."""
        return np.array([self._names.get(name, -1) for name in names], np.int64)


def write_space_table(path: str | Path, architectures: Sequence[Architecture], **columns: Any) -> Path:
    """Write the npz file of a ``SpaceTable``.

    Args:
        path: The file.
        architectures: The architectures, one per network.
        **columns: Columns by name: one number per architecture, or a row of trials; NaN where one is unknown, and
            accuracies in percent.

    Returns:
        The path.

    Raises:
        ArtifactError: The file cannot be written.
        ConfigError: A column has another number of rows.

    Example:
        ```python
        write_space_table("measured.npz", architectures, val_accuracy=[91.3, 90.8], parameters=[120_000, 80_000])
        ```
    """
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    wrong = [name for name, values in arrays.items() if len(values) != len(architectures)]
    if wrong or "choices" in arrays:
        raise ConfigError(
            f"The columns {wrong or ['choices']} cannot be stored for {len(architectures)} architectures. Give one "
            "value or row per architecture, and names other than choices."
        )
    choices = np.array([architecture.choices for architecture in architectures], np.int64)
    return write_table(path, {"choices": choices, **arrays})
