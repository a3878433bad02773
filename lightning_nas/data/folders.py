"""Image files in one folder per class."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_nas.data.file_names import FileNames
from lightning_nas.data.inspection import note
from lightning_nas.data.loaders import whole
from lightning_nas.data.pixels import eight_bits
from lightning_nas.data.sets import Batch, ImageSet, LabelledImages
from lightning_nas.errors import ConfigError, DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Endings of file names that ``FolderSet`` takes for images."""

_ENDINGS = tuple(SUFFIXES)

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that such files may have, whatever their names say: for some other formats, Pillow starts other programs."""

SKIPPED_FOLDER = "__MACOSX"
"""Folder that macOS puts into archives. Files and folders whose names begin with a dot are skipped, too."""

_NAMED = 5
"""Number of files that an error message names."""

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
"""Tags of a TIFF file that say how many bits a value has, and whether 0 stands for white (0) or for black (1)."""

_STRAIGHT = {"La": "LA", "RGBa": "RGBA"}
"""Pillow's modes of colours that are multiplied by their alpha already, and those without that."""


class FolderSet(LabelledImages):
    """Image files in one folder per class, decoded when they are asked for.

    Each image is turned upright (EXIF orientation), converted to 8 bits (``lightning_nas.data.pixels``), composited
    over a background where it is transparent, converted to RGB, scaled so that its shorter side fits, and cropped at
    its centre. Of an animation or a file with several pages, the first image counts. Hidden files and folders are
    skipped.

    Args:
        root: Folder that contains one folder of images per class.
        image_size: Height and width in pixels.
        class_names: Names of the classes in the order of their labels; all folders in ``root``, sorted, if None.
        background: Colour behind transparent pixels: a name or a value such as ``#ffffff``.

    Raises:
        ConfigError: There is no such colour.
        DataError: There is no such folder or it has no classes, a class has no images, or a class is not in
            ``class_names``.
    """

    def __init__(
        self, root: str | Path, image_size: int, class_names: list[str] | None = None, background: str = "white"
    ) -> None:
        root = Path(root)
        expected = f"expected {root}/<class>/<image>, with images of the kinds {', '.join(sorted(SUFFIXES))}"
        if not root.is_dir():
            raise DataError(f"{root} is not a folder; {expected}. Check the path.")
        found = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not _is_hidden(entry.name))
        names = class_names or found
        if unknown := sorted(set(found) - set(names)):
            raise DataError(f"{root} has the classes {unknown}, which the training folder lacks. Remove or add them.")
        if not found:
            raise DataError(f"{root} has no folders of classes; {expected}.")
        counts = []

        def images() -> Iterator[str]:
            for name in found:
                own = list(image_names(root / name, f"{name}/"))
                if not own:
                    raise DataError(f"{root / name} contains no images; {expected}. Remove the folder or fill it.")
                counts.append(len(own))
                yield from own

        files = FileNames(root, images())
        labels = torch.tensor([names.index(name) for name in found]).repeat_interleave(torch.tensor(counts))
        self._hold(files, labels, names, root, image_size, color(background))

    def _hold(
        self,
        files: FileNames,
        labels: Tensor,
        class_names: list[str],
        root: Path,
        image_size: int,
        background: tuple[int, int, int],
        said: bool = False,
    ) -> None:
        super().__init__(labels, class_names)
        self.files = files
        self.root = root
        self.image_size = image_size
        self.background = background
        self._said = said

    @classmethod
    def listed(
        cls, files: FileNames, labels: Tensor, class_names: list[str], root: Path, image_size: int, background: str
    ) -> Self:
        """Make a set of some image files, wherever they are.

        Args:
            files: The files.
            labels: Their labels, int64 ``(n,)``.
            class_names: Names of the classes in the order of the labels.
            root: What error messages call the files.
            image_size: Height and width in pixels.
            background: Colour behind transparent pixels.
        """
        made = object.__new__(cls)
        made._hold(files, labels, class_names, root, image_size, color(background))
        return made

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
            DataError: Some files cannot be used; the message says how many, and names the first five.
        """
        return self._joined([self.decode(indices)]), self.labels[indices]

    def original(self, index: int) -> Tensor:
        """Decode a file in its own size; see ``LabelledImages.original``."""
        return _tensor(_decode(self.files[index], self.background)[0])

    def select(self, indices: Tensor) -> Self:
        """Keep the files at ``indices``, in that order."""
        chosen = object.__new__(type(self))
        files = self.files.select(indices)
        chosen._hold(
            *(files, self.labels[indices], self.class_names, self.root, self.image_size, self.background, self._said)
        )
        return chosen

    def decode(self, indices: Iterable[int]) -> "Decoded":
        """Decode the files at ``indices``, and collect the errors of those that cannot be used."""
        images, errors, transparent = [], [], 0
        for index in indices:
            try:
                pixels, has_alpha = decode_image(self.files[index], self.image_size, self.background)
            except DataError as error:
                errors.append(str(error))
            else:
                images.append(pixels)
                transparent += has_alpha
        joined = torch.stack(images) if images else torch.zeros(0, *self.image_shape, dtype=torch.uint8)
        return Decoded(joined, errors, transparent)

    def in_memory(self, num_workers: int) -> ImageSet:
        """Decode all files.

        Args:
            num_workers: Number of processes that decode; 0 decodes in this process.

        Raises:
            DataError: Some files cannot be used; the message says how many, and names the first five.
        """
        batches: Any = DataLoader(_Decoding(self), 256, num_workers=num_workers, collate_fn=whole)
        decoded = ImageSet(self._joined(batches), self.labels, self.class_names, source=str(self.root))
        decoded.files = self.files
        return decoded

    def _joined(self, batches: Iterable["Decoded"]) -> Tensor:
        """Join decoded images, ``(n, 3, height, width)``, unless there are errors."""
        parts = list(batches)
        images = torch.cat([part.images for part in parts])
        errors = [error for part in parts for error in part.errors]
        transparent = sum(part.transparent for part in parts)
        if errors:
            total = len(errors) + len(images)
            counted = f"{len(errors)} of {total} image files in {self.root} cannot be used. " if len(errors) > 1 else ""
            more = f" And {len(errors) - _NAMED} more." if len(errors) > _NAMED else ""
            raise DataError(f"{counted}{' '.join(errors[:_NAMED])}{more}")
        if transparent and not self._said:
            self._said = True
            note(
                f"{transparent} of {len(images)} images in {self.root} have transparent parts, behind which the "
                f"background {self.background} (red, green, blue) was put. Set background to change it."
            )
        return images


@dataclass(frozen=True)
class Decoded:
    """What became of some files.

    Attributes:
        images: Images of the files that could be used, uint8 ``(n, 3, height, width)``.
        errors: What is wrong with the other files.
        transparent: Number of images that have transparent parts.
    """

    images: Tensor
    errors: list[str]
    transparent: int


class _Decoding(Dataset[Decoded]):
    """What worker processes read. They collect errors instead of raising them, so that all are known at the end."""

    def __init__(self, images: FolderSet) -> None:
        self.images = images

    def __getitems__(self, indices: list[int]) -> Decoded:
        return self.images.decode(indices)

    def __len__(self) -> int:
        return len(self.images)


def image_names(folder: str | Path, prefix: str = "") -> Iterator[str]:
    """Names of the image files in a folder and all folders below it, without hidden ones.

    Folders and files are in alphabetical order. Links to folders are not followed, and folders that may not be read are
    skipped.

    Args:
        folder: The folder.
        prefix: What the names begin with; they have ``/`` between folders.
    """
    names: list[str] = []
    folders: dict[str, str] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_hidden(entry.name):
                    continue
                linked = entry.is_symlink()
                if Path(entry.path).is_dir() if linked else entry.is_dir():
                    if linked:
                        continue
                    folders[entry.name] = entry.path
                elif not entry.name.lower().endswith(_ENDINGS):
                    continue
                names.append(entry.name)
    except PermissionError:
        return
    names.sort()
    for name in names:
        if name in folders:
            yield from image_names(folders[name], f"{prefix}{name}/")
        else:
            yield prefix + name


def color(name: str) -> tuple[int, int, int]:
    """Read a colour as Pillow does, such as ``white`` or ``#ffffff``.

    Returns:
        Red, green and blue, each from 0 to 255.

    Raises:
        ConfigError: There is no such colour.
    """
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError:
        raise ConfigError(f"background is {name!r}; it must be a colour such as 'white' or '#ffffff'.") from None
    return red, green, blue


def decode_image(path: Path, size: int, background: tuple[int, int, int]) -> tuple[Tensor, bool]:
    """Decode an image file as ``FolderSet`` describes.

    Args:
        path: The file.
        size: Height and width in pixels.
        background: Red, green and blue behind transparent pixels.

    Returns:
        uint8 ``(3, size, size)``, and whether the image has transparent parts.

    Raises:
        DataError: The file is not a complete image, or its pixels have an unknown scale.
    """
    from PIL import Image, ImageOps

    colored, transparent = _decode(path, background)
    return _tensor(ImageOps.fit(colored, (size, size), Image.Resampling.BILINEAR)), transparent


def _tensor(image: Any) -> Tensor:
    """Pixels of a colored image, uint8 ``(3, height, width)``."""
    import numpy as np

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _decode(path: Path, background: tuple[int, int, int]) -> tuple[Any, bool]:
    """Decode an image file in its own size: upright, with 8-bit colors, and whether it has transparent parts."""
    from PIL import Image, ImageOps

    try:
        if not path.is_file():
            raise OSError("it is not a regular file")  # opening a pipe would block
        with Image.open(path, formats=FORMATS) as image:
            bits, inverted = _unsigned_bits(image), _is_inverted(image)  # turning an image drops its format
            upright = _shallow(ImageOps.exif_transpose(image), bits, str(path))
        if inverted:
            upright = ImageOps.invert(upright)
        if upright.mode in _STRAIGHT:
            upright = upright.convert(_STRAIGHT[upright.mode])
        transparent = "A" in upright.getbands() or "transparency" in upright.info
        if transparent:
            layers = upright.convert("RGBA")
            transparent = layers.getchannel("A").getextrema()[0] < 255
            upright = Image.alpha_composite(Image.new("RGBA", layers.size, background), layers)
        colored = upright.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a complete image ({error}). Replace or delete it.") from None
    return colored, transparent


def _unsigned_bits(image: Any) -> int | None:
    """The bit depth of a grey image of 9 to 16 bits, whose pixels are unsigned; None for all other images."""
    if image.mode.startswith("I;16"):
        return int(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0])
    # for Pillow, these are 32-bit images, although the formats have no more than 16 bits, to which it scales PPM
    return 16 if image.mode == "I" and image.format in ("PNG", "PPM") else None


def _is_inverted(image: Any) -> bool:
    """Whether 0 stands for white in a deep grey image; Pillow inverts others of this kind itself."""
    return _is_deep(image) and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0


def _is_deep(image: Any) -> bool:
    """Whether a grey image has more than 8 bits."""
    return image.mode in ("I", "F") or str(image.mode).startswith("I;16")


def _shallow(image: Any, bits: int | None, source: str) -> Any:
    """Convert a grey image of more than 8 bits to 8 bits, where Pillow would clip it.

    Colours of 16 bits are none of these: Pillow scales them itself when it opens an image.
    """
    import numpy as np
    from PIL import Image

    if not _is_deep(image):
        return image
    pixels = np.asarray(image)
    shallow = Image.fromarray(eight_bits(pixels if bits is None else pixels.astype(np.uint16), source, bits or 16))
    if "transparency" in image.info:  # the value that stands for a transparent pixel
        shallow.putalpha(Image.fromarray(np.where(pixels == image.info["transparency"], 0, 255).astype(np.uint8)))
    return shallow


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == SKIPPED_FOLDER
