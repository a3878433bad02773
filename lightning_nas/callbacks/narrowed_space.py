"""What a search by pEvoNAS leaves of its space."""

from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import write_bytes
from lightning_nas.strategies.pevonas import PEvoNAS, narrowed, only_cell
from lightning_nas.tasks.common import output_folder


class NarrowedSpace(Callback):
    """Writes what a search by ``PEvoNAS`` leaves of its space, for the next link of a chain of supernets.

    At the end ``space.yaml`` is in the run's folder: a configuration that goes after another one, whose space then has
    only the operations that ``narrowed`` keeps of the search's best alphas.

    Args:
        keep: Operations that an edge keeps, at least 1.

    Raises:
        ConfigError: ``keep`` is below 1.
    """

    def __init__(self, keep: int) -> None:
        if keep < 1:
            raise ConfigError(f"keep is {keep}; an edge keeps at least 1 operation.")
        self.keep = keep

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a run that could not be narrowed at its end.

        Raises:
            ConfigError: It is no search by ``PEvoNAS``, or the space does not fit.
        """
        strategy: Any = getattr(pl_module, "strategy", None)
        if not isinstance(strategy, PEvoNAS):
            raise ConfigError(
                f"{type(self).__name__} needs a search whose strategy is PEvoNAS; the task is "
                f"{type(pl_module).__name__}, its strategy {type(strategy).__name__}. Leave the callback out."
            )
        only_cell(pl_module.space)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        strategy: Any = pl_module.strategy
        space: Any = pl_module.space
        folder: Any = pl_module.output_dir
        allowed = narrowed(space, strategy.alphas, self.keep, strategy.masks)
        content = {"model": {"init_args": {"space": {"init_args": {"allowed": allowed}}}}}
        text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
        write_bytes(output_folder(trainer, folder) / "space.yaml", text.encode())
