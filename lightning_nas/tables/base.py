"""The contract of tables with known results."""

import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.spaces.artifact import build_space
from lightning_nas.spaces.base import SearchSpace

LARGEST_ARRAY = 2**28
"""Size in bytes of the largest array that is read from a table; a packed file could hold far more than its own size.
Those of the largest benchmarks have a tenth of it."""

_UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, NotImplementedError, RuntimeError),
    *(SyntaxError, MemoryError, zipfile.BadZipFile, zlib.error),
)
"""The errors that numpy and zipfile raise for a damaged or foreign file."""


class Table(ABC):
    """Known results of the architectures of a space, one row per architecture, read from an npz file.

    Some arrays of the file describe the architectures. All others are columns with one number per row, ``(rows,)``, or
    one per trial, ``(rows, trials)``, such as the accuracies of trainings with several seeds; NaN stands for an unknown
    number. A column is read when it is first used.

    Attributes:
        contents: What the file holds, for error messages.
        members: Names of the arrays that are not columns.

    Args:
        path: Path of the npz file.
        extra: Paths of further npz files with columns of the same architectures. Their rows may be in any order, and
            rows may be missing; their array ``arch`` holds the names of the architectures (see ``named``).

    Example:
        ```python
        table = NASBench201Table("nasbench201.npz")
        best = table.architecture(int(table.column("cifar10_val_200").argmax()))
        table.lookup(best, "cifar10_test_200")
        ```
    """

    contents: ClassVar[str]
    members: ClassVar[tuple[str, ...]]

    def __init__(self, path: str, extra: Sequence[str] = ()) -> None:
        self.path = Path(path)
        self.extra = tuple(Path(each) for each in extra)
        self._read: dict[str, Any] = {}
        self._means: dict[str, Any] = {}

    @property
    @abstractmethod
    def space(self) -> SearchSpace:
        """The space of the architectures."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def architecture(self, row: int) -> Architecture:
        """The architecture of a row.

        Args:
            row: Index of the row.

        Raises:
            ConfigError: There is no such row.
            DataError: The file cannot be used.
        """

    @abstractmethod
    def rows(self, architectures: Sequence[Architecture]) -> Any:
        """The rows of architectures.

        Args:
            architectures: The architectures, in any form: those with the same key are in the same row.

        Returns:
            The indices of the rows, an integer array; -1 for architectures that the table does not have.

        Raises:
            ArchitectureError: An architecture is of another space.
            DataError: The file cannot be used.
        """

    @abstractmethod
    def named(self, names: Sequence[str]) -> Any:
        """The rows of architectures given by their published names.

        Args:
            names: The names.

        Returns:
            The indices of the rows, an integer array; -1 for names that the table does not have.

        Raises:
            DataError: The file cannot be used.
        """

    @property
    def columns(self) -> list[str]:
        """Sorted names of all columns.

        Raises:
            DataError: A file is missing or damaged, or two files have a column of the same name.
        """
        return sorted(self._files)

    def column(self, name: str, trial: int | None = None) -> Any:
        """The numbers of a column.

        Args:
            name: Name of the column.
            trial: Index of the trial; None for the mean over all known trials.

        Returns:
            The numbers, ``(rows,)``, NaN where one is unknown; a read-only array.

        Raises:
            ConfigError: There is no such column or trial.
            DataError: A file cannot be used.
        """
        values = self._values(name)
        if trial is not None:
            trials = self.trials(name)
            if not 0 <= trial < trials:
                there = f"it has the trials 0 to {trials - 1}" if trials else "it has one number per architecture"
                raise ConfigError(
                    f"{name!r} of {self.path} has no trial {trial}: {there}. Choose another trial, or none."
                )
            return values[:, trial]
        if values.ndim == 1:
            return values
        if name not in self._means:
            known = ~np.isnan(values)
            counts, sums = known.sum(axis=1), np.where(known, values, 0).sum(axis=1, dtype=np.float64)
            self._means[name] = _fixed(np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0))
        return self._means[name]

    def trials(self, column: str) -> int:
        """Number of trials of a column; 0 if it has one number per architecture.

        Args:
            column: Name of the column.

        Raises:
            ConfigError: There is no such column.
            DataError: A file cannot be used.
        """
        values = self._values(column)
        return int(values.shape[1]) if values.ndim == 2 else 0

    def lookup(self, architecture: Architecture, column: str, trial: int | None = None) -> float:
        """Look up one architecture; see ``lookup_many``."""
        return float(self.lookup_many([architecture], column, trial)[0])

    def lookup_many(self, architectures: Sequence[Architecture], column: str, trial: int | None = None) -> Any:
        """Look up architectures.

        Args:
            architectures: The architectures, in any form.
            column: Name of the column.
            trial: Index of the trial; None for the mean over all known trials.

        Returns:
            The numbers of the column, float64 ``(architectures,)``; accuracies are in percent.

        Raises:
            ArchitectureError: An architecture is of another space.
            ConfigError: There is no such column or trial.
            DataError: A file cannot be used, or has no number for an architecture.
        """
        rows = self.rows(architectures)
        found = np.full(len(rows), np.nan)
        found[rows >= 0] = self.column(column, trial)[rows[rows >= 0]]
        for architecture, value in zip(architectures, found.tolist(), strict=True):
            if not np.isfinite(value):
                of = "" if trial is None else f" in trial {trial}"
                raise DataError(
                    f"{self.path} has no {column} of {build_space(architecture.space).text(architecture)}{of}. "
                    "Choose another column or table."
                )
        return found

    def _check_row(self, row: int) -> None:
        if not 0 <= row < len(self):
            raise ConfigError(f"Row {row} was asked for; {self.path} has the rows 0 to {len(self) - 1}.")

    @contextmanager
    def _open(self, path: Path) -> Iterator[Any]:
        """Open a file.

        Raises:
            DataError: The file is missing, damaged or of another kind.
        """
        own = path == self.path
        repair = f"the npz file of {self.contents}" if own else "npz files with more columns of its architectures"
        try:
            # numpy would leave a damaged file open that it has opened itself
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                yield file
        except FileNotFoundError:
            which = "path" if own else "extra"
            raise DataError(f"{path} does not exist. Set the table's {which} to {repair}.") from None
        except _UNREADABLE as error:
            raise DataError(
                f"{path} cannot be read ({type(error).__name__}: {str(error):.200}). Use {repair}."
            ) from None

    def _arrays(self, path: Path, *names: str) -> list[Any]:
        """Read arrays.

        Raises:
            DataError: The file is damaged, or an array is larger than any of a table.
        """
        with self._open(path) as file:
            sizes = {member.filename.removesuffix(".npy"): member.file_size for member in file.zip.infolist()}
            for name in names:
                if sizes.get(name, 0) > LARGEST_ARRAY:
                    raise DataError(
                        f"{name!r:.100} in {path} has {sizes[name]} bytes when it is unpacked; arrays of tables have "
                        f"at most {LARGEST_ARRAY}. Use another file of {self.contents}."
                    )
            return [file[name] for name in names]

    @cached_property
    def _files(self) -> dict[str, Path]:
        """The file of every column, by the name of the column."""
        files: dict[str, Path] = {}
        for path in (self.path, *self.extra):
            with self._open(path) as file:
                names = [name for name in file.files if name not in (*self.members, "arch")]
            for name in names:
                if name in files:
                    raise DataError(
                        f"{files[name]} and {path} both have a column {name!r}. Leave one of the files out."
                    )
                files[name] = path
        return files

    def _values(self, name: str) -> Any:
        """A column as it is stored, but with one row per architecture of the table."""
        if name not in self._read:
            if name not in self._files:
                raise ConfigError(f"{self.path} has no column {name!r}; it has {self.columns}.{self._hint(name)}")
            path = self._files[name]
            rows = np.arange(len(self)) if path == self.path else self._rows_of(path)
            (values,) = self._arrays(path, name)
            shaped = values.ndim in (1, 2) and len(values) == len(rows) and values.size
            if not shaped or values.dtype.kind not in "fiu":
                raise DataError(
                    f"{name!r} of {path} is {values.dtype} of shape {values.shape}; expected {len(rows)} numbers, or "
                    f"as many rows of trials. Use another file of {self.contents}."
                )
            if path != self.path:
                spread = np.full((len(self), *values.shape[1:]), np.nan)
                spread[rows[rows >= 0]] = values[rows >= 0]
                values = spread
            self._read[name] = _fixed(values)
        return self._read[name]

    def _hint(self, name: str) -> str:
        if "val" not in name or any("val" in column.split("_") for column in self.columns):
            return ""
        return (
            " There are no validation accuracies among them. Choose a column of test accuracies, and set objective to "
            "test."
        )

    def _rows_of(self, path: Path) -> Any:
        """The rows of an extra file's architectures, in its order; -1 for those that this table does not have."""
        (names,) = self._arrays(path, "arch")
        rows = self.named([str(name) for name in names.ravel()])
        known = rows[rows >= 0]
        if names.ndim != 1 or not len(known) or len(np.unique(known)) != len(known):
            raise DataError(
                f"'arch' of {path} has shape {names.shape} and names {len(known)} rows of {self.path}, "
                f"{len(np.unique(known))} of them different; the names of its architectures were expected, each once. "
                "Use npz files with more columns of its architectures."
            )
        return rows


def _fixed(values: Any) -> Any:
    values.flags.writeable = False
    return values
