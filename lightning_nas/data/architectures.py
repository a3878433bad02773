"""Architectures as data: a training step sees one of them."""

from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.data.loaders import EpochSampler, ResumableLoader, set_epoch
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.base import SearchSpace

DRAWS = 100
"""Number of draws allowed per architecture asked for, before a space counts as too small."""


class ArchitecturesDataModule(LightningDataModule):
    """Serves different architectures of a space, one per batch, always in the same order.

    Architectures are drawn uniformly from the space. One that is the same network as an earlier one
    (``SearchSpace.key``) is drawn again. With the same seed, a smaller ``count`` gives the first architectures of a
    larger one. Several processes share the architectures between them.

    Args:
        space: Search space to draw from.
        count: Number of architectures, at least 2.
        seed: Seed of the draws.

    Raises:
        ConfigError: ``count`` is below 2.

    Example:
        ```yaml
        data:
          class_path: ArchitecturesDataModule
          init_args:
            count: 32
            space:
              class_path: NASBench201Space
        ```
    """

    def __init__(self, space: SearchSpace, *, count: int = 64, seed: int = 0) -> None:
        super().__init__()
        at_least(2, count=count)
        self.space = space
        self.count = count
        self.seed = seed

    @cached_property
    def architectures(self) -> list[Architecture]:
        """All architectures, in their order.

        Raises:
            ConfigError: The space has too few architectures, as far as draws can tell.
        """
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "architectures"))
        found: dict[str, Architecture] = {}
        for _ in range(DRAWS * self.count):
            drawn = self.space.sample(generator)
            found.setdefault(self.space.key(drawn), drawn)
            if len(found) == self.count:
                return list(found.values())
        raise ConfigError(
            f"{type(self.space).__name__} gave {len(found)} different architectures in {DRAWS * self.count} draws, but "
            f"count is {self.count}. Set it to at most {len(found)}, or use a larger space."
        )

    def check(self, processes: int = 1, test: bool = False) -> bool:
        """Check that there are enough architectures. There is no validation set.

        Args:
            processes: Number of processes of the fit.
            test: Not used: there is no test.

        Raises:
            ConfigError: The space has too few.
        """
        _ = self.architectures
        return False

    def setup(self, stage: str) -> None:
        """Draw the architectures, so that a space that is too small fails here."""
        _ = self.architectures

    def train_dataloader(self) -> ResumableLoader:
        """Return a loader with one architecture per batch, each once per epoch."""
        trainer = self.trainer
        world, rank = (trainer.world_size, trainer.global_rank) if trainer is not None else (1, 0)
        drawn: Any = self.architectures
        sampler = EpochSampler(drawn, world, rank, shuffle=False, drop_last=True)
        if trainer is not None:
            set_epoch(sampler, trainer)
        return ResumableLoader(
            drawn,
            batch_size=1,
            sampler=sampler,
            collate_fn=_only,
            # without its own generator, every epoch would draw from the global one
            generator=torch.Generator().manual_seed(self.seed),
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch as it is: architectures are on no device, and Lightning cannot copy a frozen dataclass."""
        return batch


def _only(batch: list[Architecture]) -> Architecture:
    return batch[0]
