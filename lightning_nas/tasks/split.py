"""Splitting a supernet where its operations disagree (GM-NAS)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import write_bytes, write_json
from lightning_nas.files.classes import class_path
from lightning_nas.metrics.gradient_matching import Split, best_split, disagreement
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.spaces.convert import inherit
from lightning_nas.spaces.supernet import Mixture
from lightning_nas.tasks.base import MIXED, Task
from lightning_nas.tasks.common import check_state, halves_of, log_validation, output_folder
from lightning_nas.tasks.search_files import start_from

Place = tuple[str, int, Split]
"""Cell type, edge, and the best two groups of the edge's operations."""


class SplitTask(Task):
    """Divides a supernet in two at the edge whose operations' gradients disagree most; nothing is trained.

    Every training step looks at one batch of the train half. Each operation of an edge in turn is alone on its edge,
    with the edge's whole factor, while all other edges mix as before; g is the gradient of the loss with respect to the
    weights of the cells that are not the edge's own. The disagreement of two operations is ``1 - cos(g, g')``, summed
    over the batches; ``best_split`` forms the two groups, and the edge whose groups disagree most is split. Only edges
    with the most operations take part, which leaves out those that were split before.

    ``split.json`` holds the scores of all edges. ``supernet_0.safetensors`` and ``supernet_1.safetensors`` are the two
    supernets, each with one group on that edge, and with the weights and alphas of the whole. ``search_0.yaml`` and
    ``search_1.yaml`` go on with them: give one as a second ``--config`` to a search, or to the next split.

    Departures from the paper: the optimizer's state is not handed on, and batch norm uses batch statistics. One process
    only.

    References:
        1. Hu, Wang, Hong, et al.: Generalizing Few-Shot NAS with Gradient Matching, ICLR 2022,
           https://arxiv.org/abs/2203.15207

    Attributes:
        model: The supernet that is split, with its alphas.
        sums: Disagreement of the operations so far, ``(edges, operations, operations)`` by cell type.
        split: Cell type, edge and groups of the split; None before the end of ``fit``.
        outputs: Files that the run has written, by kind of artifact.

    Args:
        space: The search space of the supernet.
        supernet_path: ``supernet.safetensors`` of a search with ``write_supernet: true``, or of a split.
        relaxation: Relaxation of the search; the softmax by default.
        normalization: Normalization of the search; None, the default, if it had none.
        seed: Seed of the search, for the record.
        output_dir: Folder of the files; the folder of this run's logger by default.
        cells_only: Whether only the weights of the cells and of what stands between them count, as in the authors'
            code; false adds those of the stem, of the last batch norm and of the classifier.
        num_classes: Number of classes; the command line takes it from the data.
        image_shape: ``(channels, height, width)`` of an image; the command line takes it from the data.

    Raises:
        ArtifactError: ``supernet_path`` is missing, belongs to another space, or has no alphas.
        ConfigError: No edge is left that can be split.

    Example:
        ```yaml
        model:
          class_path: SplitTask
          init_args:
            space: {class_path: NASBench201Space, init_args: {channels: 8}}
            supernet_path: supernet.safetensors
        ```
    """

    writes = (
        *("split.json", "supernet_0.safetensors", "supernet_0.json", "supernet_1.safetensors", "supernet_1.json"),
        *("search_0.yaml", "search_1.yaml"),
    )
    metrics_logged = ("val/loss", "val/accuracy")
    precisions = (*MIXED, "64-true")
    one_process = True

    def __init__(
        self,
        space: DifferentiableSpace,
        *,
        supernet_path: str,
        relaxation: Relaxation | None = None,
        normalization: Normalization | None = None,
        seed: int = 0,
        output_dir: str | None = None,
        cells_only: bool = True,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 32, 32),
    ) -> None:
        super().__init__()
        self.cells_only = cells_only
        self.model = SearchModel(
            space,
            SoftmaxScore(),
            relaxation=relaxation,
            normalization=normalization,
            num_classes=num_classes,
            image_shape=image_shape,
        )
        self.loaded = start_from(self.model, supernet_path)
        self.seed = seed
        self.output_dir = output_dir
        most = max(int(allowed.sum(1).max()) for allowed in space.allowed.values())
        if most < 2:
            raise ConfigError(
                f"{supernet_path} cannot be split: no edge has more than one operation left. Search in it, or split a "
                "wider one."
            )
        self.candidates = [
            (cell, edge, row.nonzero().flatten().tolist())
            for cell, allowed in space.allowed.items()
            for edge, row in enumerate(allowed)
            if int(row.sum()) == most and _leaves_inputs(space, cell, edge)
        ]
        if not self.candidates:
            raise ConfigError(
                f"{supernet_path} cannot be split: on every edge one group could be none alone, and a node would have "
                "too few inputs. Search in it without none among its operations, or split a wider one."
            )
        count = len(space.operations)
        for cell in space.cell_types:
            self.register_buffer(f"sums_{cell}", torch.zeros(space.edges, count, count, dtype=torch.float64))
        self.split: Place | None = None
        self.outputs: dict[str, list[Path]] = {}
        self._finished = False

    @property
    def trains(self) -> bool:
        """False: only gradients are compared."""
        return False

    @property
    def sums(self) -> dict[str, Tensor]:
        """Disagreement of the operations so far, ``(edges, operations, operations)`` by cell type."""
        return {cell: getattr(self, f"sums_{cell}") for cell in self.model.space.cell_types}

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of the whole supernet."""
        logits: Tensor = self.model(x)
        return logits

    def on_fit_start(self) -> None:
        """Refuse several processes.

        Raises:
            ConfigError: There are several.
        """
        if self.trainer.world_size > 1:
            raise ConfigError(
                f"{self.trainer.world_size} processes would each see a part of the gradients. Use one device."
            )

    def configure_optimizers(self) -> None:
        """No optimizer: nothing is trained."""

    def training_step(self, batch: Mapping[str, tuple[Tensor, Tensor]], batch_idx: int) -> None:
        """Add the disagreement of one batch."""
        (images, labels), _ = halves_of(batch)
        mixtures = {name: mixture.detached() for name, mixture in self.model.mixtures().items()}
        for cell, edge, operations in self.candidates:
            gradients = [self.gradient(images, labels, mixtures, cell, edge, o) for o in operations]
            part = disagreement(torch.stack(gradients)).to(self.sums[cell])
            index = torch.tensor(operations).to(part.device, non_blocking=True)
            self.sums[cell][edge].index_put_((index[:, None], index[None]), part, accumulate=True)

    def gradient(
        self, images: Tensor, labels: Tensor, mixtures: Mapping[str, Mixture], cell: str, edge: int, operation: int
    ) -> Tensor:
        """Gradient of the loss with one operation alone on an edge, by the weights; zero for the edge's own.

        Args:
            images: Normalised images ``(batch, channels, height, width)``.
            labels: Their labels, as the data module hands them out.
            mixtures: Factors by cell type.
            cell: Cell type.
            edge: Row of the alphas.
            operation: Column of the alphas.
        """
        factors, edges = mixtures[cell].operations, mixtures[cell].edges
        alone = factors.clone()
        alone[edge] = 0.0
        alone[edge, operation] = edges[edge]
        weights = self.model.weights
        cells = {id(p) for p in self.model.supernet.cells.parameters()}
        asked = {name: p for name, p in weights.items() if not self.cells_only or id(p) in cells}
        with torch.enable_grad():
            logits = self.model.logits(images, {**mixtures, cell: Mixture(alone, edges)}, weights)
            loss = F.cross_entropy(logits, labels)
            parts = torch.autograd.grad(loss, list(asked.values()), allow_unused=True, materialize_grads=True)
        found = {name: part.contiguous() for name, part in zip(asked, parts, strict=True)}
        supernet = self.model.supernet
        for public, name, full, place, _ in supernet.per_edge():
            owner = supernet.owner(public)
            if name in found and owner is not None and owner[:2] == (cell, edge):
                found[name].view(full)[place].zero_()
        return torch.cat([part.flatten() for part in found.values()])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of the whole supernet on Lightning's validation set."""
        log_validation(self, self(batch[0]), batch[1])

    def splits(self) -> list[Place]:
        """Cell type, edge and best groups, as columns of the alphas, of every edge that can be split."""
        found = []
        for cell, edge, operations in self.candidates:
            place = best_split(self.sums[cell][edge][operations][:, operations].cpu())
            groups = tuple(tuple(operations[i] for i in group) for group in place.groups)
            found.append((cell, edge, place._replace(groups=groups)))  # type: ignore[arg-type]  # still two groups
        return found

    def on_train_end(self) -> None:
        """Write the files."""
        self._finish()

    def on_fit_end(self) -> None:
        """Write the files of a run that was resumed after its last epoch."""
        if not self._finished:
            self._finish()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another supernet.

        Raises:
            CheckpointError: Names or shapes of its parameters differ.
        """
        check_state(self, checkpoint)

    def _finish(self) -> None:
        self._finished = True
        folder = output_folder(self.trainer, self.output_dir)
        found = self.splits()
        self.split = cell, edge, best = max(found, key=lambda each: each[2].score)
        names = self.model.space.operations

        def described(cell: str, edge: int, split: Split) -> dict[str, Any]:
            groups = [[names[o] for o in group] for group in split.groups]
            return {"cell": cell, "edge": edge, "groups": groups, "score": split.score}

        edges = [described(*each) for each in found]
        content = {**described(cell, edge, best), "seed": self.seed, "edges": edges}
        files = [write_json(folder / "split.json", content)]
        for i, group in enumerate(best.groups):
            files += self._write_part(folder, i, cell, edge, group)
        self.outputs = {"split": files}

    def _write_part(self, folder: Path, number: int, cell: str, edge: int, group: tuple[int, ...]) -> list[Path]:
        """One of the two supernets, and the configuration with which a search goes on from it."""
        model = self.model
        mask = model.space.allowed[cell].clone()
        mask[edge] = False
        mask[edge, list(group)] = True
        space = model.space.restrict({cell: mask})
        part = space.supernet(num_classes=model.num_classes, image_shape=model.image_shape)
        inherit(part, model.supernet)
        path = replace(self.loaded, network=part, space=space).save(folder / f"supernet_{number}.safetensors")
        narrowed = {"class_path": class_path(type(space)), "init_args": _plain(space.arguments())}
        config = {"model": {"init_args": {"space": narrowed, "supernet_path": str(path.resolve())}}}
        text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=120)
        return [path, path.with_suffix(".json"), write_bytes(folder / f"search_{number}.yaml", text.encode())]


def _leaves_inputs(space: DifferentiableSpace, cell: str, edge: int) -> bool:
    """Whether an edge can be split however its operations are grouped: a group of ``none`` alone loses an input."""
    mask = space.allowed[cell].clone()
    none = mask[edge] & torch.tensor([operation.is_none for operation in space.candidates])
    if not none.any() or int(mask[edge].sum()) > 3:
        return True
    mask[edge] = none
    try:
        space.restrict({cell: mask})
    except ConfigError:
        return False
    return True


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
