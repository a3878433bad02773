"""Image files in one folder per class, decoded when they are asked for."""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from lightning_nas.data.sets import Batch, LabelledImages
from lightning_nas.errors import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Endings of file names that ``FolderSet`` takes for images."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that such files may have, whatever their names say: for some other formats, Pillow starts other programs."""


class FolderSet(LabelledImages):
    """Image files in one folder per class, decoded when they are asked for.

    Each image becomes RGB, is scaled so that its shorter side fits, and is cropped at its centre.

    Args:
        root: Folder that contains one folder of images per class.
        image_size: Height and width in pixels.
        class_names: Names of the classes in the order of their labels; all folders in ``root``, sorted, if None.

    Raises:
        DataError: There is no such folder or it has no classes, a class has no images, or a class is not in
            ``class_names``.
    """

    def __init__(self, root: str | Path, image_size: int, class_names: list[str] | None = None) -> None:
        root = Path(root)
        expected = f"expected {root}/<class>/<image>, with images of the kinds {', '.join(sorted(SUFFIXES))}"
        if not root.is_dir():
            raise DataError(f"{root} is not a folder; {expected}. Check the path.")
        found = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != ".")
        names = class_names or found
        if unknown := sorted(set(found) - set(names)):
            raise DataError(f"{root} has the classes {unknown}, which the training folder lacks. Remove or add them.")
        if not found:
            raise DataError(f"{root} has no folders of classes; {expected}.")
        files, labels = [], []
        for name in found:
            paths = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in SUFFIXES)
            if not paths:
                raise DataError(f"{root / name} contains no images; {expected}. Remove the folder or fill it.")
            files += paths
            labels += [names.index(name)] * len(paths)
        super().__init__(torch.tensor(labels), names)
        self.files = files
        self.image_size = image_size

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(3, height, width)``."""
        return 3, self.image_size, self.image_size

    @property
    def nbytes(self) -> int:
        """Size in bytes of all decoded images together."""
        return len(self) * 3 * self.image_size**2

    def __getitems__(self, indices: list[int]) -> Batch:
        """Decode the files at ``indices``: images, uint8 ``(batch, 3, height, width)``, and labels ``(batch,)``.

        Raises:
            DataError: A file is not a complete image; the message names it.
        """
        return torch.stack([self._decode(self.files[index]) for index in indices]), self.labels[indices]

    def select(self, indices: Tensor) -> Self:
        """Keep the files at ``indices``, in that order."""
        chosen = object.__new__(type(self))
        LabelledImages.__init__(chosen, self.labels[indices], self.class_names)
        chosen.files = [self.files[index] for index in indices.tolist()]
        chosen.image_size = self.image_size
        return chosen

    def _decode(self, path: Path) -> Tensor:
        import numpy as np
        from PIL import Image, ImageOps

        try:
            with Image.open(path, formats=FORMATS) as image:
                fitted = ImageOps.fit(
                    image.convert("RGB"), (self.image_size, self.image_size), Image.Resampling.BILINEAR
                )
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} is not a complete image ({error}). Replace or delete it.") from None
        return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)
