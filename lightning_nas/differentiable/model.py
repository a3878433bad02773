"""The model of a differentiable search: a supernet, its architecture parameters, and how these become mixtures."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.architecture import Architecture
from lightning_nas.differentiable.alpha_mask import EMPTY, AlphaMask
from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.relaxation.softmax import Softmax
from lightning_nas.differentiable.runner import Compile, SupernetRunner
from lightning_nas.errors import ConfigError
from lightning_nas.metrics.selection import SelectionErrors, selection_errors
from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.spaces.convert import inherit
from lightning_nas.spaces.supernet import Mixture, Supernet
from lightning_nas.supernets.unused_weights import UnusedWeightGuard

SELECTION_BATCH = 64
"""Number of images that share batch statistics where selection errors are measured, as published for DARTS-PT."""


class SearchModel(nn.Module):
    """A supernet and the alphas that mix its operations: everything about a search that is not its training.

    The forward pass turns alphas into factors (relaxation), makes factors of different edges comparable
    (normalization), masks what is not allowed or already decided (``AlphaMask``), and runs the supernet with the
    result. The task that trains the model, its callbacks and its regularizers all work through this class.

    The supernet is drawn from torch's global generator, the alphas from one of their own with ``seed``.

    Attributes:
        supernet: The network whose weights all architectures share.
        alphas: Architecture parameters ``(edges, operations)`` by cell type.
        edge_alphas: Architecture parameters ``(edges,)`` by cell type; empty unless the normalization trains them.
        weights: The parameters of the supernet by name.
        mask: Which alphas count; see ``AlphaMask``.
        runner: How the supernet is run; see ``SupernetRunner``.
        guard: Leaves weights unchanged that a step has not used; None unless the relaxation is hard.
        observers: Called after ``restrict``, ``freeze`` and ``rebuild`` with the former supernet, and with whether the
            present one has new weights. The optimizers and the regularizers of a task follow the supernet so.

    Args:
        space: The search space.
        discretizer: Reads an architecture from the alphas.
        relaxation: Turns the alphas of an edge into factors; the softmax of DARTS by default.
        normalization: Makes the factors of different edges comparable; None, as in DARTS, leaves every edge alone.
        attention: Weights channels inside the supernet; None, as in DARTS, uses no attention.
        num_classes: Number of classes.
        image_shape: ``(channels, height, width)`` of an image.
        alpha_scale: Standard deviation of the initial alphas (DARTS: 1e-3).
        seed: Seed of the initial alphas.
        channels_last: Memory layout; see ``SupernetRunner``.
        checkpoint_cells: Activation checkpointing; see ``SupernetRunner``.
        compile: Compilation; see ``SupernetRunner``.

    Raises:
        ConfigError: Two components do not go together.
        DataError: The images are too small for the space.

    Example:
        ```python
        model = SearchModel(DARTSSpace(channels=4, cells=3), SoftmaxScore(), image_shape=(3, 16, 16))
        logits = model(torch.randn(2, 3, 16, 16))
        architecture = model.discretize()
        ```
    """

    def __init__(
        self,
        space: DifferentiableSpace,
        discretizer: Discretizer,
        *,
        relaxation: Relaxation | None = None,
        normalization: Normalization | None = None,
        attention: Attention | None = None,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        alpha_scale: float = 1e-3,
        seed: int = 0,
        channels_last: bool = True,
        checkpoint_cells: bool = False,
        compile: Compile = False,
    ) -> None:
        super().__init__()
        self.space = space
        self.discretizer = discretizer
        self.relaxation = relaxation or Softmax()
        self.normalization = normalization
        self.attention = attention
        self.num_classes = num_classes
        self.image_shape = image_shape
        self.alpha_scale = alpha_scale
        self.run_settings: dict[str, Any] = {
            "channels_last": channels_last,
            "checkpoint_cells": checkpoint_cells,
            "compile": compile,
        }
        self.check_space(space)
        self.relaxation.check(compile)
        self.relaxation.attach(space, normalized=normalization is not None)
        if normalization is not None:
            normalization.check(self.relaxation)
        random = [operation.name for operation in space.candidates if operation.is_random]
        if checkpoint_cells and random:
            raise ConfigError(
                f"The operation {random[0]} draws anew in every pass, but checkpoint_cells: true computes a cell twice "
                f"and needs the same draw both times. Use checkpoint_cells: false, or a space without {random[0]}."
            )
        self.rebuilt = False
        self.observers: list[Callable[[Supernet, bool], None]] = []
        self._hold(self._new_supernet(space), AlphaMask(space))
        with_edges = normalization is not None and normalization.edge_alphas
        shape, edge_cells = (space.edges, len(space.operations)), space.cell_types if with_edges else ()
        self.alphas = nn.ParameterDict({name: torch.empty(shape) for name in space.cell_types})
        self.edge_alphas = nn.ParameterDict({name: torch.empty(shape[0]) for name in edge_cells})
        self._draw_alphas(seed)

    # -- from alphas to mixtures ----------------------------------------------------------------------------------

    @property
    def alpha_list(self) -> tuple[Tensor, ...]:
        """All architecture parameters in a fixed order: those of operations, then those of edges, by cell type."""
        return (*self.alphas.values(), *self.edge_alphas.values())

    @property
    def frozen(self) -> bool:
        """Whether the search is over and the supernet computes one architecture; see ``freeze``."""
        return self.mask.frozen is not None

    def masked_alphas(self, empty: float = EMPTY) -> dict[str, Tensor]:
        """Alphas ``(edges, operations)`` by cell type, ``-inf`` where the space does not allow an operation.

        Args:
            empty: Value of all alphas of an edge that has no operation left.
        """
        return self.mask.alphas(dict(self.alphas), empty)

    def masked_edge_alphas(self) -> dict[str, Tensor]:
        """Alphas ``(edges,)`` by cell type, so low that an edge without operations has no share in its node."""
        return self.mask.edge_alphas(dict(self.edge_alphas))

    def mixtures(self, relaxation: Relaxation | None = None) -> dict[str, Mixture]:
        """The supernet's factors by cell type, differentiable in the alphas.

        Args:
            relaxation: Makes the factors; the model's own relaxation without any draw by default.
        """
        frozen = self.mask.frozen_mixtures(self.alpha_list[0])
        if frozen is not None:
            return frozen
        relaxation = relaxation or self.relaxation
        edge_alphas = self.masked_edge_alphas()
        mixtures = {}
        for name, alphas in self.masked_alphas().items():
            if self.normalization is None:
                mixture = Mixture(relaxation.relax(alphas), alphas.new_ones(len(alphas)))
            else:
                mixture = self.normalization.normalize(alphas, edge_alphas.get(name), relaxation, self.space.nodes)
            mixtures[name] = self.mask.mixture(name, mixture, hard=relaxation.hard, adds_zeros=relaxation.adds_zeros)
        return mixtures

    def drawn_mixtures(self, progress: float, seed: int) -> dict[str, Mixture]:
        """The supernet's factors for one forward pass of a training step, with the relaxation's random draw.

        Args:
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last.
            seed: Seed of the draw; the same in all processes.
        """
        return self.mixtures(self.relaxation.drawn(progress, torch.Generator().manual_seed(seed)))

    def entropies(self) -> dict[str, Tensor]:
        """Mean entropy of the softmax of an edge's alphas by cell type, in nats; without gradients."""
        masked = {name: alphas.detach().softmax(1) for name, alphas in self.masked_alphas().items()}
        return {name: torch.special.entr(shares).sum(1).mean() for name, shares in masked.items()}

    def discretize(self) -> Architecture:
        """The architecture that the alphas, and the edges that are already decided, stand for now."""
        alphas, edge_alphas = self.masked_alphas(), self.masked_edge_alphas()
        if not self.mask.decided:
            return self.discretizer.discretize(alphas, edge_alphas, self.space)
        scores = {}
        for name, a in alphas.items():
            scores[name] = self.mask.scores(name, self.discretizer.scores(a, edge_alphas.get(name), self.space.nodes))
        return self.discretizer.select(scores, self.space)

    # -- the supernet ---------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of the supernet with its present factors.

        Args:
            x: Normalised images ``(batch, channels, height, width)``.
        """
        return self.runner(x, self.mixtures())

    def logits(
        self,
        images: Tensor,
        mixtures: Mapping[str, Mixture],
        weights: Mapping[str, Tensor] | None = None,
        *,
        frozen: bool = False,
    ) -> Tensor:
        """Logits ``(batch, classes)`` of the supernet.

        Args:
            images: Normalised images ``(batch, channels, height, width)``.
            mixtures: Factors by cell type.
            weights: Weights to use instead of the supernet's own; the pass then moves no batch-norm statistics.
            frozen: Whether no gradient with respect to a weight will be asked for; used with own weights only.
        """
        if weights is None:
            return self.runner(images, mixtures, frozen=frozen)
        buffers = {name: b.clone() for name, b in self.supernet.named_buffers()}
        return self.virtual_logits(images, {**weights, **buffers}, mixtures)

    def virtual_logits(self, images: Tensor, state: Mapping[str, Tensor], mixtures: Mapping[str, Mixture]) -> Tensor:
        """Logits ``(batch, classes)`` in full precision, with other weights and statistics than the supernet's.

        Args:
            images: Normalised images ``(batch, channels, height, width)``.
            state: Parameters and buffers by name; in training mode the pass moves the batch-norm statistics in it.
            mixtures: Factors by cell type.
        """
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = torch.func.functional_call(
                self.supernet, dict(state), (self.runner.arranged(images), mixtures)
            )
        return logits

    @contextmanager
    def batch_statistics(self) -> Iterator[None]:
        """Inside, the supernet normalises by the statistics of each batch and drops nothing out.

        Running statistics are those of the mixture; they do not fit a supernet that computes something else. Together
        with ``logits(..., weights)`` nothing is changed by a measurement.
        """
        modes = {part: part.training for part in self.supernet.modules()}
        rates: dict[Any, Any] = {part: part.skip_dropout for part in modes if hasattr(part, "skip_dropout")}
        self.supernet.train()
        for part in rates:
            part.skip_dropout = 0.0
        try:
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode
            for part, rate in rates.items():
                part.skip_dropout = rate

    @torch.no_grad()
    def loss_and_accuracy(
        self, images: Tensor, labels: Tensor, mixtures: Mapping[str, Mixture] | None = None
    ) -> tuple[float, float]:
        """Cross-entropy and accuracy of the supernet on one batch, with batch statistics; nothing is changed.

        Args:
            images: Normalised images ``(batch, channels, height, width)``.
            labels: Labels ``(batch,)`` of type int64.
            mixtures: Factors by cell type; the present ones by default.
        """
        with self.batch_statistics():
            logits = self.logits(images, self.mixtures() if mixtures is None else mixtures, self.weights)
        return float(F.cross_entropy(logits, labels)), float((logits.argmax(1) == labels).double().mean())

    @torch.no_grad()
    def selection_errors(
        self, images: Tensor, labels: Tensor, progress: Callable[[int, int], None] | None = None
    ) -> SelectionErrors:
        """Selection errors of the present alphas; see ``lightning_nas.metrics.selection``.

        Args:
            images: Normalised images ``(images, channels, height, width)``; a decision takes as many as it needs.
            labels: Labels ``(images,)`` of type int64, or probabilities ``(images, classes)``.
            progress: Called with the numbers of settled and of all removals.
        """
        parts = -(-len(images) // SELECTION_BATCH)
        batches = list(zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True))

        def losses(mixtures: Mapping[str, Mixture], batch: int) -> Tensor:
            x, y = batches[batch]
            return F.cross_entropy(self.logits(x, mixtures, self.weights), y, reduction="none")

        with self.batch_statistics():
            made = self.discretize(), self.mixtures()
            return selection_errors(self.space, *made, losses, batches=parts, progress=progress)

    # -- another supernet in the middle of a search ---------------------------------------------------------------

    def check_space(self, space: DifferentiableSpace) -> None:
        """Refuse a space that the components of this model cannot serve.

        Args:
            space: A restriction of the present space, for instance.

        Raises:
            ConfigError: The discretizer cannot serve it.
        """
        self.discretizer.check(space, self.relaxation, self.normalization)

    def decide(self, cell_type: str, edge: int, operation: int | None) -> None:
        """Give an edge one operation with the whole factor of the edge, whatever its alphas are from now on.

        Args:
            cell_type: Name of the cell type.
            edge: Row of the alphas.
            operation: Column of the alphas; None removes the edge.
        """
        self.mask.decide(cell_type, edge, operation)

    def restrict(self, allowed: Mapping[str, Tensor]) -> None:
        """Remove operations: their weights and their share in the factors.

        The operations that stay keep their weights and batch-norm statistics; alphas keep their shape.

        Args:
            allowed: The operations that stay; see ``DifferentiableSpace.restrict``.

        Raises:
            ConfigError: The space or the discretizer cannot do without what is removed.
        """
        before = self.supernet
        self._restrict(allowed)
        self._tell(before, new=False)

    def _restrict(self, allowed: Mapping[str, Tensor]) -> None:
        space = self.space.restrict(allowed)
        self.check_space(space)
        supernet = self._new_supernet(space)
        inherit(supernet, self.supernet)
        mask = AlphaMask(space)
        mask.frozen, mask.decided, mask.compute_all = self.mask.frozen, self.mask.decided, self.mask.compute_all
        self.space = space
        self._hold(supernet, mask)

    def freeze(self, architecture: Architecture) -> None:
        """End the search: from now on the supernet computes one architecture, whatever the alphas are.

        Args:
            architecture: A point of the space; all other operations are removed, and what is left has the factor 1.
        """
        allowed = {name: torch.zeros_like(mask) for name, mask in self.space.allowed.items()}
        for name, pairs in self.space.chosen(architecture).items():
            allowed[name][tuple(torch.tensor(pairs).t())] = True
        before = self.supernet
        self._restrict(allowed)
        self.mask.frozen = architecture
        self._tell(before, new=False)

    def rebuild(self, space: DifferentiableSpace, seed: int) -> None:
        """Start again in another space, with new weights and new alphas.

        Args:
            space: A space with the same cell types, edges and operations, so that the alphas keep their meaning.
            seed: Seed of the weights and the alphas.

        Raises:
            ConfigError: The space has other cells, the discretizer cannot serve it, or the architecture is frozen.
        """
        before = self.supernet
        self._rebuild(space, seed)
        self._tell(before, new=True)

    def _rebuild(self, space: DifferentiableSpace, seed: int) -> None:
        if self.frozen:
            raise ConfigError(
                "The architecture is frozen, so the search cannot start again in another space. Freeze it after the "
                "last change of the space."
            )
        here, there = ((each.cell_types, each.nodes, each.operations) for each in (self.space, space))
        if here != there:
            raise ConfigError(
                f"A search in cells of {here} cannot go on in cells of {there} (cell types, edges of the nodes, "
                "operations): its alphas would mean something else. Remove operations through `allowed` instead."
            )
        self.check_space(space)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            supernet = self._new_supernet(space)
        self.space, self.rebuilt = space, True
        self._hold(supernet, AlphaMask(space))
        self._draw_alphas(seed)

    def _tell(self, before: Supernet, *, new: bool) -> None:
        for observer in self.observers:
            observer(before, new)

    def _new_supernet(self, space: DifferentiableSpace) -> Supernet:
        """A supernet of a space on the device, with the type and in the mode of the present one."""
        supernet = space.supernet(num_classes=self.num_classes, image_shape=self.image_shape, attention=self.attention)
        if hasattr(self, "supernet"):
            like = next(self.supernet.parameters())
            supernet.to(like.device, like.dtype).train(self.supernet.training)
        return supernet

    def _hold(self, supernet: Supernet, mask: AlphaMask) -> None:
        """Search in this supernet from now on."""
        self.relaxation.check_supernet(supernet)
        self.supernet = supernet
        self.mask = mask
        self.runner = SupernetRunner(supernet, **self.run_settings)
        self.guard = UnusedWeightGuard(supernet) if self.relaxation.hard else None
        # kept because a training step is short; moving a module to another device or type keeps its parameter objects
        self.weights: dict[str, Tensor] = dict(supernet.named_parameters())

    def _draw_alphas(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for alphas in self.alpha_list:
                alphas.copy_(self.alpha_scale * torch.randn(alphas.shape, generator=generator))

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def save_state(self) -> dict[str, Any]:
        """What ``load_state`` needs so that the supernet fits the weights of a checkpoint, as plain values."""
        return {
            "space": self.space.arguments(),
            "rebuilt": self.rebuilt,
            "allowed": dict(self.space.allowed),
            "frozen": None if self.mask.frozen is None else list(self.mask.frozen.choices),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Make the supernet that the weights of a checkpoint belong to, before they are loaded.

        A state of cells with other nodes or operations changes nothing: the names and shapes of its weights differ,
        so that loading them fails with an error.

        Args:
            state: What ``save_state`` returned.

        Raises:
            ConfigError: The model is already narrower than the state.
        """
        if state["rebuilt"]:
            self._rebuild(type(self.space)(**state["space"]), seed=0)
        allowed, mine = state["allowed"], self.space.allowed
        if {name: mask.shape for name, mask in allowed.items()} != {name: mask.shape for name, mask in mine.items()}:
            return
        if any(not torch.equal(allowed[name].cpu(), mine[name]) for name in mine):
            self._restrict(allowed)
        if state["frozen"] is not None:
            self.mask.frozen = self.space.architecture(state["frozen"])
