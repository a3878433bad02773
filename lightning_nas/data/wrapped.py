"""The base of data modules that serve the images of another one in their own way."""

from typing import Any

from lightning.pytorch import LightningDataModule

from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.examples import Examples, Resize
from lightning_nas.data.sets import LabelledImages


class WrappedDataModule(LightningDataModule):
    """Passes on the properties and hooks of another data module. Subclasses say how its training images are served.

    Args:
        data: Data module that loads the images.
    """

    def __init__(self, data: ImageDataModule) -> None:
        super().__init__()
        self.data = data

    @property
    def split(self) -> dict[str, Any]:
        """The arguments that decide which images are for what; see ``ImageDataModule.split``."""
        return self.data.split

    @property
    def class_names(self) -> list[str]:
        """Name of every class, in the order of the labels."""
        return self.data.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.data.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        return self.data.image_shape

    @property
    def mean(self) -> list[float]:
        """Mean of every channel of the training images, on a scale from 0 to 1."""
        return self.data.mean

    @property
    def std(self) -> list[float]:
        """Standard deviation of every channel of the training images, on a scale from 0 to 1."""
        return self.data.std

    @property
    def title(self) -> str:
        """Name of the data for people."""
        return self.data.title

    @property
    def resize(self) -> Resize:
        """How images of another size get that of the data; see ``Resize``."""
        return self.data.resize

    def examples(self, count: int) -> Examples:
        """Return training images before and after their preparation; see ``ImageDataModule.examples``."""
        return self.data.examples(count)

    def list_parts(self) -> tuple[LabelledImages, LabelledImages | None]:
        """List the training set and the validation set of ``data``; see ``ImageDataModule.list_parts``."""
        return self.data.list_parts()

    def check(self, processes: int = 1, test: bool = False) -> bool:
        """Check that a fit finds its images; see ``ImageDataModule.check``."""
        if test:
            self.data.check_test()
        return self.data.list_parts()[1] is not None

    def prepare_data(self) -> None:
        """Download what ``data`` downloads, in one process per machine."""
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Load the training images."""
        self.data.trainer = self.trainer
        self.data.setup(stage)

    def teardown(self, stage: str) -> None:
        """Let ``data`` restore the trainer's settings."""
        self.data.teardown(stage)

    def on_exception(self, exception: BaseException) -> None:
        """Let ``data`` restore the settings of the trainer of an interrupted fit."""
        self.data.on_exception(exception)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment and normalize a batch as ``data`` does."""
        return self.data.on_after_batch_transfer(batch, dataloader_idx)
