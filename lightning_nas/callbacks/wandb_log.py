"""Runs on Weights & Biases: one run per stage, with pictures, artifacts and their lineage."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn

from lightning_nas.callbacks.run_pictures import EpochPictures, Pictures, result_pictures, result_values


class WandbRunLogger(WandbLogger):
    """A ``WandbLogger`` that is offline by default, and that starts a run of its own.

    It differs from Lightning's class in two respects. Lightning's argument ``offline`` overwrites the environment
    variable ``WANDB_MODE``, so that ``WANDB_MODE=online`` could not undo it; this class has ``mode`` instead. And
    Lightning's class continues a run that is still open in the same process, as that of the previous stage in a
    pipeline; this class ends such a run first. It joins a run that the user has started with ``wandb.init``, as
    Lightning's class does. The last run ends with the process or with ``wandb.finish()``.

    Args:
        project: Name of the project.
        save_dir: Folder of offline runs and of data that is not yet uploaded.
        mode: ``online``, ``offline`` or ``disabled``. By default the value of ``WANDB_MODE``, or ``offline`` if that is
            not set.
        **options: The other arguments of ``WandbLogger``, which passes those that it does not know to ``wandb.init``.

    Example:
        ```yaml
        trainer:
          logger:
            - class_path: WandbRunLogger
              init_args: {project: digits, mode: online}
        ```
    """

    begun: ClassVar[str | None] = None
    """Id of the last run that a logger of this class started in this process."""

    def __init__(
        self,
        project: str = "lightning_nas",
        *,
        save_dir: str = ".",
        mode: Literal["online", "offline", "disabled"] | None = None,
        **options: Any,
    ) -> None:
        chosen = mode or os.environ.get("WANDB_MODE") or "offline"
        # absolute, because wandb's own process may run in another folder
        self.folder = Path(save_dir).absolute()
        super().__init__(project=project, save_dir=self.folder, mode=chosen, **options)
        self.started = False

    @property
    def experiment(self) -> Any:
        """The run, which starts with the first access; a dummy on all processes but the main one."""
        if self.started:
            return super().experiment
        import wandb

        self.started = True
        self.folder.mkdir(parents=True, exist_ok=True)  # otherwise wandb writes to a temporary folder
        if wandb.run is not None and wandb.run.id == WandbRunLogger.begun:
            wandb.finish()
        own = wandb.run is None
        run = super().experiment
        if own and wandb.run is not None:
            WandbRunLogger.begun = wandb.run.id
        return run


class WandbLog(EpochPictures):
    """Logs pictures, selection errors and artifacts to Weights & Biases, for runs with a logger of it.

    After epochs of a search it logs heat maps of the mixture weights (``alphas/<cell>``) and the cells that would be
    chosen now (``cells/<cell>``). At the end of a distillation it logs images of the proxy and real ones
    (``proxy/images``). At the end of a search it logs the selection errors (``selection_errors/<kind>``) with the ends
    of their interval, the numbers of decided and undecided ones and of images (``_low``, ``_high``, ``_decided``,
    ``_undecided``, ``_images`` behind that name) or, if costs are minimised, the Pareto front (``front/<cost>``).
    Pictures are logged at the step of the latest metrics.

    Files that a task writes become artifacts: ``proxy``, ``architecture``, ``alphas``, ``front``. Their digest is also
    an alias, so that a run that reads an artifact finds the run that made it. The config of the run contains, under
    ``inputs`` and ``outputs``, the digest of every artifact and the path and digest of every file in it.

    Online, a run declares its inputs to W&B, which draws the lineage from distillation to final training. A file that
    no run of the project has logged becomes an artifact without a producer. Offline, W&B does not accept inputs; equal
    digests in the configs show the lineage then, and ``docs/wandb_workspace.py`` declares the inputs after
    ``wandb sync``.

    Only the main process logs, and nothing happens within an epoch. The command line adds this callback to every run
    under the name ``wandb_log``.

    Args:
        every_n_epochs: Epochs of a search between two pictures, a positive integer. The last epoch always has some.

    Raises:
        ConfigError: ``every_n_epochs`` is not a positive integer.

    Example:
        ```bash
        lightning-nas fit --config search.yaml --config logger/wandb --wandb_log.every_n_epochs 5
        ```
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the name of the task, the command, and the files that the run reads."""
        for logger in _loggers(trainer):
            logger.log_hyperparams({"task": type(pl_module).__name__, "command": TrainerFn(stage).value})
            inputs = _inputs(trainer, pl_module)
            if inputs:
                described = {name: _use(logger, name, files) for name, files in inputs.items()}
                logger.log_hyperparams({"inputs": described})

    def receivers(self, trainer: Trainer) -> Sequence[Any]:
        """The loggers; see ``EpochPictures.receivers``."""
        return _loggers(trainer)

    def log_search(self, receivers: Sequence[Any], pictures: Pictures) -> None:
        """Log; see ``EpochPictures.log_search``."""
        _log_pictures(receivers, pictures)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the artifacts of a fit, which the task has written by now, and pictures of them."""
        outputs: dict[str, list[Path]] = getattr(pl_module, "outputs", {})
        loggers = _loggers(trainer)
        if stage != "fit" or not outputs or not loggers:
            return
        pictures, errors = result_pictures(pl_module, outputs), result_values(pl_module, outputs)
        if pictures:
            _log_pictures(loggers, pictures)
        if errors:
            for logger in loggers:
                _log(logger, errors)
        for logger in loggers:
            logger.log_hyperparams({"outputs": _log_outputs(logger, outputs)})


def _loggers(trainer: Trainer) -> list[WandbLogger]:
    """List the loggers whose runs are recorded; only the main process has any."""
    if not trainer.is_global_zero:
        return []
    return [x for x in trainer.loggers if isinstance(x, WandbLogger) and not x.experiment.disabled]


# -- pictures ---------------------------------------------------------------------------------------------------------


def _log_pictures(loggers: Sequence[WandbLogger], pictures: Mapping[str, Mapping[str, bytes]]) -> None:
    """Log PNG files by key and caption in one row."""
    import wandb
    from PIL import Image

    for logger in loggers:
        row: dict[str, Any] = {
            key: [wandb.Image(Image.open(io.BytesIO(content)), caption=caption) for caption, content in shown.items()]
            for key, shown in pictures.items()
        }
        _log(logger, row)


def _log(logger: WandbLogger, row: dict[str, Any]) -> None:
    """Log a row at the step of the latest metrics, so that panels are aligned."""
    logger.log_metrics(row, int(logger.experiment.summary.get("trainer/global_step", 0)))


# -- artifacts --------------------------------------------------------------------------------------------------------


def _inputs(trainer: Trainer, task: LightningModule) -> dict[str, list[Path]]:
    """List the files that the task and the data read, by kind of artifact."""
    data = getattr(trainer, "datamodule", None)
    found: dict[str, list[Path]] = {}
    for part in (task, data, getattr(data, "data", None)):
        found |= getattr(part, "inputs", {})
    return found


def _artifact(name: str, files: Sequence[Path], *, copy: bool) -> tuple[Any, dict[str, Any]]:
    """Create an artifact whose digest depends only on the content of its files, and describe it."""
    import wandb

    artifact = wandb.Artifact(name, type=name)
    described = []
    for file in files:
        policy: Literal["mutable", "immutable"] = "mutable" if copy else "immutable"
        entry = artifact.add_file(str(file), name=name + file.suffix, policy=policy)
        described.append({"path": str(file.resolve()), "digest": entry.digest})
    return artifact, {"digest": artifact.digest, "files": described}


def _use(logger: WandbLogger, name: str, files: Sequence[Path]) -> dict[str, Any]:
    """Declare an input if the run is online, and describe it."""
    import wandb

    run = logger.experiment
    artifact, described = _artifact(name, files, copy=False)
    if not run.offline:
        logged = f"{run.entity}/{run.project}/{name}:{artifact.digest}"
        run.use_artifact(logged if wandb.Api().artifact_exists(logged, name) else artifact, type=name)
    return described


def _log_outputs(logger: WandbLogger, outputs: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """Log the files that a task has written, with one artifact per file name without extension, and describe them."""
    groups: dict[str, list[Path]] = {}
    for file in (file for files in outputs.values() for file in files):
        groups.setdefault(file.stem, []).append(file)
    found = {}
    for name, files in groups.items():
        artifact, found[name] = _artifact(name, files, copy=True)
        logger.experiment.log_artifact(artifact, aliases=["latest", artifact.digest])
    return found
