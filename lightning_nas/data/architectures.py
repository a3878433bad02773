"""Architectures as data: a training step sees one."""

from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from lightning_nas.architecture import Architecture
from lightning_nas.data.loaders import EpochSampler, ResumableLoader, set_epoch
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.base import SearchSpace

DRAWS = 100
"""Draws for each architecture that is asked for; a space that has as many is not exhausted before."""


class ArchitecturesDataModule(LightningDataModule):
    """Serves different architectures of a space, one a batch, always in the same order.

    They are drawn uniformly; one that is the same network as one before (``SearchSpace.key``) is drawn again. A smaller
    ``count`` gives the first of a larger one's. On several processes each gets its share.

    Args:
        space: Where they come from.
        count: How many, at least 2.
        seed: Of the draws.
    """

    def __init__(self, space: SearchSpace, count: int = 64, seed: int = 0) -> None:
        super().__init__()
        if count < 2:
            raise ConfigError(f"count is {count}; it must be at least 2 architectures.")
        self.space = space
        self.count = count
        self.seed = seed

    @cached_property
    def architectures(self) -> list[Architecture]:
        """All of them.

        Raises:
            ConfigError: The space has not so many, as far as draws can tell.
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

    def setup(self, stage: str) -> None:
        """Draw the architectures, so that a space that is too small fails here."""
        _ = self.architectures

    def train_dataloader(self) -> ResumableLoader:
        """One architecture a batch, each once an epoch."""
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
            # without one of its own, each epoch draws from the global generator
            generator=torch.Generator().manual_seed(self.seed),
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """An architecture is on no device; Lightning cannot look into a frozen dataclass."""
        return batch


def _only(batch: list[Architecture]) -> Architecture:
    return batch[0]
