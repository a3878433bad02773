"""Places of the nodes and edges of a cell in a picture."""

import math
import random
from dataclasses import dataclass

from lightning_nas.spaces.graph import Graph

STEPS = 12_000
"""Steps of one search for a layout; a cell of the DARTS space takes about a tenth of a second."""
TRIES = 5
"""The largest number of searches; the first layout without an overlap, or else the last one, is used."""


@dataclass(frozen=True)
class Layout:
    """Columns and heights of the nodes and edges of a cell.

    Heights are in tracks: nodes and edges that share a column are at least one track apart.

    Attributes:
        layers: Column of every node, which is the length of the longest path to it.
        nodes: Height of every node.
        edges: Height of the level part of every edge, between its source and its target.
    """

    layers: tuple[int, ...]
    nodes: tuple[float, ...]
    edges: tuple[float, ...]


def layers(graph: Graph) -> tuple[int, ...]:
    """Compute the length of the longest path to every node. Edges lead to nodes of a higher index."""
    depth = [0] * len(graph.nodes)
    for source, target, _ in sorted(graph.edges, key=lambda edge: edge[1]):
        depth[target] = max(depth[target], depth[source] + 1)
    return tuple(depth)


def place(graph: Graph) -> Layout:
    """Find heights without overlaps at which edges climb as little as possible.

    Everything in one column (the nodes of a layer and the edges that pass it, or the edges between two layers) keeps
    a distance of one track, so that labels on the level parts of edges cannot touch. The heights are found by
    simulated annealing with fixed seeds, so that a graph always has the same picture.
    """
    depth = layers(graph)
    count = len(graph.nodes)
    # even columns are the layers, odd ones the gaps between them
    columns = [{2 * layer} for layer in depth]
    columns += [set(range(2 * depth[s] + 1, 2 * depth[t])) for s, t, _ in graph.edges]
    rivals = [[j for j, other in enumerate(columns) if j != i and mine & other] for i, mine in enumerate(columns)]
    joined: list[list[int]] = [[] for _ in columns]
    for i, (source, target, _) in enumerate(graph.edges):
        for node in (source, target):
            joined[node].append(count + i)
            joined[count + i].append(node)
    heights: list[float] = []
    for seed in range(TRIES):
        heights = _anneal(rivals, joined, random.Random(seed))
        if all(abs(heights[i] - heights[j]) >= 1 for i, others in enumerate(rivals) for j in others):
            break
    return Layout(depth, tuple(heights[:count]), tuple(heights[count:]))


def _anneal(rivals: list[list[int]], joined: list[list[int]], generator: random.Random) -> list[float]:
    """Find heights at which rivals keep a distance of 1 and joined items are close to each other."""
    # heights are multiples of half a track, so that a node may stand between two edges that enter it
    limit = max(2, *(len(r) for r in rivals))
    heights = [generator.randint(-limit, limit) / 2 for _ in rivals]

    def cost(item: int, height: float) -> float:
        climb = sum(abs(height - heights[other]) for other in joined[item])
        clash = sum(max(0.0, 1.0 - abs(height - heights[other])) for other in rivals[item])
        # the last term pulls a little towards the middle, so that the picture becomes flat
        return climb + 20.0 * clash + 0.05 * abs(height)

    for step in range(STEPS):
        temperature = 3.0 * (1.0 - step / STEPS) ** 2 + 1e-6
        item = generator.randrange(len(heights))
        height = generator.randint(-limit, limit) / 2
        change = cost(item, height) - cost(item, heights[item])
        if change < 0 or generator.random() < math.exp(-change / temperature):
            heights[item] = height
    return heights
