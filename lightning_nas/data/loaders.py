"""Loaders whose order depends on the seed and the epoch alone, on one process or many."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler, Subset

from lightning_nas.data.sets import Batch, ImageSet, LabelledImages
from lightning_nas.errors import ConfigError, DataError

IN_MEMORY = 2 * 1024**3
"""Size in bytes up to which images are kept in memory, and on the accelerator."""

Images = LabelledImages | Subset[Batch]
"""What a loader reads: a set of images, or a part of one."""


class ResumableLoader(DataLoader[Batch]):
    """A loader that can resume in the middle of an epoch.

    Lightning stores ``state_dict`` in its checkpoints and restores it before the first batch. The sampler knows the
    epoch and gives the same order again, so the number of batches already taken is all the state there is. Those
    batches are skipped without being read, by worker processes too.
    """

    taken = 0
    _skip = 0

    def __iter__(self) -> Any:
        """Yield the batches of the sampler's epoch that were not taken before."""
        self.taken, self._skip = self._skip, 0
        return self._counted(super().__iter__())

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.taken += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the sampler's epoch and how many of its batches were taken."""
        return {"epoch": self._epoch, "taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume after the batches already taken; at the start of an epoch if the state is of the previous one."""
        self._skip = state["taken"] if state["epoch"] == self._epoch else 0
        sampler: Any = self.sampler
        sampler.start = self._skip * (self.batch_size or 1)

    @property
    def _epoch(self) -> int:
        sampler: Any = self.sampler
        return int(sampler.epoch)


class EpochSampler(DistributedSampler[int]):
    """A ``DistributedSampler`` whose next pass may begin in the middle.

    Attributes:
        start: Number of images that the next pass skips.
    """

    start = 0

    def __iter__(self) -> Iterator[int]:
        start, self.start = self.start, 0
        return islice(super().__iter__(), start, None)


class RepeatedSampler(SequentialSampler):
    """Gives the order of epoch 0 in every epoch, for ``overfit_batches`` of the trainer.

    Lightning replaces samplers of any other class by the order of the data set, which has no batches with images of
    every class or group.

    Args:
        sampler: Sampler of a process.

    Attributes:
        epoch: The present epoch.
        start: Number of images that the next pass skips.
    """

    def __init__(self, sampler: EpochSampler) -> None:
        super().__init__(sampler.dataset)  # type: ignore[arg-type]  # a data set with a length
        self.sampler = sampler
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Remember the epoch.

        Args:
            epoch: Index of the epoch.
        """
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.sampler.start, self.start = self.start, 0
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


class UnpaddedSampler(DistributedSampler[int]):
    """Visits every image once, in order, on exactly one process. The shares of processes differ by at most one image.

    ``DistributedSampler`` repeats images until all shares are equal, so that a test would count them twice. It is the
    base class only because Lightning replaces samplers of any other class.

    Args:
        dataset: The images.
        num_replicas: Number of processes.
        rank: Index of this process.
    """

    def __init__(self, dataset: Images, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        self.share = range(rank, len(dataset), num_replicas)

    def __iter__(self) -> Iterator[int]:
        return iter(self.share)

    def __len__(self) -> int:
        return len(self.share)


def loader(
    dataset: Images,
    batch_size: int,
    trainer: Trainer | None,
    *,
    seed: int,
    shuffle: bool,
    drop_last: bool,
    num_workers: int,
    name: str = "training set",
    make_sampler: Callable[[int, int], EpochSampler] | None = None,
) -> DataLoader[Batch]:
    """Make the loader of this process.

    Lightning leaves its sampler alone and tells it the epoch. The order therefore depends on the seed and the epoch
    alone, a resumed run sees what an uninterrupted one sees, and batch k of all processes together is batch k of one
    process with their global batch size. A small set in memory is moved to the trainer's device if that is a GPU, and
    then needs no worker processes.

    Args:
        dataset: Images to read. Its ``__getitems__`` returns whole batches.
        batch_size: Images per batch and process, at least 1.
        trainer: Knows the device, the number of processes and the index of this one; None stands for one process on
            the CPU.
        seed: Seed of the order.
        shuffle: Whether every epoch has a new order. Needs ``drop_last``.
        drop_last: Whether images that fill no batch on all processes are left out. Otherwise every image comes exactly
            once, and processes may get different numbers of batches.
        num_workers: Number of worker processes that read ahead; 0 reads in this process.
        name: What the images are, for the error message.
        make_sampler: Maps the number of processes and the index of this one to a sampler, which ``drop_last`` needs.
            The default visits every image once.

    Returns:
        The loader.

    Raises:
        DataError: ``drop_last`` is true and there is no whole batch.
    """
    if shuffle and not drop_last:
        raise ConfigError("shuffle=True needs drop_last=True: only training shuffles, and it takes whole batches.")
    world, rank = (trainer.world_size, trainer.global_rank) if trainer is not None else (1, 0)
    sampler: DistributedSampler[int] | RepeatedSampler
    if drop_last:
        if make_sampler is None:
            sampler = EpochSampler(dataset, world, rank, shuffle=shuffle, seed=seed, drop_last=True)
        else:
            sampler = make_sampler(world, rank)
        check_whole_batch(name, len(dataset), len(sampler), world, batch_size)
        if getattr(trainer, "overfit_batches", 0):
            sampler = RepeatedSampler(sampler)
        if trainer is not None:
            set_epoch(sampler, trainer)
    else:
        sampler = UnpaddedSampler(dataset, world, rank)
    device = trainer.strategy.root_device if trainer is not None else torch.device("cpu")
    resident = _place(dataset, device)
    workers = 0 if resident else num_workers
    return ResumableLoader(
        dataset,
        batch_size=batch_size,  # by name: Lightning makes the loader of predict anew from these arguments
        sampler=sampler,
        drop_last=drop_last,
        num_workers=workers,
        collate_fn=whole,
        pin_memory=device.type == "cuda" and not resident,
        persistent_workers=workers > 0,
        # without its own generator, every epoch would draw from the global one, and the network's random numbers
        # would depend on how many loaders there are
        generator=torch.Generator().manual_seed(seed),
    )


def check_whole_batch(name: str, images: int, share: int, processes: int, batch_size: int) -> None:
    """Refuse images that don't fill a batch on every process.

    Args:
        name: What the images are, for the error message.
        images: Number of images.
        share: Number of images of every process.
        processes: Number of processes.
        batch_size: Images per batch and process.

    Raises:
        DataError: A process has fewer images than a batch.
    """
    if share < batch_size:
        raise DataError(
            f"The {name} has {images} images for {processes} process(es), fewer than one batch of {batch_size} each. "
            f"Set batch_size to at most {max(share, 1)}, or use more images."
        )


def set_epoch(sampler: DistributedSampler[int] | RepeatedSampler, trainer: Trainer) -> None:
    """Tell a sampler which epoch the trainer is in.

    Lightning does so too late for worker processes, so that a resumed run would start in the order of epoch 0:
    https://github.com/Lightning-AI/pytorch-lightning/issues/21938
    """
    progress: Any = trainer.fit_loop.epoch_progress.current
    sampler.set_epoch(progress.processed)


def whole(batch: Any) -> Any:
    """Return the batch as it is, since ``__getitems__`` has already collated it."""
    return batch


def _place(dataset: Images, device: torch.device) -> bool:
    """Move a small set in memory to a GPU, or back to the CPU, and return whether it is on the GPU."""
    images = dataset.dataset if isinstance(dataset, Subset) else dataset
    if not isinstance(images, ImageSet):
        return False
    resident = device.type == "cuda" and images.images.nbytes <= IN_MEMORY
    images.to(device if resident else torch.device("cpu"))
    return resident
