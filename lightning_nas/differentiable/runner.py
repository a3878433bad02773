"""How a search runs its supernet: memory format, activation checkpointing, compilation, CUDA graphs."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_nas.errors import ConfigError
from lightning_nas.spaces.supernet import Mixture, Supernet

Compile = bool | Literal["graphs"]
"""True compiles the cells with ``torch.compile``; ``graphs`` records CUDA graphs."""


class SupernetRunner:
    """Runs a supernet faster or in less memory; the logits do not depend on the settings.

    Args:
        supernet: The network.
        channels_last: Whether images and weights of ordinary convolutions lie in memory with their channels innermost,
            which most convolution kernels prefer.
        checkpoint_cells: Whether only the inputs of every cell are kept, and the cell is computed again in the
            backward pass: about half the memory for a third more time.
        compile: True compiles every cell with ``torch.compile``, once for each kind of step. ``graphs`` records the two
            passes of a step as CUDA graphs and replays them for every batch of the recorded size.

    Example:
        ```python
        runner = SupernetRunner(model.supernet, checkpoint_cells=True)
        logits = runner(images, model.mixtures())
        ```
    """

    def __init__(
        self,
        supernet: Supernet,
        channels_last: bool = True,
        checkpoint_cells: bool = False,
        compile: Compile = False,
    ) -> None:
        self.supernet = supernet
        self.channels_last = channels_last
        self.checkpoint_cells = checkpoint_cells
        self.compile = compile
        self.graphs: dict[tuple[Any, ...], nn.Module] = {}
        supernet.checkpoint_cells = checkpoint_cells
        if channels_last:
            supernet.to(memory_format=torch.channels_last)
        if compile is True:
            for cell in supernet.cells:
                cell.compile(dynamic=False)

    def check(self, device: torch.device, precision: str, processes: int) -> None:
        """Refuse a training that the supernet or its settings cannot follow.

        Args:
            device: Device of the training.
            precision: Precision of the trainer, such as ``bf16-mixed``.
            processes: Number of processes that train together.

        Raises:
            ConfigError: ``compile`` is ``graphs`` without a GPU, with autocast or with several processes, or batch norm
                is synchronised over processes.
        """
        if any(isinstance(part, nn.SyncBatchNorm) for part in self.supernet.modules()):
            raise ConfigError(
                "trainer.sync_batchnorm is true, but the supernet normalises many operations in one pass, by the "
                "statistics of each process's own images. Set it to false; a larger batch per process has the same "
                "effect."
            )
        if self.compile == "graphs" and (device.type != "cuda" or "mixed" in precision or processes > 1):
            raise ConfigError(
                f"compile: graphs was asked for on {device.type} with precision {precision} in {processes} processes; "
                "CUDA graphs need one process on a GPU without autocast. Use compile: true or false."
            )

    def __call__(self, images: Tensor, mixtures: Mapping[str, Mixture], *, frozen: bool = False) -> Tensor:
        """Logits ``(batch, classes)`` with the supernet's own weights.

        Args:
            images: Normalised images ``(batch, channels, height, width)``.
            mixtures: Factors by cell type.
            frozen: Whether no gradient with respect to a weight will be asked for.
        """
        images = self.arranged(images)
        # autograd skips gradients that are not requested; a program compiled in advance computes all of them
        freeze = frozen and self.compile is not False and torch.is_grad_enabled()
        if freeze:
            self.supernet.requires_grad_(False)
        try:
            network = self._recorded(images, mixtures) if self.compile == "graphs" else None
            if network is None:
                logits: Tensor = self.supernet(images, mixtures)
            else:
                logits = network(images, *(t for m in mixtures.values() for t in (m.operations, m.edges)))
            return logits
        finally:
            if freeze:
                self.supernet.requires_grad_(True)

    def arranged(self, images: Tensor) -> Tensor:
        """Images in the memory layout of the weights.

        Args:
            images: ``(batch, channels, height, width)``.
        """
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def _recorded(self, images: Tensor, mixtures: Mapping[str, Mixture]) -> nn.Module | None:
        """The recorded graph of such a pass; None if the pass is not recorded."""
        partial = any(mixture.active is not None for mixture in mixtures.values())
        if partial or not torch.is_grad_enabled() or not self.supernet.training:
            return None
        weights = any(p.requires_grad for p in self.supernet.parameters())
        alphas = any(m.operations.requires_grad for m in mixtures.values())
        key = (images.shape, images.dtype, weights, alphas)
        if len({k[0] for k in self.graphs} | {images.shape}) > 1:
            return None  # a graph has one batch size, and the last batch of an epoch may be smaller
        if key not in self.graphs:
            tensors = [t for m in mixtures.values() for t in (m.operations, m.edges)]
            samples = [t.detach().clone().requires_grad_(t.requires_grad) for t in (images, *tensors)]
            # recording runs the network, which must not move its batch-norm statistics
            buffers = {name: b.clone() for name, b in self.supernet.named_buffers()}
            recorded: Any = torch.cuda.make_graphed_callables(_Pass(self.supernet, tuple(mixtures)), tuple(samples))
            with torch.no_grad():
                for name, b in self.supernet.named_buffers():
                    b.copy_(buffers[name])
            self.graphs[key] = recorded
        return self.graphs[key]


class _Pass(nn.Module):
    """A supernet that takes its mixtures as single tensors, which recording requires."""

    def __init__(self, supernet: Supernet, cell_types: tuple[str, ...]) -> None:
        super().__init__()
        self.supernet = supernet
        self.cell_types = cell_types

    def forward(self, images: Tensor, *tensors: Tensor) -> Tensor:
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        mixtures = {name: Mixture(*pair) for name, pair in zip(self.cell_types, pairs, strict=True)}
        logits: Tensor = self.supernet(images, mixtures)
        return logits
