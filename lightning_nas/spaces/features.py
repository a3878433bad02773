"""Features of cells: what they compute, by which predictors compare architectures."""

from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache
from math import log1p

from lightning_nas.spaces.base import Features
from lightning_nas.spaces.graph import Graph
from lightning_nas.spaces.operations import Operation

Edge = tuple[int, int, str, str]
"""Source and target of an edge, the name of its place, and the operation that a path through it takes."""


@lru_cache(maxsize=1 << 16)
def path_features(edges: tuple[Edge, ...], inputs: int, output: int, neutral: Collection[str]) -> Features:
    """Return what a directed acyclic graph computes, without the edges that are on no path from an input to the output.

    - ``edges``: which operation is in which place.
    - ``paths``: the number of paths by the operations along them, in order.
    - ``operations``: the number of edges by operation.
    - ``depth``: the largest number of operations along a path.

    In a complete graph, every further node doubles the number of paths.

    Args:
        edges: The edges, each of which leads to a node with a higher number.
        inputs: Number of inputs, which are the first nodes.
        output: Number of the output.
        neutral: Operations that paths leave out: the empty one, and those that pass their input unchanged.
    """
    reached, used = set(range(inputs)), {output}
    for source, target, *_ in sorted(edges, key=lambda edge: edge[1]):
        if source in reached:
            reached.add(target)
    for source, target, *_ in sorted(edges, key=lambda edge: edge[0], reverse=True):
        if target in used:
            used.add(source)
    live = sorted((edge for edge in edges if edge[0] in reached and edge[1] in used), key=lambda edge: edge[1])
    paths: dict[int, Counter[tuple[str, ...]]] = {node: Counter({(): 1}) for node in range(inputs)}
    for source, target, _, operation in live:
        step = () if operation in neutral else (operation,)
        found = paths.setdefault(target, Counter())
        for path, count in paths[source].items():
            found[path + step] += count
    complete = paths.get(output, Counter())
    return {
        "edges": Counter(f"{place} {operation}" for *_, place, operation in live),
        "paths": {" ".join(path): count for path, count in complete.items()},
        "operations": Counter(operation for *_, operation in live if operation),
        "depth": {"longest": max(map(len, complete), default=0)},
    }


def edge_features(graphs: Sequence[Graph], operations: Sequence[Operation]) -> Features:
    """Return the features of cells with operations on their edges; see ``path_features``.

    A group ``size`` has the logarithm of the number of parameters of the operations on paths from an input to the
    output, with 16 channels each.

    Args:
        graphs: The cells, one of each type. Where there are several, all names begin with that of the cell type.
        operations: The operations of the space.
    """
    found: dict[str, dict[str, float]] = {}
    for graph in graphs:
        groups = _cell_features(graph, operations)
        size = {"parameters": log1p(_live_parameters(groups, operations))}
        prefix = f"{graph.name} " if len(graphs) > 1 else ""
        for group, named in {**groups, "size": size}.items():
            found.setdefault(group, {}).update({prefix + name: number for name, number in named.items()})
    return found


def live_parameters(graphs: Sequence[Graph], operations: Sequence[Operation]) -> int:
    """Return the number of parameters of the operations on paths from an input to the output, with 16 channels each.

    Args:
        graphs: The cells, with operations on their edges.
        operations: The operations of the space.
    """
    return sum(_live_parameters(_cell_features(graph, operations), operations) for graph in graphs)


def _cell_features(graph: Graph, operations: Sequence[Operation]) -> Features:
    neutral = frozenset(["", *(operation.name for operation in operations if operation.is_skip)])
    edges = tuple((source, target, f"{source}>{target}", name) for source, target, name in graph.edges)
    return path_features(edges, graph.inputs, len(graph.nodes) - 1, neutral)


def _live_parameters(features: Features, operations: Sequence[Operation]) -> int:
    parameters = {operation.name: operation.parameter_count for operation in operations}
    return sum(parameters[name] * int(count) for name, count in features["operations"].items())


def vertex_features(graph: Graph) -> Features:
    """Return the features of a cell with operations on its vertices, which do not depend on the order of vertices.

    See ``path_features``; here the place of an edge is given by the operations at both of its ends.

    Args:
        graph: The cell, with one input.
    """
    names = graph.nodes
    edges = tuple((i, j, f"{names[i]}>{names[j]}", names[i] if i else "") for i, j, _ in graph.edges)
    groups = path_features(edges, 1, len(names) - 1, frozenset([""]))
    return {**groups, "operations": Counter(names[1:-1])}
