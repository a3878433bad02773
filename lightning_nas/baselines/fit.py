"""Residual networks that cost as much as another network."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_nas.baselines.resnet import CIFARResNet
from lightning_nas.checks import one_of
from lightning_nas.errors import ArtifactError
from lightning_nas.files.artifacts import read_json

COUNTED = ("macs", "parameters")
"""Costs that a network can be fitted to: they are counted, and grow with depth and width."""

MAX_BLOCKS = 9
"""Largest number of blocks per stage that is tried, as in ResNet-56."""

LARGE = 64
"""Side in pixels above which images get the stem for large images."""

Costs = Callable[[torch.nn.Module], Mapping[str, float]]
"""Measures the costs of a network by name; may measure a cost only when it is looked up."""


def fit_resnet(
    cost: str,
    target: float,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    constraints: Mapping[str, float] | None = None,
    measure: Costs | None = None,
) -> dict[str, int | str] | None:
    """Find the residual network that comes closest to a cost without exceeding it.

    For every depth of 1 to 9 blocks per stage, the largest width is found whose cost is at most the target and that
    keeps the constraints. Of these, only networks of at least ``4 * blocks`` channels are considered, and the one with
    1 block always, so that depth and width grow together (ResNet-20 has 3 blocks and 16 channels). The one whose cost
    is closest to the target wins; of equal ones the deepest. Images of more than 64 pixels a side get the stem for
    large images.

    Args:
        cost: ``macs`` or ``parameters``.
        target: The cost to reach, such as that of a found network.
        image_shape: ``(channels, height, width)`` of an image.
        num_classes: Number of classes.
        constraints: Upper bounds on costs by name.
        measure: Measures those costs in the constraints that are neither MACs nor parameters.

    Returns:
        Arguments ``blocks``, ``width`` and ``stem`` of ``CIFARResNet``; None if even the smallest one costs too much.

    Raises:
        ConfigError: The cost is neither of the two.

    Example:
        ```python
        size = fit_resnet("macs", 6.4e6, (3, 32, 32), 10)
        network = CIFARResNet((3, 32, 32), 10, **size)
        ```
    """
    one_of(COUNTED, cost=cost)
    limits = {**(constraints or {})}
    counted = {name: limits.pop(name) for name in COUNTED if name in limits}
    counted[cost] = min(target, counted.get(cost, target))
    stem = "imagenet" if max(image_shape[1:]) > LARGE else "cifar"

    def keeps_counted(blocks: int, width: int) -> bool:
        found = count_costs(image_shape, num_classes, blocks, width, stem)
        return all(found[name] <= bound for name, bound in counted.items())

    def keeps_measured(blocks: int, width: int) -> bool:
        if not limits or measure is None:
            return True
        found = measure(CIFARResNet(image_shape, num_classes, blocks, width, stem))
        return all(found[name] <= bound for name, bound in limits.items())

    best: tuple[float, int, int] | None = None
    for blocks in range(1, MAX_BLOCKS + 1):
        width = _largest(lambda width, blocks=blocks: keeps_counted(blocks, width))  # type: ignore[misc]
        while width and not keeps_measured(blocks, width):
            width -= max(1, width // 16)
        if width < (1 if blocks == 1 else 4 * blocks):
            continue
        found = (count_costs(image_shape, num_classes, blocks, width, stem)[cost], blocks, width)
        best = max(found, best) if best else found
    return None if best is None else {"blocks": best[1], "width": best[2], "stem": stem}


def _largest(fits: Callable[[int], bool]) -> int:
    """The largest positive integer that fits, where all smaller ones do as well; 0 if 1 does not."""
    high = 1
    while fits(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def count_costs(
    image_shape: tuple[int, int, int], num_classes: int, blocks: int, width: int, stem: str
) -> dict[str, int]:
    """``parameters`` and ``macs`` of a ``CIFARResNet`` by its layers, as thousands of them are compared.

    Args:
        image_shape: ``(channels, height, width)`` of an image.
        num_classes: Number of classes.
        blocks: Blocks per stage.
        width: Channels of the first stage.
        stem: Name of the stem.
    """
    channels, *sides = image_shape
    first = (9 if stem == "cifar" else 49) * channels * width

    def halved(times: int) -> list[int]:
        return [-(-side // 2**times) for side in sides]

    before = 0 if stem == "cifar" else 2  # halvings by the stem: a convolution and a pooling
    classifier = 4 * width * num_classes
    weights, norms, macs = first, width, first * math.prod(halved(min(before, 1)))
    for stage in range(3):
        c = width * 2**stage
        convolutions = 9 * c * c * 2 * blocks - (9 * c * c // 2 if stage else 0)
        weights += convolutions
        norms += 2 * blocks * c
        macs += convolutions * math.prod(halved(before + stage))
    return {"parameters": weights + 2 * norms + classifier + num_classes, "macs": macs + classifier}


class FittedResNet(CIFARResNet):
    """A residual network whose depth and width are in a file, which a pipeline writes once they are known.

    Args:
        image_shape: ``(channels, height, width)`` of an image.
        num_classes: Number of classes.
        path: JSON file with the entry ``size``: ``blocks``, ``width`` and ``stem`` of ``CIFARResNet``.

    Raises:
        ArtifactError: The file is missing or damaged.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, path: str) -> None:
        size = _size(Path(path))
        super().__init__(image_shape, num_classes, **size)


def _size(path: Path) -> dict[str, Any]:
    repair = "Delete it, and run the pipeline again: it writes the file."
    size = read_json(path, repair=repair).get("size")
    names = {"blocks": int, "width": int, "stem": str}
    if not isinstance(size, dict) or {name: type(value) for name, value in size.items()} != names:
        raise ArtifactError(f"{path} has the size {size!r:.200}; blocks, width and stem were expected. {repair}")
    return size
