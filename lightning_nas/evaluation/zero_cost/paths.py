"""The lengths of a network's paths, in convolutions."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_nas.evaluation.zero_cost.base import Probe, ZeroCostScore


def path_lengths(probe: Probe) -> tuple[float, float] | None:
    """The fewest and the most convolutions on any path from the images to the logits.

    The paths are those of the graph that automatic differentiation records in one forward pass.

    Returns:
        None where no path leads from the images to the logits.
    """
    convolutions: list[Any] = []
    handles = [
        layer.register_forward_hook(lambda _m, _i, output: convolutions.append(output.grad_fn))
        for layer in probe.layers
        if isinstance(layer, nn.Conv2d)
    ]
    images = probe.images[:2].detach().clone().requires_grad_()  # batch norm needs two images where there is one pixel
    try:
        with torch.enable_grad():
            logits = probe.logits(images)
    finally:
        for handle in handles:
            handle.remove()
    counted = set(convolutions)
    lengths: dict[Any, tuple[float, float] | None] = {}
    rest: list[Any] = [logits.grad_fn]
    while rest:
        node = rest[-1]
        before = [each for each, _ in node.next_functions if each is not None]
        waiting = [each for each in before if each not in lengths]
        if node not in lengths and waiting:
            rest.extend(waiting)
            continue
        rest.pop()
        if node not in lengths:
            lengths[node] = _length(node, [lengths[each] for each in before], node in counted, images)
    return lengths[logits.grad_fn]


def _length(
    node: Any, before: list[tuple[float, float] | None], counts: bool, images: Tensor
) -> tuple[float, float] | None:
    if getattr(node, "variable", None) is images:
        return 0.0, 0.0
    found = [each for each in before if each is not None]
    if not found:
        return None
    return min(low for low, _ in found) + counts, max(high for _, high in found) + counts


class ShortestPath(ZeroCostScore):
    """The negative number of convolutions on the shortest path through the network.

    It is a prior, not a measurement: it prefers architectures with a residual way through every cell, which the other
    scores of an untrained network do not see. Without it, a sum of ranks falls back to the largest cell.

    Cost: one forward pass of two images.

    Example:
        ```yaml
        scores: [Parameters, SynFlow, ShortestPath]
        ```
    """

    name = "shortest_path"

    def score(self, probe: Probe) -> float:
        """Minus the fewest convolutions; ``-inf`` where the logits do not depend on the images."""
        found = path_lengths(probe)
        return -found[0] if found is not None else -float("inf")


class LongestPath(ZeroCostScore):
    """The number of convolutions on the longest path through the network: its depth.

    Cost: one forward pass of two images.

    Example:
        ```yaml
        scores: [LongestPath]
        ```
    """

    name = "longest_path"

    def score(self, probe: Probe) -> float:
        """The most convolutions; ``-inf`` where the logits do not depend on the images."""
        found = path_lengths(probe)
        return found[1] if found is not None else -float("inf")
