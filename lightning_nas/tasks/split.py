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
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import write_bytes, write_json
from lightning_nas.files.classes import class_path
from lightning_nas.metrics.gradient_matching import Split, best_split, disagreement
from lightning_nas.spaces.base import DifferentiableSpace, Mixture
from lightning_nas.spaces.convert import inherit
from lightning_nas.supernets.artifact import TrainedSupernet
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.common import output_folder
from lightning_nas.tasks.components import check_halves
from lightning_nas.tasks.search_files import WRITE_SUPERNET


class SplitTask(BilevelTask):
    """Divides a supernet in two at the edge whose operations' gradients disagree most; nothing is trained.

    A training step looks at one batch of the train half. Of every edge that takes as many operations as any, which one
    that was split before does not, each operation is alone on the edge, with the edge's whole factor and all others as
    they are mixed, and g is the gradient of the loss by all weights that are not the edge's own. The disagreement of
    two operations is ``1 - cos(g, g')``, summed over the batches; see ``best_split`` for the groups. The edge whose
    groups disagree most is split.

    ``split.json`` holds the scores of all edges; ``supernet_0.safetensors`` and ``supernet_1.safetensors`` the two
    supernets, each with one group on that edge, and the weights and alphas of the whole. ``search_0.yaml`` and
    ``search_1.yaml`` go on with them: as a second ``--config`` of a search, or of the next split.

    Departures: the optimizer's state is not handed on, and batch norm is by batch statistics. One process only.

    References:
        1. Hu, Wang, Hong, et al.: Generalizing Few-Shot NAS with Gradient Matching, ICLR 2022,
           https://arxiv.org/abs/2203.15207

    Attributes:
        sums: Disagreement of the operations so far, ``(edges, operations, operations)`` a cell type.

    Args:
        space: That of the supernet.
        supernet: ``supernet.safetensors`` of a search with ``write_supernet: true``, or of a split.
        relaxation: That of the search; by default the softmax.
        normalization: Likewise; None in DARTS.
        seed: Of the draws of relaxations that draw.
        output_dir: Where the files go; by default the folder of this run's logger.
        num_classes: Number of classes; the command line takes it from the data.
        image_shape: ``(channels, height, width)``; the command line takes it from the data.

    Raises:
        ArtifactError: ``supernet`` is missing, or of another space, or without alphas.
        ConfigError: No edge is left that can be split.
    """

    def __init__(
        self,
        space: DifferentiableSpace,
        supernet: str,
        relaxation: Relaxation | None = None,
        normalization: Normalization | None = None,
        seed: int = 0,
        output_dir: str | None = None,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 32, 32),
    ) -> None:
        super().__init__(
            space=space,
            hypergradient=FirstOrder(),
            discretizer=SoftmaxScore(),
            weight_optimizer=torch.optim.SGD,
            alpha_optimizer=torch.optim.SGD,
            relaxation=relaxation,
            normalization=normalization,
            selection_images=0,
            seed=seed,
            output_dir=output_dir,
            supernet=supernet,
            num_classes=num_classes,
            image_shape=image_shape,
        )
        self.automatic_optimization = True  # Lightning counts steps, which checkpoints need, without an optimizer, too
        self.loaded = TrainedSupernet.load(supernet, repair=WRITE_SUPERNET)
        most = max(int(allowed.sum(1).max()) for allowed in space.allowed.values())
        if most < 2:
            raise ConfigError(
                f"{supernet} cannot be split: no edge takes more than one operation any more. Search in it, or split a "
                "wider one."
            )
        self.candidates = [
            (cell, edge, row.nonzero().flatten().tolist())
            for cell, allowed in space.allowed.items()
            for edge, row in enumerate(allowed)
            if int(row.sum()) == most and self._leaves_inputs(cell, edge)
        ]
        if not self.candidates:
            raise ConfigError(
                f"{supernet} cannot be split: on every edge one part could be none alone, and a node would have too "
                "few inputs. Search in it without none among its operations, or split a wider one."
            )
        count = len(space.operations)
        for cell in space.cell_types:
            self.register_buffer(f"sums_{cell}", torch.zeros(space.edges, count, count, dtype=torch.float64))
        self.split: tuple[str, int, Split] | None = None

    def _leaves_inputs(self, cell: str, edge: int) -> bool:
        """Whether an edge can be split however its operations group: none alone takes an input away."""
        names, mask = self.space.operations, self.space.allowed[cell].clone()
        if "none" not in names or not mask[edge, names.index("none")] or int(mask[edge].sum()) > 3:
            return True
        mask[edge] = torch.tensor([name == "none" for name in names])
        try:
            self.space.restrict({cell: mask})
        except ConfigError:
            return False
        return True

    @property
    def sums(self) -> dict[str, Tensor]:
        """See the class."""
        return {cell: getattr(self, f"sums_{cell}") for cell in self.space.cell_types}

    def on_fit_start(self) -> None:
        """Refuse several processes.

        Raises:
            ConfigError: There are some.
        """
        super().on_fit_start()
        if self.trainer.world_size > 1:
            raise ConfigError(
                f"{self.trainer.world_size} processes would each see a part of the gradients. Use one device."
            )

    def configure_optimizers(self) -> None:
        """None: nothing is trained."""

    def training_step(self, batch: Mapping[str, tuple[Tensor, Tensor]], batch_idx: int) -> None:
        """Add the disagreement of one batch."""
        check_halves(batch)
        images, labels = batch["train"]
        mixtures = {name: mixture.detached() for name, mixture in self.mixtures().items()}
        for cell, edge, operations in self.candidates:
            found = [self.gradient(images, labels, mixtures, cell, edge, o) for o in operations]
            part = disagreement(torch.stack(found)).to(self.sums[cell])
            index = torch.tensor(operations, device=part.device)
            self.sums[cell][edge].index_put_((index[:, None], index[None]), part, accumulate=True)

    def gradient(
        self, images: Tensor, labels: Tensor, mixtures: Mapping[str, Mixture], cell: str, edge: int, operation: int
    ) -> Tensor:
        """Gradient of the loss with one operation on an edge, by all weights but the edge's own, which have zeros.

        Args:
            images: ``(batch, channels, height, width)``.
            labels: As of the data.
            mixtures: What the other edges mix.
            cell: Cell type.
            edge: Row of the alphas.
            operation: Column of the alphas.
        """
        factors, edges, _ = mixtures[cell]
        alone = factors.clone()
        alone[edge] = 0.0
        alone[edge, operation] = edges[edge]
        weights = dict(self.supernet.named_parameters())
        with torch.enable_grad():
            logits = self._logits(images, {**mixtures, cell: Mixture(alone, edges)}, weights)
            loss = F.cross_entropy(logits, labels)
            parts = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
        found = {name: part.contiguous() for name, part in zip(weights, parts, strict=True)}
        for public, name, full, place, _ in self.supernet.per_edge():
            owner = self.supernet.owner(public)
            if name in found and owner is not None and owner[:2] == (cell, edge):
                found[name].view(full)[place].zero_()
        return torch.cat([part.flatten() for part in found.values()])

    def on_train_epoch_end(self) -> None:
        """Nothing has moved."""

    def splits(self) -> list[tuple[str, int, Split]]:
        """Cell type, edge and best groups, as indices of operations, of every edge that can be split."""
        found = []
        for cell, edge, operations in self.candidates:
            place = best_split(self.sums[cell][edge][operations][:, operations].cpu())
            groups = tuple(tuple(operations[i] for i in group) for group in place.groups)
            found.append((cell, edge, place._replace(groups=groups)))  # type: ignore[arg-type]  # two, as before
        return found

    def _finish(self) -> None:
        self._finished = True
        folder = output_folder(self.trainer, self.output_dir)
        found = self.splits()
        self.split = cell, edge, best = max(found, key=lambda each: each[2].score)
        names = self.space.operations

        def told(cell: str, edge: int, split: Split) -> dict[str, Any]:
            groups = [[names[o] for o in group] for group in split.groups]
            return {"cell": cell, "edge": edge, "groups": groups, "score": split.score}

        content = {**told(cell, edge, best), "seed": self.seed, "edges": [told(*each) for each in found]}
        files = [write_json(folder / "split.json", content)]
        for i, group in enumerate(best.groups):
            files += self._write_part(folder, i, cell, edge, group)
        self.outputs = {"split": files}

    def _write_part(self, folder: Path, number: int, cell: str, edge: int, group: tuple[int, ...]) -> list[Path]:
        """One of the two supernets, and what a search goes on with it by."""
        mask = self.space.allowed[cell].clone()
        mask[edge] = False
        mask[edge, list(group)] = True
        space = self.space.restrict({cell: mask})
        part = space.supernet(**self.supernet_arguments)
        inherit(part, self.supernet)
        path = replace(self.loaded, network=part, space=space).save(folder / f"supernet_{number}.safetensors")
        kind = class_path(type(space))
        narrowed = {"class_path": kind, "init_args": _plain(space.arguments())}
        config = {"model": {"init_args": {"space": narrowed, "supernet": str(path.resolve())}}}
        text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=120)
        return [path, path.with_suffix(".json"), write_bytes(folder / f"search_{number}.yaml", text.encode())]


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
