"""What attention inside a supernet's mixtures is."""

from torch import nn


class Attention:
    """Weights channels or operations inside the mixtures of a supernet; never part of the found network.

    A member overrides one of the two hooks. The modules that they return are trained with the weights.
    """

    def channel_gate(self, channels: int) -> nn.Module | None:
        """A module for one state of a cell, or None.

        It maps the channels of the state that enter operations, ``(batch, channels, height, width)``, to positive
        factors that broadcast over them. One is made for every state that a cell's nodes read.
        """
        return None

    def operation_scores(self, channels: int, operations: int) -> nn.Module | None:
        """A module for one cell, or None.

        It maps globally pooled outputs of operations, ``(batch, edges, operations, channels)``, to scores
        ``(batch, edges, operations)``. The mixture's factor of an operation is multiplied by ``exp(score)``, then the
        factors of an edge are scaled to the sum that they had.
        """
        return None
