"""Interface of attention inside the mixtures of a supernet."""

from abc import ABC, abstractmethod

from torch import nn


class Attention(ABC):
    """Base class of attention inside a supernet, which weights channels depending on the image.

    The modules that it builds belong to the supernet: they are trained together with the weights of the operations, and
    are never part of the found network.

    Example:
        ```python
        class Gates(Attention):
            def channel_gate(self, channels: int) -> nn.Module:
                return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Sigmoid())
        ```
    """

    @abstractmethod
    def channel_gate(self, channels: int) -> nn.Module:
        """Build the gate of one state of a cell.

        The gate maps the channels of the state that enter operations, ``(batch, channels, height, width)``, to
        positive factors that broadcast over them. A cell has one gate per state that its nodes read.

        Args:
            channels: Number of channels that enter the operations.
        """
