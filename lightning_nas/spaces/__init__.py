"""Search spaces: architectures, their networks and their supernets."""

from lightning_nas.spaces.artifact import architecture_from_dict, build_space, load_architecture
from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.base import DifferentiableSpace, SearchSpace, SupernetSpace
from lightning_nas.spaces.cell_space import CellSpace
from lightning_nas.spaces.cells import CellGraph, CellNetwork, Layers, Place, Stack
from lightning_nas.spaces.constrained import ConstrainedSpace
from lightning_nas.spaces.convert import from_per_edge, inherit, inherit_optimizer, to_per_edge
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.graph import Graph
from lightning_nas.spaces.nasbench101.space import NASBench101Space
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.nasbench_macro import NASBenchMacroSpace
from lightning_nas.spaces.natsbench_size import NATSBenchSizeSpace
from lightning_nas.spaces.operations import (
    AveragePooling,
    Convolution,
    DilatedConvolution,
    GaussianNoise,
    MaxPooling,
    NoConnection,
    Operation,
    SeparableConvolution,
    SkipConnection,
)
from lightning_nas.spaces.per_edge import PerEdgeSupernet
from lightning_nas.spaces.product import ProductSpace
from lightning_nas.spaces.published import parse_published
from lightning_nas.spaces.single_path.blocks import ChoiceBlock, ShuffleBlock, XceptionBlock
from lightning_nas.spaces.single_path.space import SinglePathSpace
from lightning_nas.spaces.sized import build_network
from lightning_nas.spaces.supernet import Mixture, Supernet

__all__ = [
    "Attention",
    "AveragePooling",
    "CellGraph",
    "CellNetwork",
    "CellSpace",
    "ChoiceBlock",
    "ConstrainedSpace",
    "Convolution",
    "DARTSSpace",
    "DifferentiableSpace",
    "DilatedConvolution",
    "GaussianNoise",
    "Graph",
    "Layers",
    "MaxPooling",
    "Mixture",
    "NASBench101Space",
    "NASBench201Space",
    "NASBenchMacroSpace",
    "NATSBenchSizeSpace",
    "NoConnection",
    "Operation",
    "PerEdgeSupernet",
    "Place",
    "ProductSpace",
    "SearchSpace",
    "SeparableConvolution",
    "ShuffleBlock",
    "SinglePathSpace",
    "SkipConnection",
    "Stack",
    "Supernet",
    "SupernetSpace",
    "XceptionBlock",
    "architecture_from_dict",
    "build_network",
    "build_space",
    "from_per_edge",
    "inherit",
    "inherit_optimizer",
    "load_architecture",
    "parse_published",
    "to_per_edge",
]
