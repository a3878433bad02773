"""What ``lightning-nas predict`` writes."""

import csv
import io
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import write_bytes
from lightning_nas.tasks.common import output_folder

NAME = "predictions.csv"


class PredictionFile(Callback):
    """Writes the class probabilities of ``predict`` to ``predictions.csv`` in the folder of the run.

    A row has the image (its file, or its index where images do not come from files), the name of the likeliest class,
    and the probability of every class, in the order of the images. The command line adds this callback to every
    ``predict``.

    Attributes:
        rows: Probabilities of the images so far, a list per image.

    Example:
        ```bash
        lightning-nas predict --config train.yaml --ckpt_path checkpoints/last.ckpt
        ```
    """

    def __init__(self) -> None:
        self.rows: list[list[float]] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a new file.

        Raises:
            ConfigError: Several processes would each see a part of the images.
        """
        if trainer.world_size > 1:
            raise ConfigError(
                f"{trainer.world_size} processes would each predict a part of the images. Use --trainer.devices 1 "
                "--trainer.num_nodes 1."
            )
        self.rows = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the probabilities of a batch.

        Raises:
            ConfigError: The task predicts something else.
        """
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:
            raise ConfigError(
                f"{type(pl_module).__name__} predicts {type(outputs).__name__}; predictions are written for tasks "
                "whose predict_step returns class probabilities (batch, classes), such as TrainTask."
            )
        self.rows += outputs.float().cpu().tolist()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        folder = output_folder(trainer, None)
        loaders: Any = trainer.predict_dataloaders
        images = getattr(loaders, "dataset", None)
        files = getattr(images, "files", None)
        names = [str(file) for file in files] if files else [str(index) for index in range(len(self.rows))]
        width = len(self.rows[0]) if self.rows else 0
        classes = [str(name) for name in getattr(getattr(trainer, "datamodule", None), "class_names", range(width))]
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["image", "class", *(f"probability of {name}" for name in classes)])
        for name, row in zip(names, self.rows, strict=False):  # fewer rows where the trainer limits the batches
            writer.writerow([name, classes[row.index(max(row))], *row])
        path = write_bytes(folder / NAME, text.getvalue().encode(errors="backslashreplace"))
        rank_zero_info(f"{path}: predictions for {len(self.rows)} images")
