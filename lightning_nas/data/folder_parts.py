"""How image files in a folder are divided into training, validation and test images."""

import csv
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from sys import intern

import torch

from lightning_nas.data.file_names import FileNames
from lightning_nas.data.folders import FolderSet, image_names
from lightning_nas.data.inspection import note
from lightning_nas.data.splits import stratified
from lightning_nas.errors import ArtifactError, DataError
from lightning_nas.files.artifacts import write_bytes

COLUMNS = ("file_name", "label", "split")
"""Columns of a file that says what each image is of, and for."""

PARTS = ("train", "validation", "test")
"""Values of the column ``split``."""

_NAMED = 5
"""Number of files that an error message names."""


@dataclass(frozen=True)
class FolderLayout:
    """Where the images of a data set are below its folder.

    Attributes:
        root: The folder.
        train: Name of the folder of training images.
        validation: Name of the folder of validation images; None for no such folder.
        test: Name of the folder of test images.
        split_file: Path of the table of images, relative to ``root``.
        test_fraction: Fraction of the images of an undivided folder that become test images.
        split_seed: Seed of their choice.
        image_size: Height and width in pixels.
        background: Colour behind transparent pixels.
    """

    root: Path
    train: str
    validation: str | None
    test: str
    split_file: str
    test_fraction: float
    split_seed: int
    image_size: int
    background: str

    def part(self, name: str, class_names: Callable[[], list[str]]) -> FolderSet | None:
        """List the images of a part.

        Args:
            name: One of ``PARTS``.
            class_names: Returns the names of the classes; called for all parts but ``train``.

        Returns:
            The images; None if there is no validation part.

        Raises:
            DataError: The images are missing, or their table is damaged.
        """
        if self.table.is_file():
            return self._listed(name)
        if not (self.root / self.train).is_dir() and self._undivided():
            self._divide()
            return self._listed(name)
        folder = {"train": self.train, "validation": self.validation, "test": self.test}[name]
        if name == "validation" and (folder is None or not (self.root / folder).is_dir()):
            return None
        assert folder is not None
        names = None if name == "train" else class_names()
        return FolderSet(self.root / folder, self.image_size, names, self.background)

    @property
    def table(self) -> Path:
        """The table of images, which need not exist."""
        return self.root / self.split_file

    def _undivided(self) -> bool:
        """Whether the folder holds classes instead of parts."""
        others = {self.validation, self.test}
        folders = (path for path in self.root.glob("[!.]*") if path.is_dir() and path.name not in others)
        if not any(next(image_names(folder), None) for folder in folders):
            return False
        if not self.test_fraction:
            raise DataError(
                f"{self.root} has no folder {self.train!r}, but images. If these are the classes, set test_fraction to "
                f"the fraction of test images, such as 0.2; the division is stored in {self.table}. If the training "
                "images are in a folder of another name, set train to it."
            )
        return True

    def _divide(self) -> None:
        """Divide the images of an undivided folder, and write their table."""
        images = FolderSet(self.root, self.image_size, None, self.background)
        test = stratified(images.labels, self.test_fraction, self.split_seed).tolist()
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(COLUMNS)
        for i, (label, is_test) in enumerate(zip(images.labels.tolist(), test, strict=True)):
            rows.writerow([images.files.name(i), images.class_names[label], "test" if is_test else "train"])
        try:
            write_bytes(self.table, text.getvalue().encode("utf-8", "surrogateescape"))
        except ArtifactError as error:
            raise DataError(
                f"The division of {self.root} cannot be stored: {error} Set split_file to a path elsewhere."
            ) from None

    def _listed(self, part: str) -> FolderSet | None:
        """The images of a part, by the table."""
        names = sorted({label for _, label, _ in self.rows})
        places = {name: place for place, name in enumerate(names)}
        chosen = [(file, places[label]) for file, label, split in self.rows if split == part]
        if part == "validation" and not chosen:
            return None
        if not chosen:
            raise DataError(f"{self.table} has no row with the split {part!r}. Add some, or delete it.")
        files = FileNames(self.root, (file for file, _ in chosen))
        labels = torch.tensor([label for _, label in chosen], dtype=torch.int64)
        return FolderSet.listed(files, labels, names, self.root, self.image_size, self.background)

    @cached_property
    def rows(self) -> list[tuple[str, str, str]]:
        """File, label and part of every image in the table.

        Raises:
            DataError: The table is damaged, or files that it names are missing.
        """
        expected = (
            f"Expected columns {', '.join(COLUMNS)}, and as split one of {', '.join(PARTS)}. Correct or delete it."
        )
        rows = []
        try:
            with self.table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
                for number, row in enumerate(csv.DictReader(file, strict=True), 2):
                    values = [row.get(column) for column in COLUMNS]
                    if not all(values) or values[2] not in PARTS:
                        raise DataError(f"Row {number} of {self.table} is {str(row):.200}. {expected}")
                    rows.append((str(values[0]), intern(str(values[1])), intern(str(values[2]))))
        except (OSError, csv.Error) as error:
            raise DataError(f"{self.table} is not a table of images ({error}). {expected}") from None
        if not rows:
            raise DataError(f"{self.table} has no rows. {expected}")
        missing = [name for name, _, _ in rows if not (self.root / name).is_file()]
        if missing:
            shown = ", ".join(missing[:_NAMED])
            raise DataError(
                f"{len(missing)} of {len(rows)} files in {self.table} do not exist, such as {shown}. Restore them, or "
                "remove their rows."
            )
        listed = {os.path.normpath(self.root / name) for name, _, _ in rows}
        root = os.path.normpath(self.root)
        others = sum(f"{root}{os.sep}{name}" not in listed for name in image_names(self.root))
        if others:
            note(
                f"{others} images in {self.root} are not used, because {self.table} does not list them. Add them "
                "there, or delete it to have all images divided anew."
            )
        return rows
