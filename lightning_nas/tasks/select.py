"""Selection of an architecture by perturbing a trained supernet (DARTS-PT)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.checks import at_least
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.spaces.supernet import Mixture
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.common import check_fixed_images, kept, synchronised

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Decision:
    """A decision about one edge.

    Attributes:
        epoch: Epoch at whose start it was made, counted from 0.
        cell: Cell type.
        edge: Row of the alphas.
        operation: Column of the operation that the edge keeps; None if the edge was removed.
        scores: Accuracy or loss without each candidate, by the name of an operation or by the row of an edge.
    """

    epoch: int
    cell: str
    edge: int
    operation: int | None
    scores: dict[str, float]


@dataclass(frozen=True)
class Plan:
    """The order and the epochs of all decisions.

    Attributes:
        edges: For every cell type, the edges in the order in which they get their operation.
        nodes: For every cell type, the nodes with too many inputs, in the order in which they lose some.
        epochs: The epoch at whose start each step is made; the steps of edges come before those of nodes.
        length: Number of epochs of the whole selection.
    """

    edges: dict[str, list[int]]
    nodes: dict[str, list[int]]
    epochs: list[int]
    length: int

    @classmethod
    def of(cls, space: DifferentiableSpace, epochs_between: int, seed: int) -> "Plan":
        """Draw the plan for a space.

        Args:
            space: The search space.
            epochs_between: Number of epochs from one step to the next.
            seed: Seed of the orders; every cell type has its own order.
        """
        kept = space.inputs_kept
        pruned = [i for i, node in enumerate(space.nodes) if kept is not None and node.stop - node.start > kept]
        edges, nodes = {}, {}
        for cell in space.cell_types:
            generator = torch.Generator().manual_seed(derived_seed(seed, "selection", cell))
            edges[cell] = torch.randperm(space.edges, generator=generator).tolist()
            nodes[cell] = [pruned[i] for i in torch.randperm(len(pruned), generator=generator).tolist()]
        steps = space.edges + len(pruned)
        # as published: the last step is in the last epoch, which comes one earlier if no node loses inputs
        length = max(steps, epochs_between * (steps - 1) + bool(pruned))
        return cls(edges, nodes, [epochs_between * i for i in range(steps - 1)] + [length - 1], length)


class SelectTask(BilevelTask):
    """Selects by perturbation (DARTS-PT): the operations stay whose removal hurts the supernet most.

    The task starts from the supernet of a search. At the start of every ``epochs_between``-th epoch one edge of every
    cell type, in random order, gets its operation. Each operation of the edge is removed in turn: its factor is 0, all
    others keep theirs. The one without which the supernet does worst becomes the only one, with the whole factor of the
    edge. Then, if nodes keep only some of their inputs, every node in random order loses one input after the other,
    those without which the supernet does best. Between the decisions weights and alphas are trained as in
    ``BilevelTask``.

    Removals are measured on the same images of the search half, with batch statistics and without moving the running
    ones. Every process measures and takes over what the main one found. ``architecture.json`` holds every decision
    with its scores. Selection errors are not measured, because removal is their reference. The removed inputs of a node
    stay away while its next input is chosen; in the authors' code they may return.

    References:
        1. Wang, Cheng, Chen, Tang, Hsieh: Rethinking Architecture Selection in Differentiable NAS, ICLR 2021,
           https://arxiv.org/abs/2108.04392

    Attributes:
        plan: The order and the epochs of all decisions.
        decisions: All decisions so far.

    Args:
        supernet_path: ``supernet.safetensors`` of a search with ``write_supernet: true``.
        epochs_between: Number of epochs from one step to the next, at least 1 (the paper: 5).
        fixed_alphas: Whether all factors of an edge are equal and stay so; only the weights are trained then.
        by_loss: Whether the worst removal is the one with the highest loss, instead of the lowest accuracy, as
            published.
        selection_images: Number of images that removals are measured on; 0 takes the whole search half, as published.
        selection_batch_size: Number of images that share their batch statistics, at least 2 (published: 64).
        seed: Seed of the orders and of the choice of images.
        **options: All other arguments of ``BilevelTask``.

    Raises:
        ArtifactError: ``supernet_path`` is missing, belongs to another space, or has no alphas.
        ConfigError: A number is out of its range, or components do not go together.

    Example:
        ```yaml
        model:
          class_path: SelectTask
          init_args:
            supernet_path: supernet/supernet.safetensors
            space: {class_path: DARTSSpace, init_args: {channels: 16, cells: 8}}
            hypergradient: FirstOrder
            discretizer: SoftmaxScore
            weight_optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.0025, momentum: 0.9}}
            alpha_optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.0003}}
        trainer: {max_epochs: 81}
        ```
    """

    length_from = "epochs_between and the edges and nodes of the space"

    def __init__(
        self,
        supernet_path: str,
        *,
        epochs_between: int = 5,
        fixed_alphas: bool = False,
        by_loss: bool = False,
        selection_images: int = 0,
        selection_batch_size: int = 64,
        seed: int = 0,
        **options: Any,
    ) -> None:
        at_least(1, epochs_between=epochs_between)
        at_least(0, selection_images=selection_images)
        at_least(2, selection_batch_size=selection_batch_size)
        super().__init__(supernet_path=supernet_path, selection_images=0, seed=seed, **options)
        self.decisions: list[Decision] = []
        self.steps_made = 0
        self.by_loss = by_loss
        self.images_measured = selection_images
        self.selection_batch_size = selection_batch_size
        self.fixed_alphas = fixed_alphas
        if fixed_alphas:
            for alpha in self.model.alpha_list:
                torch.nn.init.zeros_(alpha)
        self.plan = Plan.of(self.model.space, epochs_between, seed)

    @property
    def alphas_move(self) -> bool:
        """Whether the alphas are trained in this epoch."""
        return not self.fixed_alphas and super().alphas_move

    # -- decisions ------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Refuse a training that does not have the length of the plan, and data without fixed images.

        Raises:
            ConfigError: One of both, or what ``BilevelTask`` refuses.
        """
        super().on_fit_start()
        if self.trainer.max_epochs != self.plan.length:
            raise ConfigError(
                f"trainer.max_epochs is {self.trainer.max_epochs}, but the {len(self.plan.epochs)} steps of the "
                f"selection take {self.plan.length} epochs. Set trainer.max_epochs to {self.plan.length}."
            )
        check_fixed_images("The selection", self.trainer)
        self.model.mask.compute_all = synchronised(self.trainer)

    def on_train_epoch_start(self) -> None:
        """Make the steps that are due."""
        while self.steps_made < len(self.plan.epochs) and self.plan.epochs[self.steps_made] <= self.current_epoch:
            self.make_step(self.steps_made)
            self.steps_made += 1

    def make_step(self, step: int) -> None:
        """Make one step of the plan in every cell type.

        Args:
            step: Index into ``plan.epochs``.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        size = self.images_measured or len(data.half("search"))
        images, labels = data.fixed_batch("search", size, self.seed)
        parts = -(-size // self.selection_batch_size)
        like = next(self.parameters())
        images = images.to(like.device, like.dtype).tensor_split(parts)
        batches = list(zip(images, labels.to(like.device).tensor_split(parts), strict=True))
        space = self.model.space
        for cell in space.cell_types:
            if step < space.edges:
                self._decide_operation(cell, self.plan.edges[cell][step], batches)
            else:
                self._decide_inputs(cell, self.plan.nodes[cell][step - space.edges], batches)

    def _decide_operation(self, cell: str, edge: int, batches: Sequence[Batch]) -> None:
        space = self.model.space
        candidates = space.selectable[cell][edge].nonzero().flatten().tolist()
        scores = {}
        if len(candidates) > 1:
            scores = {o: self._measure(cell, edge, o, batches) for o in candidates}
        # an edge that allows nothing but ``none`` has no operation: the space never keeps it
        operation = self._worst(scores, candidates) if candidates else None
        named = {space.operations[o]: score for o, score in scores.items()}
        self._decide(Decision(self.current_epoch, cell, edge, operation, named))

    def _decide_inputs(self, cell: str, node: int, batches: Sequence[Batch]) -> None:
        edges = self.model.space.nodes[node]
        last = self.model.mask.decided[cell]
        kept = [edge for edge in range(edges.start, edges.stop) if last[edge] is not None]
        while len(kept) > (self.model.space.inputs_kept or 0):
            scores = {edge: self._measure(cell, edge, slice(None), batches) for edge in kept}
            sign = -1 if self.by_loss else 1
            weakest = max(kept, key=lambda edge: sign * scores[edge])
            named = {str(edge): score for edge, score in scores.items()}
            self._decide(Decision(self.current_epoch, cell, weakest, None, named))
            kept.remove(weakest)

    def _decide(self, decision: Decision) -> None:
        self.decisions.append(decision)
        self.model.decide(decision.cell, decision.edge, decision.operation)

    def _worst(self, scores: Mapping[int, float], candidates: Sequence[int]) -> int:
        """The candidate whose removal hurts most; the first of equals."""
        sign = 1 if self.by_loss else -1
        return max(candidates, key=lambda o: sign * scores[o]) if scores else candidates[0]

    @torch.no_grad()
    def _measure(self, cell: str, edge: int, removed: int | slice, batches: Sequence[Batch]) -> float:
        """Accuracy or loss of the supernet without one operation of an edge, or without all of them."""
        mixtures = self.model.mixtures()
        operations, edges = mixtures[cell].operations.clone(), mixtures[cell].edges.clone()
        active = mixtures[cell].active
        operations[edge, removed] = 0
        if isinstance(removed, slice):
            edges[edge] = 0
        mixtures[cell] = Mixture(operations, edges, None if active is None else active & (operations != 0).cpu())
        total = 0.0
        with self.model.batch_statistics():
            for images, labels in batches:
                logits = self.model.logits(images, mixtures, self.model.weights)
                if self.by_loss:
                    total += float(F.cross_entropy(logits, labels, reduction="sum"))
                else:
                    total += int((logits.argmax(1) == labels).sum())
        measured: float = self.trainer.strategy.broadcast(total / sum(len(labels) for _, labels in batches))
        return measured

    # -- what is written ------------------------------------------------------------------------------------------

    def provenance(self) -> dict[str, Any]:
        """How the architecture was found, every decision included; see ``BilevelTask.provenance``."""
        return {
            **super().provenance(),
            "decided_by": "loss" if self.by_loss else "accuracy",
            "fixed_alphas": self.fixed_alphas,
            "decisions": [asdict(decision) for decision in self.decisions],
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the decisions; see ``BilevelTask.on_save_checkpoint``."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["decisions"] = [asdict(decision) for decision in self.decisions]
        checkpoint["steps_made"] = self.steps_made

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the decisions; see ``BilevelTask.on_load_checkpoint``."""
        super().on_load_checkpoint(checkpoint)
        self.decisions = []
        self.model.mask.decided.clear()
        for decision in kept(self, checkpoint, "decisions"):
            self._decide(Decision(**decision))
        self.steps_made = checkpoint["steps_made"]
