"""The NAS-Bench-201 space: one cell type, a complete graph of four nodes."""

from collections.abc import Sequence

from lightning_nas.architecture import Architecture
from lightning_nas.checks import integer_at_least
from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.base import AllowedNames
from lightning_nas.spaces.cell_space import CellSpace
from lightning_nas.spaces.cells import CellGraph
from lightning_nas.spaces.graph import Graph
from lightning_nas.spaces.literals import expression, literal, without_name
from lightning_nas.spaces.nasbench201.fused_edges import FusedEdges
from lightning_nas.spaces.nasbench201.network import CELL_OPERATIONS, NODES, STAGES, NASBench201Network
from lightning_nas.spaces.nasbench201.stack import NASBench201Stack
from lightning_nas.spaces.nasbench201.supernet import NASBench201Supernet
from lightning_nas.spaces.operations import NASBENCH201_OPERATIONS, Operation
from lightning_nas.spaces.rebuildable import PlainForm
from lightning_nas.spaces.stems import STEMS, check_stem
from lightning_nas.spaces.supernet import Supernet

_EDGES = [(node, source) for node in range(1, NODES) for source in range(node)]
"""Node and source of every edge, in the order of the alphas."""


class NASBench201Space(CellSpace):
    """The NAS-Bench-201 space: 15,625 cells with published results for each.

    A cell has four nodes: its input and three sums. Every node reads all nodes before it, each through one operation;
    ``none`` is an operation like the others. The last node is the output of the cell. A network has three stages of
    equal cells with 16, 32 and 64 channels; between two stages, a residual block halves height and width.

    The supernet computes edges with a common source together (``FusedEdges``). With an operation of your own, it has
    one module per edge and operation (``PerEdgeSupernet``), which is slower.

    Choices of an architecture: the operations of the edges 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2.

    References:
        1. Dong, Yang: NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search, ICLR 2020,
           https://arxiv.org/abs/2001.00326

    Example:
        ```yaml
        space:
          class_path: NASBench201Space
          init_args: {channels: 16, cells_per_stage: 5}
        ```

    Args:
        operations: The operations: names of ``nasbench201.network.CELL_OPERATIONS``, or objects of subclasses of
            ``Operation``; by default the five of the paper.
        channels: Channels of the first stage of the supernet (the paper: 16).
        cells_per_stage: Number of cells of each of the three stages of the supernet (the paper: 5).
        stem: Layers between the images and the first cell, in the supernet and in networks: ``cifar``, the published
            one, which keeps height and width, or ``imagenet``, the three convolutions of stride 2 of ``DARTSSpace``,
            for large images. It is part of the identity of the space.
        allowed: For the cell type ``cell``, the names of the operations that each edge may take (edges in the order of
            the choices); by default all of ``operations``.

    Raises:
        ConfigError: An operation is unknown or given twice, a number is not a positive integer, the stem is unknown or
            needs more channels, or ``allowed`` leaves an edge without operations.
    """

    cell_types = ("cell",)
    supernet_arguments = ("channels", "cells_per_stage")
    later_arguments = ("stem",)
    renames = (
        *((rf"\.edges\.{edge}\.", f".edges.{node}<-{source}.") for edge, (node, source) in enumerate(_EDGES)),
        (r"^head\.0\.", "lastact.0."),
        (r"^head\.4\.", "classifier."),
    )

    def __init__(
        self,
        operations: Sequence[str | Operation | PlainForm] = tuple(CELL_OPERATIONS),
        *,
        channels: int = 16,
        cells_per_stage: int = 5,
        allowed: AllowedNames | None = None,
        stem: str = "cifar",
    ) -> None:
        integer_at_least(1, cells_per_stage=cells_per_stage)
        check_stem(stem, channels)
        self.cells_per_stage = cells_per_stage
        self.stem = stem
        super().__init__(
            CellGraph(inputs=1, sources=tuple(tuple(range(node)) for node in range(1, NODES)), output="last"),
            NASBench201Stack(stem),
            operations,
            channels=channels,
            cells=cells_per_stage,
            allowed=allowed,
            known=NASBENCH201_OPERATIONS,
        )

    def key(self, architecture: Architecture) -> str:
        """Return the published string, which does not depend on the order of ``operations``.

        Args:
            architecture: A point of this space.
        """
        return self.text(architecture)

    def _check_images(self, image_shape: Sequence[int], stem: str) -> None:
        _, height, width = image_shape
        least = STEMS[stem] * 2 ** (STAGES - 1)
        if min(height, width) < least:
            raise DataError(
                f"Images of {height}x{width} pixels are too small: {STAGES} stages need at least {least}x{least}. "
                "Use larger images."
            )

    def network(
        self,
        architecture: Architecture,
        *,
        num_classes: int,
        image_shape: Sequence[int],
        channels: int = 16,
        cells: int = 5,
        auxiliary: bool = False,
        imagenet_stem: bool | None = None,
    ) -> NASBench201Network:
        """Build the ordinary network of an architecture; see ``SearchSpace.network``.

        Args:
            architecture: A point of this space.
            num_classes: Number of classes.
            image_shape: Shape of an image, ``(channels, height, width)``.
            channels: Channels of the first stage.
            cells: Number of cells of each of the three stages.
            auxiliary: Must be False: the published network has no auxiliary classifier.
            imagenet_stem: Whether the stem divides height and width by 8, for images of ImageNet's size; by default as
                the ``stem`` of the space says.

        Raises:
            ArchitectureError: The architecture belongs to another space.
            ConfigError: An auxiliary classifier is requested.
            DataError: The images are too small.
        """
        self.check(architecture)
        if auxiliary:
            raise ConfigError(
                "The networks of NAS-Bench-201 have no auxiliary classifier; train them with auxiliary_weight 0."
            )
        stem = self.stem if imagenet_stem is None else "imagenet" if imagenet_stem else "cifar"
        check_stem(stem, channels)
        self._check_images(image_shape, stem)
        # built-in operations go by name, so that an exported network carries only the code of their modules
        given = [each.name if each in NASBENCH201_OPERATIONS else each for each in self.candidates]
        chosen = [given[choice] for choice in architecture.choices]
        return NASBench201Network(chosen, num_classes, image_shape[0], channels, cells, stem == "imagenet")

    def supernet(self, *, num_classes: int, image_shape: Sequence[int], attention: Attention | None = None) -> Supernet:
        """Build the supernet: the fused one where it can compute all operations, otherwise the plain one.

        Args:
            num_classes: Number of classes.
            image_shape: Shape of an image, ``(channels, height, width)``.
            attention: Attention over channels inside the mixtures, or None.

        Raises:
            DataError: The images are too small.
        """
        self._check_images(image_shape, self.stem)
        if not FusedEdges.supports(self.candidates):
            return self.per_edge_supernet(num_classes=num_classes, image_shape=image_shape, attention=attention)
        return NASBench201Supernet(
            self.candidates,
            self.allowed["cell"],
            num_classes,
            image_shape[0],
            self.channels,
            self.cells_per_stage,
            attention,
            imagenet_stem=self.stem == "imagenet",
        )

    def graphs(self, architecture: Architecture) -> list[Graph]:
        """Return the cell as a graph for drawing; edges with ``none`` are left out.

        Args:
            architecture: A point of this space.
        """
        (graph,) = super().graphs(architecture)
        return [Graph("cell", ("c_{k-1}", "1", "2", "c_{k}"), graph.edges, graph.weighted)]

    def text(self, architecture: Architecture) -> str:
        """Return the published textual form, ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``.

        Args:
            architecture: A point of this space.
        """
        self.check(architecture)
        named = [f"{self.operations[c]}~{s}" for c, (_, s) in zip(architecture.choices, _EDGES, strict=True)]
        return "+".join(f"|{'|'.join(named[edges])}|" for edges in self.nodes)

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read a published textual form.

        Args:
            text: ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|``, or the same as nested
                tuples or lists of pairs: ``((('nor_conv_3x3', 0),), (('none', 0), ('skip_connect', 1)), ...)``. A name
                may stand before it (``arch: |...``).

        Raises:
            ArchitectureError: The text is not a cell of the space with all operations of the paper. The message names
                what is different.
        """
        if not isinstance(text, str):  # a name in a file of others may be anything
            raise ArchitectureError(f"Not a cell of NAS-Bench-201: received {type(text).__name__} instead of text.")
        space = cls()
        try:
            nodes = _nodes(without_name(text))
            unknown = sorted({name for node in nodes for name, _ in node} - set(space.operations))
            if unknown:
                raise ValueError(f"it has the operations {', '.join(unknown):.200}")
            read = [sorted(source for _, source in node) for node in nodes]
            if read != [list(range(node)) for node in range(1, NODES)]:
                raise ValueError(f"its nodes read the states {read!r:.100} instead of {[[0], [0, 1], [0, 1, 2]]}")
        except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:  # the last two: too deep
            said = str(error).partition(" (<unknown>")[0]
            raise ArchitectureError(
                f"Not a cell of NAS-Bench-201: {said:.300}; received {text[:200]!r}. The form is "
                f"'|op~0|+|op~0|op~1|+|op~0|op~1|op~2|' with operations from {list(space.operations)}."
            ) from None
        chosen = [name for node in nodes for name, _ in sorted(node, key=lambda pair: pair[1])]
        return space.architecture([space.operations.index(name) for name in chosen])


def _nodes(text: str) -> list[list[tuple[str, int]]]:
    """The operation and the source of every edge, by node.

    Raises:
        SyntaxError: The text is neither of the published form nor a Python literal.
        ValueError: It has other things than pairs of a name and a number.
    """
    if text.startswith("|"):
        parts = [node.strip() for node in text.split("+")]
        if any(len(part) < 2 or part[0] != "|" or part[-1] != "|" for part in parts):
            raise ValueError("its nodes are not '|...|' with '+' between them")
        words = [[word.rpartition("~") for word in part[1:-1].split("|")] for part in parts]
        return [[(name, int(source)) for name, _, source in node] for node in words]
    found = literal(expression(text))
    nodes = [[(name, source) for name, source in node] for node in found]
    wrong = [pair for node in nodes for pair in node if not isinstance(pair[0], str) or type(pair[1]) is not int]
    if wrong:
        raise ValueError(f"{wrong[0]!r:.50} is not a pair of an operation and the state that it reads")
    return nodes
