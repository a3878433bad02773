"""Where the nodes and edges of a cell go in a picture."""

import math
import random
from dataclasses import dataclass

from lightning_nas.spaces.base import Graph

STEPS = 12_000
"""Moves of a search for a layout: a cell of the DARTS space takes about a tenth of a second."""
TRIES = 5
"""Searches until one ends without an overlap; the last one counts."""


@dataclass(frozen=True)
class Layout:
    """Heights in tracks: two things that share a column are at least one track apart.

    Attributes:
        layers: Column of every node: the longest path to it.
        nodes: Height of every node.
        edges: Height of every edge's level stretch between its source and its target.
    """

    layers: tuple[int, ...]
    nodes: tuple[float, ...]
    edges: tuple[float, ...]


def layers(graph: Graph) -> tuple[int, ...]:
    """Length of the longest path to every node; edges lead to nodes of a higher index."""
    depth = [0] * len(graph.nodes)
    for source, target, _ in sorted(graph.edges, key=lambda edge: edge[1]):
        depth[target] = max(depth[target], depth[source] + 1)
    return tuple(depth)


def place(graph: Graph) -> Layout:
    """Find heights without overlaps at which edges climb little.

    Things in one column (nodes of a layer with the edges that pass it; edges between two layers) keep a track
    of distance, so labels on the level stretches cannot touch. Simulated annealing with fixed seeds: a graph
    has one picture.
    """
    depth = layers(graph)
    count = len(graph.nodes)
    # columns 0, 2, 4, ... are layers, those between them gaps
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
    """Heights at which rivals keep a distance of 1 and joined things are near each other."""
    # half tracks: a node may stand between the two edges that enter it
    limit = max(2, *(len(r) for r in rivals))
    heights = [generator.randint(-limit, limit) / 2 for _ in rivals]

    def cost(item: int, height: float) -> float:
        climb = sum(abs(height - heights[other]) for other in joined[item])
        clash = sum(max(0.0, 1.0 - abs(height - heights[other])) for other in rivals[item])
        # a little towards the middle, so that the picture is flat
        return climb + 20.0 * clash + 0.05 * abs(height)

    for step in range(STEPS):
        temperature = 3.0 * (1.0 - step / STEPS) ** 2 + 1e-6
        item = generator.randrange(len(heights))
        height = generator.randint(-limit, limit) / 2
        change = cost(item, height) - cost(item, heights[item])
        if change < 0 or generator.random() < math.exp(-change / temperature):
            heights[item] = height
    return heights
