"""Pictures and files of runs on TensorBoard, MLflow, and loggers of one's own."""

import io
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info

from lightning_nas.callbacks.run_pictures import (
    EpochPictures,
    Pictures,
    result_pictures,
    result_values,
)
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.distill import DistillTask


@runtime_checkable
class Media(Protocol):
    """What can keep pictures and files of a run. A logger that has these two methods itself gets them."""

    def log_pictures(self, pictures: Pictures, step: int) -> None:
        """Keep pictures.

        Args:
            pictures: PNG files by key, such as ``cells/normal``, and caption.
            step: Number of epochs so far.
        """

    def log_files(self, name: str, files: Sequence[Path]) -> None:
        """Keep the files of an artifact.

        Args:
            name: Kind of the artifact, such as ``architecture``.
            files: The files.
        """


class TensorBoardMedia:
    """Pictures in the tab of images, and the paths of files as text, since TensorBoard keeps no files.

    Args:
        logger: A ``TensorBoardLogger``.
    """

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def log_pictures(self, pictures: Pictures, step: int) -> None:
        """See ``Media``; several pictures of one key are numbered, and captions are left out."""
        import numpy as np
        from PIL import Image

        for key, shown in pictures.items():
            for number, content in enumerate(shown.values()):
                pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
                tag = key if len(shown) == 1 else f"{key}/{number}"
                self.logger.experiment.add_image(tag, pixels, step, dataformats="HWC")

    def log_files(self, name: str, files: Sequence[Path]) -> None:
        """See ``Media``."""
        text = "\n".join(f"- `{file.resolve()}`" for file in files)
        self.logger.experiment.add_text(f"files/{name}", text)


class MLFlowMedia:
    """Pictures and files as artifacts of an MLflow run: ``pictures/<key>/<caption>.png``, and ``<name>/<file>``.

    Args:
        logger: An ``MLFlowLogger``.
    """

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def log_pictures(self, pictures: Pictures, step: int) -> None:
        """See ``Media``."""
        with tempfile.TemporaryDirectory() as folder:
            for key, shown in pictures.items():
                for caption, content in shown.items():
                    path = Path(folder) / f"{re.sub(r'[^A-Za-z0-9]+', '_', caption)}.png"
                    path.write_bytes(content)
                    self._keep(path, f"pictures/{key}")

    def log_files(self, name: str, files: Sequence[Path]) -> None:
        """See ``Media``."""
        for file in files:
            self._keep(file, name)

    def _keep(self, path: Path, folder: str) -> None:
        self.logger.experiment.log_artifact(self.logger.run_id, str(path), artifact_path=folder)


MEDIA: dict[type[Logger], Callable[[Any], Media]] = {TensorBoardLogger: TensorBoardMedia, MLFlowLogger: MLFlowMedia}
"""How loggers of Lightning that are no ``Media`` themselves keep pictures and files."""

ELSEWHERE = (CSVLogger, WandbLogger)
"""Loggers that get nothing here: a table of numbers, and Weights & Biases, which ``WandbLog`` is for."""


class MediaLog(EpochPictures):
    """Logs pictures, selection errors and files to TensorBoard, MLflow and loggers that are a ``Media``.

    They are those that ``WandbLog`` logs to Weights & Biases. After epochs of a search: heat maps of the mixture
    weights (``alphas/<cell>``) and the cells that would be chosen now (``cells/<cell>``). At the end: images of a proxy
    and real ones (``proxy/images``), the Pareto front (``front/<cost>``), the selection errors with their interval and
    number of images (``selection_errors/<kind>``, ``selection_errors/<kind>_low`` and so on) and the files that the
    task has written. The step of pictures is the number of epochs so far. Other loggers get numbers only, which the log
    says once. Only the main process logs. The command line adds this callback to every run under the name
    ``media_log``.

    Args:
        every_n_epochs: Epochs of a search between two pictures, a positive integer. The last epoch always has some.

    Raises:
        ConfigError: ``every_n_epochs`` is not a positive integer.

    Example:
        ```yaml
        trainer:
          logger:
            - class_path: lightning.pytorch.loggers.TensorBoardLogger
              init_args: {save_dir: runs}
        ```
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say which loggers get no pictures and files, if there will be any."""
        shows = isinstance(pl_module, BilevelTask | DistillTask) or hasattr(pl_module, "outputs")
        without = [type(x).__name__ for x in _others(trainer) if _media(x) is None]
        if without and shows:
            rank_zero_info(
                f"{', '.join(without)} gets numbers only: pictures and artifacts are left out. The files of the task "
                "are in its output_dir."
            )

    def receivers(self, trainer: Trainer) -> list[Media]:
        """The loggers' media; see ``EpochPictures.receivers``."""
        return [media for logger in _others(trainer) if (media := _media(logger)) is not None]

    def log_search(self, receivers: Sequence[Media], pictures: Pictures) -> None:
        """Log at the number of epochs so far; see ``EpochPictures.log_search``."""
        for media in receivers:
            media.log_pictures(pictures, self.drawn)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the files of a fit, which the task has written by now, and pictures of them."""
        outputs: Mapping[str, Sequence[Path]] = getattr(pl_module, "outputs", {})
        pairs = [(logger, media) for logger in _others(trainer) if (media := _media(logger)) is not None]
        if stage != "fit" or not outputs or not pairs:
            return
        pictures, values = result_pictures(pl_module, outputs), result_values(pl_module, outputs)
        for logger, media in pairs:
            if values:
                logger.log_metrics(values, trainer.global_step)
            if pictures:
                media.log_pictures(pictures, self.drawn)
            for name, files in outputs.items():
                media.log_files(name, files)


def _others(trainer: Trainer) -> list[Logger]:
    """List the loggers that may get something here; only the main process has any, and a trial run has none."""
    if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
        return []
    return [logger for logger in trainer.loggers if not isinstance(logger, ELSEWHERE)]


def _media(logger: Logger) -> Media | None:
    """Return what keeps pictures and files of a logger, if anything does."""
    if isinstance(logger, Media):
        return logger
    return next((make(logger) for kind, make in MEDIA.items() if isinstance(logger, kind)), None)
