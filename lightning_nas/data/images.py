"""Data modules by the source of their images: scikit-learn's digits, npz files, folders, CIFAR."""

import tokenize
import warnings
import zipfile
import zlib
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import MAGIC_PREFIX

from lightning_nas.checks import within
from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.folder_parts import FolderLayout
from lightning_nas.data.folders import FolderSet, color
from lightning_nas.data.loaders import IN_MEMORY
from lightning_nas.data.pixels import eight_bits
from lightning_nas.data.sets import ImageSet, LabelledImages
from lightning_nas.errors import DataError

MOST_UNPACKED = 100
"""How many times larger than its compressed form an array may be if it is larger than ``IN_MEMORY``."""

_UNREADABLE = (
    *(OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error),
    *(SyntaxError, tokenize.TokenError),  # the header of an array is a Python literal
    MemoryError,  # an array claims to be larger than the memory
)
"""Errors that zipfile and numpy raise for a damaged file."""

DIGITS_TEST = 360
DIGITS_SPLIT_SEED = 0


class DigitsDataModule(ImageDataModule):
    """The handwritten digits of scikit-learn: 1,797 grey images of 8x8 pixels in 10 classes, which need no download.

    A fixed split, stratified by class, gives 1,437 training images and 360 test images.

    References:
        1. Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998,
           https://doi.org/10.24432/C50P49

    Args:
        **kwargs: Arguments of ``ImageDataModule``: batch size, augmentations, splits, seeds.

    Example:
        ```yaml
        data:
          class_path: DigitsDataModule
          init_args:
            batch_size: 32
            validation_fraction: 0.1
        ```
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.title = "scikit-learn digits"

    def load_train(self) -> ImageSet:
        """Load the 1,437 training images."""
        return self._part(0)

    def load_test(self) -> ImageSet:
        """Load the 360 test images."""
        return self._part(1)

    def _part(self, part: int) -> ImageSet:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        indices = train_test_split(
            np.arange(len(digits.target)),
            test_size=DIGITS_TEST,
            stratify=digits.target,
            random_state=DIGITS_SPLIT_SEED,
        )[part]
        pixels = torch.from_numpy(digits.images[indices] * (255 / 16)).round().to(torch.uint8)  # stored as 0 to 16
        return ImageSet(pixels[:, None], torch.from_numpy(digits.target[indices]), source="the digits")


class ArrayDataModule(ImageDataModule):
    """Images in one npz file, as ``numpy.savez`` writes it.

    The file has the arrays ``x_train`` and ``x_test``, ``(n, height, width, channels)``, and ``y_train`` and
    ``y_test``, integers from 0, ``(n,)``. It may also have ``classes``, the name of every class.

    Pixels are 8-bit integers. Unsigned 16-bit integers are divided by 257, floats from 0 to 1 multiplied by 255, and
    other integers taken as they are if they lie from 0 to 255. Other floats and integers are refused, since their scale
    is unknown. A fourth channel is a channel like the others.

    Args:
        path: Path of the npz file.
        **kwargs: Arguments of ``ImageDataModule``: batch size, augmentations, splits, seeds.

    Example:
        ```yaml
        data:
          class_path: ArrayDataModule
          init_args:
            path: images.npz
            validation_fraction: 0.1
        ```
    """

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = Path(path)
        self.title = self.path.stem

    def load_train(self) -> ImageSet:
        """Read ``x_train``, ``y_train`` and ``classes``. The test arrays must exist but are not read."""
        return self._part("train")

    def load_test(self) -> ImageSet:
        """Read ``x_test`` and ``y_test``."""
        return self._part("test", self.class_names)

    def _part(self, part: str, class_names: list[str] | None = None) -> ImageSet:
        arrays = self._read([f"x_{part}", f"y_{part}"] + (["classes"] if class_names is None else []))
        pixels, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        self._check(pixels, f"x_{part}")
        pixels = eight_bits(pixels, f"x_{part} in {self.path}")
        if labels.dtype.kind not in "iu":
            raise DataError(f"y_{part} in {self.path} is {labels.dtype}; expected integers from 0. Convert it.")
        if class_names is None and "classes" in arrays:
            if arrays["classes"].size > labels.size:
                raise DataError(
                    f"{self.path} names {arrays['classes'].size} classes for {labels.size} training images; every "
                    "class needs an image. Leave some names out, or add images."
                )
            try:
                class_names = [str(name) for name in arrays["classes"].ravel()]
                "".join(class_names).encode()
            except (SystemError, ValueError) as error:  # numpy does not check the code points of a file
                raise DataError(f"classes in {self.path} are not text ({error}). Write them again.") from None
        images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        source = f"x_{part} and y_{part} in {self.path}"
        return ImageSet(images, torch.from_numpy(labels.astype(np.int64)), class_names, source=source)

    def _check(self, pixels: np.ndarray[Any, Any], key: str) -> None:
        expected = "expected (n, height, width, channels)"
        received = f"{key} in {self.path} is {pixels.dtype} {pixels.shape}"
        if pixels.ndim == 3:
            raise DataError(f"{received}; {expected}. Add the axis of a grey channel: {key}[..., None].")
        if pixels.ndim != 4:
            raise DataError(f"{received}; {expected}. Reshape it.")
        if pixels.shape[1] in (1, 3) and pixels.shape[3] > 4:
            raise DataError(f"{received}, channels first; {expected}. Use {key}.transpose(0, 2, 3, 1).")

    def _read(self, keys: list[str]) -> dict[str, np.ndarray[Any, Any]]:
        """Read the arrays ``keys``, of which ``classes`` may be missing, and no others."""
        needed = ["x_train", "y_train", "x_test", "y_test"]
        expected = f"Expected an npz file with {', '.join(needed)}, as numpy.savez writes it."
        if not self.path.is_file():
            raise DataError(f"{self.path} is not a regular file. {expected} Check the path.")
        try:
            with self.path.open("rb") as file, warnings.catch_warnings():  # numpy leaves files open that it cannot read
                warnings.simplefilter("ignore", UserWarning)  # about a header that Python 2 wrote
                if file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX:
                    raise DataError(f"{self.path} holds a single array. {expected} Write it again.")
                file.seek(0)
                archive = np.load(file, allow_pickle=False)
                if missing := sorted(set(needed) - set(archive.files)):
                    raise DataError(f"{self.path} lacks {missing}; it has {archive.files!s:.300}. {expected} Add them.")
                self._check_sizes(archive.zip, keys)
                arrays = {key: archive[key] for key in keys if key in archive.files}
        except _UNREADABLE as error:
            raise DataError(f"{self.path} cannot be read ({str(error):.200}). {expected} Write it again.") from None
        if wrong := [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise DataError(f"{wrong} in {self.path} are not arrays. {expected} Write it again.")
        return arrays

    def _check_sizes(self, archive: zipfile.ZipFile, keys: list[str]) -> None:
        """Refuse arrays that are far larger than the file, before any is decompressed."""
        for part in archive.infolist():
            key, allowed = part.filename.removesuffix(".npy"), max(IN_MEMORY, MOST_UNPACKED * part.compress_size)
            if key in keys and part.file_size > allowed:
                raise DataError(
                    f"{key} in {self.path} decompresses from {part.compress_size} to {part.file_size} bytes, which "
                    "images never do. If the file is yours, write it with numpy.savez, which does not compress."
                )


class FolderDataModule(ImageDataModule):
    """Images in folders: ``root/train/<class>/<image>`` and ``root/test/<class>/<image>``.

    Where there is a folder ``root/val/<class>/<image>``, its images are the validation set of a training and, by
    ``HalvesDataModule``, the search half of a search.

    The images may also be undivided, ``root/<class>/<image>``, with ``test_fraction``. Which of them are test images is
    then drawn once and stored in ``split.csv``. Such a table, with the columns ``file_name`` (relative to ``root``),
    ``label`` and ``split`` (``train``, ``validation`` or ``test``), can also be written by hand for images in any
    folders. Where there is one, it decides.

    Each image is turned upright as its EXIF orientation says, becomes RGB with 8 bits per channel, is scaled so that
    its shorter side fits, and is cropped at its centre. Hidden files and folders are skipped. Small sets are decoded
    once, larger ones anew for every batch by ``num_workers`` processes; only the former are compared for equal images.

    Pixels of more than 8 bits are scaled by the bit depth that their file declares. Floats from 0 to 1 are scaled by
    255, and integers of 32 bits are taken as they are if they lie from 0 to 255. Other floats and integers are refused,
    since their scale is unknown: save such images with 8 or 16 bits. Files that cannot be used are named together.

    Args:
        root: Folder that contains the folders of the training and test images.
        image_size: Height and width in pixels, at least 1.
        stream: Whether images are decoded anew for every batch. If null, they are where all of them together would
            take more than 2 GiB.
        background: Colour behind transparent pixels, as a name or a value such as ``#ffffff``. The default, white, is
            that of most viewers.
        train: Name of the folder of training images in ``root``.
        validation: Name of the folder of validation images, which need not exist; null ignores it.
        test: Name of the folder of test images, which only a test needs.
        test_fraction: Fraction of the images of every class in an undivided ``root`` that become test images, at least
            0 and below 1. ``split_seed`` decides which. With the default, 0, such a folder is refused.
        split_file: Path of the table, relative to ``root``.
        **kwargs: Other arguments of ``ImageDataModule``: batch size, augmentations, splits, seeds.

    Example:
        ```yaml
        data:
          class_path: FolderDataModule
          init_args:
            root: my_images
            image_size: 32
            num_workers: 4
        ```
    """

    def __init__(
        self,
        root: str,
        *,
        image_size: int,
        stream: bool | None = None,
        background: str = "white",
        train: str = "train",
        validation: str | None = "val",
        test: str = "test",
        test_fraction: float = 0.0,
        split_file: str = "split.csv",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, **kwargs)
        color(background)  # refuses what is not one
        within("[0, 1)", test_fraction=test_fraction)
        self.root = Path(root)
        self.title = self.root.resolve().name
        self.stream = stream
        folders = (train, validation, test)
        self._layout = FolderLayout(
            self.root, *folders, split_file, test_fraction, self.split_seed, image_size, background
        )

    def load_train(self) -> LabelledImages:
        """List the training images, and decode them if they fit into memory."""
        return self._decoded(self.list_train())

    def load_validation(self) -> LabelledImages | None:
        """List or decode the validation images, if there are any. Their classes must be among those of training."""
        listed = self.list_validation()
        return None if listed is None else self._decoded(listed)

    def load_test(self) -> LabelledImages:
        """List or decode the test images. Their classes must be among those of training."""
        return self._decoded(self.list_test())

    def list_train(self) -> FolderSet:
        """List the training images without decoding them."""
        return self._listed("train")

    def list_validation(self) -> FolderSet | None:
        """List the validation images without decoding them."""
        return self._layout.part("validation", self._class_names)

    def list_test(self) -> FolderSet:
        """List the test images without decoding them."""
        return self._listed("test")

    def _listed(self, part: str) -> FolderSet:
        found = self._layout.part(part, self._class_names)
        assert found is not None
        return found

    def _class_names(self) -> list[str]:
        return self.list_train().class_names

    def _decoded(self, folder: FolderSet) -> LabelledImages:
        if self.stream if self.stream is not None else folder.nbytes > IN_MEMORY:
            return folder
        return folder.in_memory(self.num_workers)


class CIFARDataModule(ImageDataModule):
    """Base class of CIFAR-10 and CIFAR-100: colour images of 32x32 pixels, downloaded and checked by torchvision.

    Torchvision compares the checksums of all files. The images of the test file are decoded for ``test`` and
    ``predict`` only.

    Args:
        root: Folder of the extracted files.
        download: Whether missing files are downloaded.
        **kwargs: Arguments of ``ImageDataModule``: batch size, augmentations, splits, seeds.

    Attributes:
        classes: Number of classes.
        channel_mean: Published mean of every channel, on a scale from 0 to 1.
        channel_std: Published standard deviation of every channel.
    """

    classes: int
    channel_mean: tuple[float, float, float]
    channel_std: tuple[float, float, float]

    def __init__(self, root: str = "data", *, download: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.download = download

    @abstractmethod
    def reader(self) -> Any:
        """Return the torchvision class that reads the files."""

    @property
    def num_classes(self) -> int:
        """Number of classes, known without the files."""
        return self.classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(3, 32, 32)``, or the size of ``image_size``, known without the files."""
        side = self.image_size or 32
        return 3, side, side

    def statistics(self, images: LabelledImages) -> tuple[list[float], list[float]]:
        """Return the published mean and standard deviation of every channel."""
        return list(self.channel_mean), list(self.channel_std)

    def prepare_data(self) -> None:
        """Download the files in one process per machine; the others read them afterwards."""
        _ = self._data

    def load_train(self) -> ImageSet:
        """Read the 50,000 training images."""
        return self._part(train=True)

    def load_test(self) -> ImageSet:
        """Read the 10,000 test images."""
        return self._part(train=False)

    def _part(self, train: bool) -> ImageSet:
        try:
            read = self.reader()(self.root, train=train, download=self.download)
        except (OSError, RuntimeError) as error:
            reader, place = self.reader(), Path(self.root).absolute()
            raise DataError(
                f"{reader.__name__} could not be read from {place} ({error}). Set download to true on a machine "
                f"with internet access, or extract {reader.url} there."
            ) from None
        images = torch.from_numpy(np.ascontiguousarray(read.data.transpose(0, 3, 1, 2)))
        return ImageSet(images, torch.tensor(read.targets), list(read.classes), source=self.root)


class CIFAR10DataModule(CIFARDataModule):
    """CIFAR-10: 50,000 training images and 10,000 test images in 10 classes.

    References:
        1. Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009,
           https://www.cs.toronto.edu/~kriz/cifar.html

    Args:
        root: Folder of the extracted files.
        download: Whether missing files are downloaded.
        **kwargs: Arguments of ``ImageDataModule``: batch size, augmentations, splits, seeds.

    Example:
        ```yaml
        data:
          class_path: CIFAR10DataModule
          init_args:
            root: data
            augmentations:
              - class_path: RandomCrop
              - class_path: RandomFlip
        ```
    """

    classes = 10
    channel_mean = (0.4914, 0.4822, 0.4465)
    channel_std = (0.2470, 0.2435, 0.2616)

    def __init__(self, root: str = "data", *, download: bool = True, **kwargs: Any) -> None:
        super().__init__(root, download=download, **kwargs)
        self.title = "CIFAR-10"

    def reader(self) -> Any:
        """Return the torchvision class that reads the files."""
        from torchvision.datasets import CIFAR10

        return CIFAR10


class CIFAR100DataModule(CIFARDataModule):
    """CIFAR-100: 50,000 training images and 10,000 test images in 100 classes.

    References:
        1. Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009,
           https://www.cs.toronto.edu/~kriz/cifar.html

    Args:
        root: Folder of the extracted files.
        download: Whether missing files are downloaded.
        **kwargs: Arguments of ``ImageDataModule``: batch size, augmentations, splits, seeds.

    Example:
        ```yaml
        data:
          class_path: CIFAR100DataModule
          init_args:
            validation_fraction: 0.1
        ```
    """

    classes = 100
    channel_mean = (0.5071, 0.4865, 0.4409)
    channel_std = (0.2673, 0.2564, 0.2762)

    def __init__(self, root: str = "data", *, download: bool = True, **kwargs: Any) -> None:
        super().__init__(root, download=download, **kwargs)
        self.title = "CIFAR-100"

    def reader(self) -> Any:
        """Return the torchvision class that reads the files."""
        from torchvision.datasets import CIFAR100

        return CIFAR100
