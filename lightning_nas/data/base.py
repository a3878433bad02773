"""The data module of labelled images: splits, loaders, augmentation and normalization."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from lightning_nas.checks import at_least, within
from lightning_nas.data.augmentation import Augmentation
from lightning_nas.data.examples import Examples, Originals, Resize
from lightning_nas.data.inspection import digests, inspect_held_out, inspect_training_set, note
from lightning_nas.data.loaders import check_whole_batch, loader
from lightning_nas.data.sets import Batch, ImageSet, LabelledImages, channel_statistics, check_training_set
from lightning_nas.data.splits import balanced, derived_seed, stratified
from lightning_nas.errors import DataError

STATISTICS_SAMPLE = 4096
"""Number of images from which mean and standard deviation are estimated where a set is too large for the memory."""


@dataclass(frozen=True)
class _TrainingData:
    train: LabelledImages
    validation: LabelledImages | None
    mean: list[float]
    std: list[float]
    digests: frozenset[int]
    resize: Resize


class ImageDataModule(LightningDataModule, ABC):
    """Base class of data modules that serve labelled images. Subclasses say where the images come from.

    Batches reach the device as uint8. There they become floats from 0 to 1, are augmented (in training only) and
    normalized: ``(pixel - mean) / std`` per channel. Random draws depend on the seed, the epoch, the batch and the
    process alone, so that a resumed run repeats them. The test images are opened for ``test`` and ``predict`` only.
    Everything else is loaded when it is first asked for, with or without a trainer.

    Images in memory are compared by a hash of their pixels. The log says how many equal training images have different
    labels, and how many test images are also training images.

    Data that come with validation images of their own use them as the validation set.

    Args:
        batch_size: Images per batch and process, at least 1.
        augmentations: Random changes of training images, applied in this order; none if null.
        validation_fraction: Fraction of the training images, at least 0 and below 1, that becomes Lightning's
            validation set instead of being trained on. It is taken from every class alike. The default, 0, keeps all
            images for training. It has no effect on data that come with validation images, which the log says.
        train_limit: Largest number of training images to use, drawn from all classes alike; all images if null.
        seed: Seed of the order of images and of the augmentations.
        split_seed: Seed of the choice of ``train_limit`` images and of the validation set. It is separate from
            ``seed`` so that repetitions with other seeds see the same parts.
        num_workers: Number of worker processes that read ahead. Sets that are held on a GPU need none.
        image_size: Height and width, in pixels, to which images in memory are downsampled by averaging; null keeps
            their own size.

    Attributes:
        title: Name of the data for people, such as in a model card; by default that of the class.

    Raises:
        ConfigError: An argument is out of its range.
    """

    def __init__(
        self,
        batch_size: int = 64,
        *,
        augmentations: list[Augmentation] | None = None,
        validation_fraction: float = 0.0,
        train_limit: int | None = None,
        seed: int = 0,
        split_seed: int = 0,
        num_workers: int = 0,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, train_limit=train_limit, image_size=image_size)
        within("[0, 1)", validation_fraction=validation_fraction)
        at_least(0, num_workers=num_workers)
        self.batch_size = batch_size
        self.augmentations = augmentations or []
        self.validation_fraction = validation_fraction
        self.train_limit = train_limit
        self.seed = seed
        self.split_seed = split_seed
        self.num_workers = num_workers
        self.image_size = image_size
        self.title = type(self).__name__
        self._normalization: Tensor | None = None
        self._limit_val_batches: int | float | None = None

    @abstractmethod
    def load_train(self) -> LabelledImages:
        """Open all training images.

        Raises:
            DataError: They are missing or damaged.
        """

    @abstractmethod
    def load_test(self) -> LabelledImages:
        """Open the test images, with the same labels as in training. Called for ``test`` and ``predict`` only.

        Raises:
            DataError: They are missing or damaged.
        """

    def load_validation(self) -> LabelledImages | None:
        """Open the validation images that come with the data, with the same labels as in training.

        Returns:
            The images; None, as by default, if the validation set is a part of the training images.

        Raises:
            DataError: They are damaged.
        """
        return None

    def list_train(self) -> LabelledImages:
        """List all training images. Only their labels are used; subclasses need not read pixels."""
        return self.load_train()

    def list_validation(self) -> LabelledImages | None:
        """List the validation images that come with the data, like ``list_train``."""
        return self.load_validation()

    def list_test(self) -> LabelledImages:
        """List the test images, like ``list_train``."""
        return self.load_test()

    def statistics(self, images: LabelledImages) -> tuple[list[float], list[float]]:
        """Compute mean and standard deviation of every channel, on a scale from 0 to 1.

        They do not depend on ``train_limit`` and ``validation_fraction``, so that stages that use different parts of
        the training images normalize alike.

        Args:
            images: All training images.

        Returns:
            Means and standard deviations, one per channel.
        """
        if isinstance(images, ImageSet):
            return channel_statistics(images.images)
        sample = balanced(images.labels, STATISTICS_SAMPLE, seed=0).tolist()
        return channel_statistics(images.__getitems__(sample)[0])

    @property
    def split(self) -> dict[str, Any]:
        """The arguments that decide which images are the training set and which the validation set."""
        return {
            "train_limit": self.train_limit,
            "validation_fraction": self.validation_fraction,
            "split_seed": self.split_seed,
        }

    @property
    def train_set(self) -> LabelledImages:
        """The images to train on, without the validation set."""
        return self._data.train

    @property
    def validation_set(self) -> LabelledImages:
        """The training images that are not trained on.

        Raises:
            DataError: There is no validation set.
        """
        if self._data.validation is None:
            raise DataError("There is no validation set: validation_fraction is 0. Set it above 0, such as 0.1.")
        return self._data.validation

    def class_counts(self) -> Tensor:
        """Count the training images of every class, ``(classes,)``, without the validation set."""
        return self.train_set.class_counts()

    @property
    def class_names(self) -> list[str]:
        """Name of every class, in the order of the labels."""
        return self._data.train.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        return self._data.train.image_shape

    @property
    def mean(self) -> list[float]:
        """Mean of every channel of the training images, on a scale from 0 to 1."""
        return self._data.mean

    @property
    def std(self) -> list[float]:
        """Standard deviation of every channel of the training images, on a scale from 0 to 1."""
        return self._data.std

    @property
    def resize(self) -> Resize:
        """How images of another size than ``image_shape`` get it; see ``Resize``."""
        return self._data.resize

    def examples(self, count: int) -> Examples:
        """Return up to ``count`` training images of all classes as they are read, and prepared as for a test."""
        listed = self.list_train()
        some = listed.select(balanced(listed.labels, count, seed=0))
        prepared, _ = self.prepare(self.averaged(some).__getitems__(list(range(len(some)))))
        return Examples(Originals(some), prepared)

    @cached_property
    def _data(self) -> _TrainingData:
        loaded = self.load_train()
        check_training_set(loaded)
        hashes = digests(loaded)
        inspect_training_set(loaded, hashes)
        whole = self.averaged(loaded)
        mean, std = self.statistics(whole)
        given = self.load_validation()
        if given is not None:
            inspect_held_out("validation", given, frozenset(hashes))
            given = self._of_shape(given, whole.image_shape, "validation")
            if self.validation_fraction:
                note(
                    f"The {len(given)} validation images that come with the data are the validation set; "
                    f"validation_fraction, which is {self.validation_fraction}, has no effect."
                )
        train, validation = self._parts(whole, given)
        resize: Resize = "bilinear" if whole is loaded else "area"
        return _TrainingData(train, validation, mean, std, frozenset(hashes), resize)

    @cached_property
    def _test(self) -> LabelledImages:
        loaded = self.load_test()
        if not len(loaded):
            raise DataError("The test set is empty. Add images, or leave the test out.")
        inspect_held_out("test", loaded, self._data.digests)
        return self._of_shape(loaded, self.image_shape, "test")

    def _of_shape(self, loaded: LabelledImages, shape: tuple[int, int, int], name: str) -> LabelledImages:
        """Downsample test or validation images, and refuse those of another shape than the training images."""
        images = self.averaged(loaded)
        if images.image_shape != shape:
            raise DataError(
                f"The {name} images have shape {images.image_shape}, the training images {shape} (channels, height, "
                "width). Give them the same shape."
            )
        return images

    def _parts(
        self, whole: LabelledImages, given: LabelledImages | None
    ) -> tuple[LabelledImages, LabelledImages | None]:
        """The training set and the validation set, by the labels of all training images and what is given."""
        train, validation = whole, given
        if self.train_limit is not None and self.train_limit < len(train):
            train = train.select(balanced(train.labels, self.train_limit, self.split_seed))
            check_training_set(train, f"Set train_limit to at least {len(train.class_names)}, one image per class.")
        if given is not None:
            if not len(given):
                raise DataError("The validation set is empty. Add images, or leave it out.")
        elif self.validation_fraction > 0:
            held_out = stratified(train.labels, self.validation_fraction, self.split_seed)
            validation = train.select(held_out.nonzero().flatten())
            train = train.select((~held_out).nonzero().flatten())
            check_training_set(train, f"Lower validation_fraction, which is {self.validation_fraction}.")
            if not len(validation):
                raise DataError(
                    f"validation_fraction {self.validation_fraction} of {len(train)} images is less than one image. "
                    "Raise it, or set it to 0 for no validation set."
                )
        return train, validation

    def list_parts(self) -> tuple[LabelledImages, LabelledImages | None]:
        """List the training set and the validation set, without their pixels where that is possible.

        Raises:
            DataError: The images cannot be used.
        """
        whole = self.list_train()
        check_training_set(whole)
        return self._parts(whole, self.list_validation())

    def check(self, processes: int = 1, test: bool = False) -> bool:
        """Check that a fit finds its images, without their pixels where that is possible.

        Args:
            processes: Number of processes of the fit.
            test: Whether a test follows.

        Returns:
            Whether the fit will have a validation set.

        Raises:
            DataError: Images are missing, or too few for a batch.
        """
        train, validation = self.list_parts()
        check_whole_batch("training set", len(train), len(train) // processes, processes, self.batch_size)
        if test:
            self.check_test()
        return validation is not None

    def check_test(self) -> None:
        """Check that there are test images, without their pixels where that is possible.

        Raises:
            DataError: They are missing.
        """
        if not len(self.list_test()):
            raise DataError("The test set is empty. Add images, or leave the test out.")

    def averaged(self, images: LabelledImages) -> LabelledImages:
        """Downsample images to ``image_size``, if it is set.

        Args:
            images: Images as they are read.

        Raises:
            DataError: They are smaller than ``image_size``, or not held in memory.
        """
        size, sides = self.image_size, images.image_shape[1:]
        if size is None or sides == (size, size):
            return images
        if not isinstance(images, ImageSet) or size > min(sides):
            raise DataError(
                f"Images of {sides[0]}x{sides[1]} pixels, {type(images).__name__}, cannot be downsampled to "
                f"image_size {size}. Set it to null, or to a smaller size for images that are held in memory."
            )
        return images.averaged(size)

    def setup(self, stage: str) -> None:
        """Load the training images, whose statistics every stage needs, so that damaged ones fail here."""
        if self._data.validation is None and stage == "fit" and self.trainer is not None:
            # otherwise Lightning warns about a validation loader that is empty or missing
            self._limit_val_batches, self.trainer.limit_val_batches = self.trainer.limit_val_batches, 0

    def teardown(self, stage: str) -> None:
        """Restore the trainer's settings, for a fit on other data."""
        if self._limit_val_batches is not None and self.trainer is not None:
            self.trainer.limit_val_batches = self._limit_val_batches
            self._limit_val_batches = None

    def on_exception(self, exception: BaseException) -> None:
        """Restore the settings of the trainer of an interrupted fit, too."""
        self.teardown("fit")

    def train_dataloader(self) -> Any:
        """Return a loader of the training images: in a new order every epoch, whole batches only.

        Raises:
            DataError: There is no whole batch.
        """
        return loader(
            self.train_set,
            self.batch_size,
            self.trainer,
            seed=derived_seed(self.seed, "train"),
            shuffle=True,
            drop_last=True,
            num_workers=self.num_workers,
        )

    def val_dataloader(self) -> Any:
        """Return a loader of the validation set. A fit without a validation set does not ask for it.

        During a fit, DDP wraps the network, so that all processes must run the same number of batches. With several
        processes, the last images are left out where they are fewer than the processes. No image is counted twice.

        Raises:
            DataError: There is no validation set.
        """
        images = self.validation_set
        world = self.trainer.world_size if self.trainer is not None else 1
        return self._in_order(images if world == 1 else Subset(images, range(len(images) - len(images) % world)))

    def test_dataloader(self) -> Any:
        """Return a loader of the test images. Each is counted once, on one process or many."""
        return self._in_order(self._test)

    def predict_dataloader(self) -> Any:
        """Return a loader of the test images, in their order."""
        return self._in_order(self._test)

    def _in_order(self, images: LabelledImages | Subset[Batch]) -> DataLoader[Batch]:
        workers = self.num_workers
        return loader(
            images, self.batch_size, self.trainer, seed=0, shuffle=False, drop_last=False, num_workers=workers
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turn a batch on its device into floats: augmented in training, normalized always.

        Args:
            batch: Images and labels, or a dictionary of such pairs.
            dataloader_idx: Not used.

        Returns:
            The batch, in the same form.
        """
        pairs = batch if isinstance(batch, dict) else {"": batch}
        prepared = {}
        for name, (images, labels) in pairs.items():
            prepared[name] = self.prepare((images, labels), self._generator(name, images.device))
        return prepared if isinstance(batch, dict) else prepared[""]

    def _generator(self, name: str, device: torch.device) -> torch.Generator | None:
        """The generator of the current training batch; None outside of training, where nothing is random."""
        trainer = self.trainer
        if trainer is None or not trainer.training or not self.augmentations:
            return None
        # Lightning counts a batch after this hook; until then batch_idx is that of the previous batch, at first -1
        batch_idx = trainer.fit_loop.epoch_loop.batch_idx + 1
        draw = derived_seed(self.seed, "augment", trainer.current_epoch, batch_idx, trainer.global_rank, name)
        return torch.Generator(device).manual_seed(draw)

    def prepare(self, batch: Batch, generator: torch.Generator | None = None) -> Batch:
        """Normalize a batch, and augment it if there is a generator.

        Args:
            batch: Images ``(batch, channels, height, width)``, uint8 or floats that are normalized already, and
                labels.
            generator: Generator of the augmentations, on the device of the images; None augments nothing.

        Returns:
            Images as floats in the trainer's precision, and the labels.
        """
        images, labels = batch
        raw = images.dtype == torch.uint8
        images = images.float() / 255 if raw else images
        images = self._augment(images, generator, after_normalization=False)
        if raw:
            mean, std = self._mean_and_std(images.device)
            images = (images - mean) / std
        images = self._augment(images, generator, after_normalization=True)
        if self.trainer is not None:
            images = self.trainer.precision_plugin.convert_input(images)
        return images, labels

    def _augment(self, images: Tensor, generator: torch.Generator | None, after_normalization: bool) -> Tensor:
        for augmentation in self.augmentations:
            if generator is not None and augmentation.after_normalization == after_normalization:
                images = augmentation(images, generator)
        return images

    def _mean_and_std(self, device: torch.device) -> Tensor:
        """Mean and standard deviation, ``(2, channels, 1, 1)``, kept on the device of the last call."""
        if self._normalization is None or self._normalization.device != device:
            self._normalization = torch.tensor([self.mean, self.std], device=device)[:, :, None, None]
        return self._normalization
