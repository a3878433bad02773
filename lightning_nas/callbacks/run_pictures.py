"""What a run has to show besides its curves: pictures and figures of searches and distillations."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_nas.checks import at_least
from lightning_nas.files.artifacts import read_json, read_tensors
from lightning_nas.report.draw import draw_cell, draw_heat_map, draw_images, edge_names
from lightning_nas.report.figures import png
from lightning_nas.report.front import Front
from lightning_nas.report.selection import KINDS
from lightning_nas.spaces.graph import Graph
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.distill import DistillTask

DPI = 160
"""Resolution of drawings in pixels per inch, which is sharp in a panel of half a screen."""

Pictures = dict[str, dict[str, bytes]]
"""PNG files by key and caption."""


class EpochPictures(Callback, ABC):
    """Draws a search after its epochs; the subclass says where the pictures go.

    Args:
        every_n_epochs: Epochs of a search between two pictures, a positive integer. The last epoch always has some.

    Attributes:
        drawn: Number of epochs at the last pictures.

    Raises:
        ConfigError: ``every_n_epochs`` is not a positive integer.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        at_least(1, every_n_epochs=every_n_epochs)
        self.every_n_epochs = every_n_epochs
        self.drawn = 0

    @abstractmethod
    def receivers(self, trainer: Trainer) -> Sequence[Any]:
        """What keeps pictures; where there is nothing, none are drawn."""

    @abstractmethod
    def log_search(self, receivers: Sequence[Any], pictures: Pictures) -> None:
        """Hand the pictures of ``drawn`` epochs over."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Skip epochs before a checkpoint: their pictures are in the run that trained them."""
        self.drawn = epochs_of(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the previous epoch, whose metrics Lightning has logged by now."""
        if trainer.current_epoch % self.every_n_epochs == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last epoch."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        receivers = self.receivers(trainer)
        if receivers and epochs_of(pl_module) != self.drawn:
            self.drawn = epochs_of(pl_module)
            self.log_search(receivers, search_pictures(pl_module))


def epochs_of(task: LightningModule) -> int:
    """Number of epochs of a search that there are pictures of; 0 for other tasks."""
    return len(task.history) if isinstance(task, BilevelTask) else 0


def search_pictures(task: LightningModule) -> Pictures:
    """Draw the present state of a search.

    Args:
        task: The task that is trained.

    Returns:
        Heat maps of the mixture weights of the last epoch (``alphas/<cell>``), and the cells that would be chosen now
        (``cells/<cell>``); nothing for other tasks.
    """
    if not isinstance(task, BilevelTask) or not task.history:
        return {}
    epoch, space = len(task.history), task.model.space
    graphs = space.graphs(task.model.discretize())
    pictures = {f"cells/{graph.name}": _cell(graph) for graph in graphs}
    rows = edge_names(space, graphs[0])
    for name, factors in task.history[-1].items():
        figure = draw_heat_map(factors, f"{name} cell, epoch {epoch}", space.operations, rows)
        pictures[f"alphas/{name}"] = png(figure, DPI)
    return {key: {f"epoch {epoch}": picture} for key, picture in pictures.items()}


def result_pictures(task: LightningModule, outputs: Mapping[str, Sequence[Path]]) -> Pictures:
    """Draw what a task has written: images of a proxy (``proxy/images``), a Pareto front (``front/<cost>``).

    Args:
        task: The task that was trained.
        outputs: The files that it has written, by kind of artifact.
    """
    pictures: Pictures = {}
    if isinstance(task, DistillTask):
        pictures["proxy/images"] = _proxy(outputs["proxy"][0])
    if "front" in outputs:
        front = Front.load(outputs["front"][0])
        caption = f"{len(front.members)} of {len(front.points)} are on the front"
        pictures |= {f"front/{name}": {caption: png(each, DPI)} for name, each in front.pictures().items()}
    return pictures


def result_values(task: LightningModule, outputs: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """Read the selection errors that a search has measured.

    For every kind that had something to decide: the rate of wrong decisions (``selection_errors/<kind>``) and the ends
    of its interval (``_low``, ``_high``), where any is decided; the numbers of decided and undecided ones
    (``_decided``, ``_undecided``) and of images (``_images``).

    Args:
        task: The task that was trained.
        outputs: The files that it has written, by kind of artifact.
    """
    if not isinstance(task, BilevelTask) or "architecture" not in outputs:
        return {}
    provenance = read_json(outputs["architecture"][0], repair="Search again.")["provenance"]
    errors = provenance["selection_errors"] or {}
    names = {"rate": "", **{name: f"_{name}" for name in ("low", "high", "decided", "undecided", "images")}}
    return {
        f"selection_errors/{kind}{suffix}": errors[kind][name]
        for kind in KINDS
        if kind in errors and errors[kind]["count"]
        for name, suffix in names.items()
        if errors[kind][name] is not None
    }


@lru_cache(maxsize=8)
def _cell(graph: Graph) -> bytes:
    """Draw a cell. Late in a search, cells stay the same, and finding a layout takes the longest."""
    return png(draw_cell(graph), DPI)


def _proxy(path: Path) -> dict[str, bytes]:
    """Draw images of a proxy and real ones, with one row per class."""
    names = read_json(path.with_suffix(".json"), repair="Distill again.")["class_names"]
    pictures = read_tensors(path.with_name("pictures.safetensors"), repair="Distill again.")
    captions = {"proxy": "proxy: what the search sees", "real": "real images of the same classes"}
    return {
        caption: png(draw_images(list(zip(names, pictures[name], strict=False)))) for name, caption in captions.items()
    }
