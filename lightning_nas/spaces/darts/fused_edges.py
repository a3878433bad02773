"""All edges that leave one or two states of a DARTS cell, computed together."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_nas.errors import ConfigError
from lightning_nas.spaces.darts.edge_weights import EdgeWeights
from lightning_nas.spaces.darts.kernel_base import EdgeKernel
from lightning_nas.spaces.darts.kernel_dense import DenseKernel
from lightning_nas.spaces.darts.kernel_wide import WideKernel
from lightning_nas.spaces.operations import BUILT_IN, Operation

DENSE_PIXELS = 64
"""Largest number of pixels of an image for which ``FusedEdges`` uses the dense kernel."""


class FusedEdges(nn.Module):
    """Every operation on all edges from some states to some nodes, and their weighted sum at each node.

    The edges that leave a state share its ReLU, its pooled values and their batch norm, which are computed once. The
    weights of one kind of operation are stored stacked over the edges. Each depthwise-pointwise pair is followed by a
    batch norm without parameters, which is folded into the pointwise map together with the factors of the mixture; so
    the sum of a node over all sources is one matrix product per kind of operation.

    Two kernels compute the same. For small images, where the number of calls decides, ``DenseKernel`` computes all
    kinds of convolution as batched matrix products over ``(channels, pixels, batch)``. For larger images, where memory
    traffic decides, ``WideKernel`` lays all edges side by side as groups of channels in channels_last tensors.

    Args:
        operations: The operations, in the order of the mixture's columns; all of them in ``operations.BUILT_IN``.
        allowed: Operations that there are weights for, bool ``(targets, sources, operations)``. The sources are the
            states that are read (two for the inputs of the cell, otherwise one), the targets the nodes that read them.
        channels: Channels of the operations.
        stride: 2 halves height and width.

    Raises:
        ConfigError: The kernels cannot compute an operation; see ``supports``.

    Attributes:
        skip_dropout: Share of the values passed by skip connections that training sets to zero, while the others are
            scaled up; the same values for all nodes. Strided skips, which have weights, are left alone.
    """

    skip_dropout: float = 0.0

    def __init__(self, operations: Sequence[Operation], allowed: Tensor, channels: int, stride: int) -> None:
        super().__init__()
        if not self.supports(operations):
            foreign = [operation.name for operation in operations if operation not in BUILT_IN]
            raise ConfigError(f"FusedEdges cannot compute the operations {foreign}. Use a PerEdgeSupernet.")
        self.weights = EdgeWeights(operations, allowed, channels, stride)

    @staticmethod
    def supports(operations: Sequence[Operation]) -> bool:
        """Return whether the kernels compute all of these operations.

        Args:
            operations: The operations of a space.
        """
        return all(operation in BUILT_IN for operation in operations)

    def forward(
        self,
        states: Sequence[Tensor],
        factors: Tensor,
        active: Tensor | None = None,
    ) -> Tensor:
        """Compute the weighted sum at every node.

        Args:
            states: The channels that enter the operations, ``(batch, channels, height, width)`` each.
            factors: Factors of the operations, ``(targets, sources, operations)``; zero where one is not allowed.
            active: Operations to compute, bool on the CPU with the shape of ``factors``; None computes all.

        Returns:
            ``(batch, targets * channels, height, width)``.
        """
        if self.training:
            self.weights.count_batch()
        height, width = states[0].shape[2:]
        kind: type[EdgeKernel] = DenseKernel if height * width <= DENSE_PIXELS else WideKernel
        return kind(self.weights, states, self.skip_dropout).mix(factors, active)
