"""Chains of choice blocks, of which an architecture takes one at every place."""

from lightning_nas.spaces.single_path.blocks import ChoiceBlock, ShuffleBlock, SinglePathNetwork, XceptionBlock
from lightning_nas.spaces.single_path.space import SinglePathSpace

__all__ = [
    "ChoiceBlock",
    "ShuffleBlock",
    "SinglePathNetwork",
    "SinglePathSpace",
    "XceptionBlock",
]
