"""The part of a space that a search by pEvoNAS keeps."""

from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_nas.checks import at_least
from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import write_bytes
from lightning_nas.strategies.pevonas import PEvoNAS, narrowed, single_cell_type
from lightning_nas.tasks.common import output_folder


class NarrowedSpace(Callback):
    """Writes the part of the space that a search by ``PEvoNAS`` keeps, for the next link of a chain of supernets.

    At the end of the search, ``space.yaml`` in the folder of the run is a configuration to add after that of another
    run, whose space then has only the operations with the largest alphas of the best individual.

    Args:
        keep: Number of operations that every edge keeps, at least 1.

    Raises:
        ConfigError: ``keep`` is less than 1.

    Example:
        ```yaml
        trainer:
          callbacks:
            - {class_path: NarrowedSpace, init_args: {keep: 3}}
        ```
    """

    writes = ("space.yaml",)

    def __init__(self, keep: int) -> None:
        at_least(1, keep=keep)
        self.keep = keep

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a run whose space could not be narrowed at the end.

        Raises:
            ConfigError: The task is not a search by ``PEvoNAS``, or its space has several cell types.
        """
        strategy: Any = getattr(pl_module, "strategy", None)
        if not isinstance(strategy, PEvoNAS):
            raise ConfigError(
                f"{type(self).__name__} needs a search whose strategy is PEvoNAS; the task is "
                f"{type(pl_module).__name__}, its strategy {type(strategy).__name__}. Leave the callback out."
            )
        single_cell_type(pl_module.space)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``space.yaml``."""
        strategy: Any = pl_module.strategy
        space: Any = pl_module.space
        folder: Any = pl_module.output_dir
        allowed = narrowed(space, strategy.alphas, self.keep, strategy.masks)
        content = {"model": {"init_args": {"space": {"init_args": {"allowed": allowed}}}}}
        text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
        write_bytes(output_folder(trainer, folder) / "space.yaml", text.encode())
