"""Saves the configuration of a run with its results."""

from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from lightning_nas.files.checkpoints import CHECKPOINT_KEY

_OF_ONE_RUN = ("config", "ckpt_path", "weights_only", "run_folder")
"""Keys that another run with the same configuration must not have: it starts anew, and replaces nothing."""


class RunConfig(SaveConfigCallback):
    """Saves the full configuration as ``cli_config.yaml`` in the run's own folder, in its loggers and its checkpoints.

    Lightning's own callback writes to a folder that all runs of a logger share, where the second run of W&B would find
    the file of the first one (https://github.com/Lightning-AI/pytorch-lightning/issues/11256). The command line uses
    this callback instead.

    Example:
        ```python
        LightningCLI(save_config_callback=RunConfig, save_config_kwargs={"save_to_log_dir": False})
        ```
    """

    @cached_property
    def content(self) -> dict[str, Any]:
        """The configuration that repeats the run: task, data, trainer and seed, without a checkpoint to resume from."""
        whole = yaml.safe_load(self.parser.dump(self.config, skip_unset=False, format="yaml"))
        return {key: value for key, value in whole.items() if key not in _OF_ONE_RUN}

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``cli_config.yaml`` to the folder of every logger, and log the configuration as hyperparameters."""
        content = self.content
        for logger in trainer.loggers:
            logger.log_hyperparams({"cli": content})
            folder = getattr(logger, "log_dir", None) or getattr(getattr(logger, "experiment", None), "dir", None)
            if folder:
                Path(folder).mkdir(parents=True, exist_ok=True)
                path = Path(folder) / "cli_config.yaml"
                if stage == "fit" or not path.exists():  # a test in the folder of its fit leaves that of the fit
                    path.write_text(yaml.safe_dump(content, sort_keys=False))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the configuration in a checkpoint, so that it says which task it belongs to."""
        checkpoint[CHECKPOINT_KEY] = self.content
