"""Where the nodes and edges of a cell go in a picture."""

import math
import random
from dataclasses import dataclass

from lightning_nas.spaces.base import Graph

STEPS = 12_000
"""Moves of the search for a layout: a cell of the DARTS space takes about a fifth of a second."""


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

    Things in one column (nodes of a layer with the edges that pass it; edges between two layers) keep a track of
    distance, so labels on the level stretches cannot touch. Simulated annealing with a fixed seed: a graph has one
    picture.
    """
    depth = layers(graph)
    count = len(graph.nodes)
    spans = [(depth[source], depth[target]) for source, target, _ in graph.edges]
    # columns 0, 2, 4, ... are layers, those between them gaps
    columns = [{2 * layer} for layer in depth]
    columns += [set(range(2 * first + 1, 2 * last)) for first, last in spans]
    rivals = [
        [j for j in range(len(columns)) if j != i and columns[i] & columns[j]] for i in range(len(columns))
    ]
    joined: list[list[int]] = [[] for _ in columns]
    for i, (source, target, _) in enumerate(graph.edges):
        for node in (source, target):
            joined[node].append(count + i)
            joined[count + i].append(node)

    def cost(item: int, height: float) -> float:
        climb = sum(abs(height - heights[other]) for other in joined[item])
        clash = sum(max(0.0, 1.0 - abs(height - heights[other])) for other in rivals[item])
        # towards the middle, so that the picture is flat
        return climb + 20.0 * clash + 0.05 * abs(height)

    generator = random.Random(0)
    # half tracks: a node may stand between the two edges that enter it
    limit = max(2, max(len(r) for r in rivals))
    heights = [generator.randint(-limit, limit) / 2 for _ in columns]
    for step in range(STEPS):
        temperature = 3.0 * (1.0 - step / STEPS) ** 2 + 1e-6
        item = generator.randrange(len(columns))
        height = generator.randint(-limit, limit) / 2
        change = cost(item, height) - cost(item, heights[item])
        if change < 0 or generator.random() < math.exp(-change / temperature):
            heights[item] = height
    return Layout(depth, tuple(heights[:count]), tuple(heights[count:]))
