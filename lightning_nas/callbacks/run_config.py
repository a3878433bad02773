"""Keeps the configuration of a run with its results."""

from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from lightning_nas.files.checkpoints import CHECKPOINT_KEY


class RunConfig(SaveConfigCallback):
    """Writes the full configuration into the run's own folder, its loggers and its checkpoints.

    Lightning's own callback writes to the loggers' shared folder, where a second W&B run would meet the first one's
    file (https://github.com/Lightning-AI/pytorch-lightning/issues/11256).
    """

    @cached_property
    def content(self) -> dict[str, Any]:
        """What makes the same run again: task, data, trainer and seed, without the checkpoint that it went on from."""
        whole = yaml.safe_load(self.parser.dump(self.config, skip_unset=False, format="yaml"))
        return {key: value for key, value in whole.items() if key not in ("config", "ckpt_path", "weights_only")}

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``cli_config.yaml`` beside every logger's files, and give the content to the logger."""
        content = self.content
        for logger in trainer.loggers:
            logger.log_hyperparams({"cli": content})
            folder = getattr(logger, "log_dir", None) or getattr(getattr(logger, "experiment", None), "dir", None)
            if folder:
                Path(folder).mkdir(parents=True, exist_ok=True)
                (Path(folder) / "cli_config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the configuration in the checkpoint: it says which task the checkpoint is of."""
        checkpoint[CHECKPOINT_KEY] = self.content
