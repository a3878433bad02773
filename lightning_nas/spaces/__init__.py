"""Search spaces: architectures, their networks and their supernets."""

from lightning_nas.spaces.artifact import architecture_from_dict, build_space, load_architecture
from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.base import DifferentiableSpace, Graph, Mixture, SearchSpace, Supernet, SupernetSpace
from lightning_nas.spaces.constrained import ConstrainedSpace
from lightning_nas.spaces.convert import from_per_edge, inherit, inherit_optimizer, to_per_edge
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench101.space import NASBench101Space
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.single_path.blocks import ChoiceBlock, ShuffleBlock, XceptionBlock
from lightning_nas.spaces.single_path.space import SinglePathSpace

__all__ = [
    "Attention",
    "ChoiceBlock",
    "ConstrainedSpace",
    "DARTSSpace",
    "DifferentiableSpace",
    "Graph",
    "Mixture",
    "NASBench101Space",
    "NASBench201Space",
    "SearchSpace",
    "ShuffleBlock",
    "SinglePathSpace",
    "Supernet",
    "SupernetSpace",
    "XceptionBlock",
    "architecture_from_dict",
    "build_space",
    "from_per_edge",
    "inherit",
    "inherit_optimizer",
    "load_architecture",
    "to_per_edge",
]
