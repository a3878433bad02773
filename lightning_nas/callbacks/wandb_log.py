"""Runs on Weights & Biases: one a stage, with pictures and artifacts, and what was made from what."""

import io
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn

from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import read_json, read_tensors
from lightning_nas.report.draw import draw_cell, draw_heat_map, draw_images, edge_names
from lightning_nas.report.figures import png
from lightning_nas.report.front import Front
from lightning_nas.spaces.base import Graph
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.distill import DistillTask

DPI = 160
"""Resolution of drawings: sharp in a panel of half a screen."""


class WandbRunLogger(WandbLogger):
    """``WandbLogger`` that is offline unless asked otherwise, and begins a run of its own.

    Lightning's has ``offline``, which overwrites the variable ``WANDB_MODE``; so ``WANDB_MODE=online`` could not undo
    it. It also goes on with a run that a stage before has left open in the same process, as in a pipeline: this one
    ends that run first. A run that the user began (``wandb.init``) is joined, as with Lightning's. The last run ends
    with the process, or with ``wandb.finish()``.

    Args:
        project: Name of the project.
        save_dir: Folder of offline runs and of what is still to be uploaded.
        mode: ``online``, ``offline`` or ``disabled``; by default what ``WANDB_MODE`` says, and offline without it.
        **options: The other arguments of ``WandbLogger``, which passes those that it does not know to ``wandb.init``.
    """

    begun: ClassVar[str | None] = None
    """The last run that a logger of this class began in this process."""

    def __init__(
        self,
        project: str = "lightning_nas",
        save_dir: str = ".",
        mode: Literal["online", "offline", "disabled"] | None = None,
        **options: Any,
    ) -> None:
        chosen = mode or os.environ.get("WANDB_MODE") or "offline"
        # absolute, because wandb's own process need not be in the same folder
        self.folder = Path(save_dir).absolute()
        super().__init__(project=project, save_dir=self.folder, mode=chosen, **options)
        self.asked = False

    @property
    def experiment(self) -> Any:
        """The run, begun when it is asked for first; a dummy on all but the main process."""
        if self.asked:
            return super().experiment
        import wandb

        self.asked = True
        self.folder.mkdir(parents=True, exist_ok=True)  # or wandb writes to a temporary folder
        if wandb.run is not None and wandb.run.id == WandbRunLogger.begun:
            wandb.finish()
        own = wandb.run is None
        run = super().experiment
        if own and wandb.run is not None:
            WandbRunLogger.begun = wandb.run.id
        return run


class WandbLog(Callback):
    """Logs to Weights & Biases what a task's curves don't show; nothing where a run has no logger of it.

    After epochs of a search: the factors of the mixtures (``alphas/<cell>``) and the cells that would be chosen now
    (``cells/<cell>``). At the end of a distillation: proxy beside real images (``proxy/images``); at that of a search:
    its selection errors (``selection_errors/<kind>``), or, where costs are minimised, its front (``front/<cost>``).
    Pictures stand where Lightning logged the epoch's metrics last.

    Files that a task writes become artifacts: ``proxy``, ``architecture``, ``alphas``, ``front``. They carry their
    digest as an alias, so that the run that reads one finds which run made it. The run's config has, under ``inputs``
    and ``outputs``, the digest of every artifact, and the path and digest of every file in it.

    Online, a run declares its inputs to W&B, which draws the graph from distillation to final training; a file that no
    run of the project has logged becomes an artifact without a maker. Offline, W&B refuses inputs: equal digests in
    the configs tell what was made from what, and after ``wandb sync`` ``docs/wandb_workspace.py`` declares them.

    Only the main process works, and nothing is done for a batch.

    Args:
        every_n_epochs: Epochs of a search between pictures, at least 1; the last epoch has some in any case.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        if every_n_epochs < 1:
            raise ConfigError(f"every_n_epochs is {every_n_epochs}; it must be at least 1.")
        self.every_n_epochs = every_n_epochs
        self.drawn = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say what runs, and what it reads."""
        for logger in _loggers(trainer):
            logger.log_hyperparams({"task": type(pl_module).__name__, "command": TrainerFn(stage).value})
            inputs = _inputs(trainer, pl_module)
            if inputs:
                described = {name: _use(logger, name, files) for name, files in inputs.items()}
                logger.log_hyperparams({"inputs": described})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pictures of the epochs before a checkpoint are in the run that trained them."""
        self.drawn = len(pl_module.history) if isinstance(pl_module, BilevelTask) else 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the epoch before, whose metrics Lightning has logged by now."""
        if trainer.current_epoch % self.every_n_epochs == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last epoch."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loggers = _loggers(trainer)
        if not loggers or not isinstance(pl_module, BilevelTask) or len(pl_module.history) == self.drawn:
            return
        self.drawn = len(pl_module.history)
        space = pl_module.space
        graphs = space.graphs(pl_module.discretize())
        pictures = {f"cells/{graph.name}": _cell(graph) for graph in graphs}
        rows = edge_names(space, graphs[0])
        for name, factors in pl_module.history[-1].items():
            figure = draw_heat_map(factors, f"{name} cell, epoch {self.drawn}", space.operations, rows)
            pictures[f"alphas/{name}"] = png(figure, DPI)
        _log_pictures(loggers, {key: {f"epoch {self.drawn}": picture} for key, picture in pictures.items()})

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the artifacts of a fit, which the task has written by now, and what they show."""
        outputs: dict[str, list[Path]] = getattr(pl_module, "outputs", {})
        loggers = _loggers(trainer)
        if stage != "fit" or not outputs or not loggers:
            return
        if isinstance(pl_module, DistillTask):
            _log_pictures(loggers, {"proxy/images": _proxy(outputs["proxy"][0])})
        if isinstance(pl_module, BilevelTask) and "architecture" in outputs:
            errors = _selection_errors(outputs["architecture"][0])
            for logger in loggers:
                _log(logger, errors)
        if "front" in outputs:
            front = Front.load(outputs["front"][0])
            caption = f"{len(front.members)} of {len(front.points)} are on the front"
            pictures = {f"front/{name}": {caption: png(each, DPI)} for name, each in front.pictures().items()}
            _log_pictures(loggers, pictures)
        for logger in loggers:
            logger.log_hyperparams({"outputs": _log_outputs(logger, outputs)})


def _loggers(trainer: Trainer) -> list[WandbLogger]:
    """Those whose runs are recorded; none on other processes than the main one."""
    if not trainer.is_global_zero:
        return []
    return [x for x in trainer.loggers if isinstance(x, WandbLogger) and not x.experiment.disabled]


# Pictures.


@lru_cache(maxsize=8)
def _cell(graph: Graph) -> bytes:
    """Late in a search cells stay the same, and finding a layout takes longest."""
    return png(draw_cell(graph), DPI)


def _log_pictures(loggers: Sequence[WandbLogger], pictures: Mapping[str, Mapping[str, bytes]]) -> None:
    """Log PNG files by key and caption, in one row."""
    import wandb
    from PIL import Image

    for logger in loggers:
        row: dict[str, Any] = {
            key: [wandb.Image(Image.open(io.BytesIO(content)), caption=caption) for caption, content in shown.items()]
            for key, shown in pictures.items()
        }
        _log(logger, row)


def _log(logger: WandbLogger, row: dict[str, Any]) -> None:
    """Log a row at the step of the metrics that were logged last, so that panels align."""
    logger.log_metrics(row, int(logger.experiment.summary.get("trainer/global_step", 0)))


def _proxy(path: Path) -> dict[str, bytes]:
    """Pictures of a proxy and of real images, a row a class."""
    names = read_json(path.with_suffix(".json"), repair="Distill again.")["class_names"]
    pictures = read_tensors(path.with_name("pictures.safetensors"), repair="Distill again.")
    captions = {"proxy": "proxy: what the search sees", "real": "real images of the same classes"}
    return {
        caption: png(draw_images(list(zip(names, pictures[name], strict=False)))) for name, caption in captions.items()
    }


def _selection_errors(path: Path) -> dict[str, Any]:
    """Shares of wrong decisions that a search has measured, by kind."""
    errors = read_json(path, repair="Search again.")["provenance"]["selection_errors"] or {}
    return {
        f"selection_errors/{kind}": errors[kind]["rate"]
        for kind in ("edges", "operations")
        if kind in errors and errors[kind]["rate"] is not None
    }


# Artifacts.


def _inputs(trainer: Trainer, task: LightningModule) -> dict[str, list[Path]]:
    """Files that task and data were made from, by the kind of artifact."""
    data = getattr(trainer, "datamodule", None)
    found: dict[str, list[Path]] = {}
    for part in (task, data, getattr(data, "data", None)):
        found |= getattr(part, "inputs", {})
    return found


def _artifact(name: str, files: Sequence[Path], *, copy: bool) -> tuple[Any, dict[str, Any]]:
    """An artifact whose digest depends on the files' content alone, and its description."""
    import wandb

    artifact = wandb.Artifact(name, type=name)
    described = []
    for file in files:
        policy: Literal["mutable", "immutable"] = "mutable" if copy else "immutable"
        entry = artifact.add_file(str(file), name=name + file.suffix, policy=policy)
        described.append({"path": str(file.resolve()), "digest": entry.digest})
    return artifact, {"digest": artifact.digest, "files": described}


def _use(logger: WandbLogger, name: str, files: Sequence[Path]) -> dict[str, Any]:
    """Declare an input, where W&B takes it, and describe it."""
    import wandb

    run = logger.experiment
    artifact, described = _artifact(name, files, copy=False)
    if not run.offline:
        logged = f"{run.entity}/{run.project}/{name}:{artifact.digest}"
        run.use_artifact(logged if wandb.Api().artifact_exists(logged, name) else artifact, type=name)
    return described


def _log_outputs(logger: WandbLogger, outputs: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """Log what a task has written, an artifact of all files of one name, and describe it."""
    groups: dict[str, list[Path]] = {}
    for file in (file for files in outputs.values() for file in files):
        groups.setdefault(file.stem, []).append(file)
    found = {}
    for name, files in groups.items():
        artifact, found[name] = _artifact(name, files, copy=True)
        logger.experiment.log_artifact(artifact, aliases=["latest", artifact.digest])
    return found
