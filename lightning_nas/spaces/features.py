"""Features of architectures: named numbers in groups, by which a predictor compares architectures."""

from collections import Counter
from collections.abc import Collection, Mapping
from functools import lru_cache

Features = Mapping[str, Mapping[str, float]]
"""For every group of features, its numbers by name. A name that is left out stands for zero."""

Edge = tuple[int, int, str, str]
"""Source and target of an edge, its name, which says where it is, and the operation that a path takes on it."""


@lru_cache(maxsize=1 << 16)
def cell_features(
    edges: tuple[Edge, ...], inputs: int, output: int, neutral: Collection[str] = frozenset()
) -> dict[str, dict[str, float]]:
    """Return what a cell computes, without the edges that no path from an input to the output takes.

    - ``edges``: the edges with their operations.
    - ``paths``: the number of paths by the operations along them, in order.
    - ``operations``: the number of edges by operation.
    - ``depth``: the largest number of operations along a path.

    The number of paths can double with every node of a cell.

    Args:
        edges: The edges. Nodes are numbered so that every edge leads to a higher number.
        inputs: Number of inputs, which are the first nodes.
        output: Number of the output.
        neutral: Operations that paths leave out: the empty one, and those that pass their input unchanged.
    """
    reached, used = set(range(inputs)), {output}
    ordered = sorted(edges, key=lambda edge: edge[1])
    for source, target, *_ in ordered:
        if source in reached:
            reached.add(target)
    for source, target, *_ in sorted(edges, key=lambda edge: edge[0], reverse=True):
        if target in used:
            used.add(source)
    live = [edge for edge in ordered if edge[0] in reached and edge[1] in used]
    paths: dict[int, Counter[tuple[str, ...]]] = {node: Counter({(): 1}) for node in range(inputs)}
    for source, target, _, operation in live:
        step = () if operation in neutral else (operation,)
        found = paths.setdefault(target, Counter())
        for path, count in paths[source].items():
            found[path + step] += count
    complete = paths.get(output, Counter())
    return {
        "edges": {name: float(count) for name, count in Counter(f"{name} {word}" for *_, name, word in live).items()},
        "paths": {" ".join(path): float(count) for path, count in complete.items()},
        "operations": {word: float(count) for word, count in Counter(edge[3] for edge in live).items()},
        "depth": {"longest": float(max(map(len, complete), default=0))},
    }
