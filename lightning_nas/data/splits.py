"""Which images go where. The same seed gives the same parts on every machine and in every process."""

import hashlib

import torch
from torch import Tensor

from lightning_nas.errors import DataError


def derived_seed(*parts: int | str) -> int:
    """Derive a seed for one purpose from a seed and names or counters.

    Args:
        *parts: The seed, then what it is for. Neighbouring values give unrelated random numbers.

    Returns:
        An integer from 0 to ``2**56 - 1``.
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def shuffled_by_class(labels: Tensor, seed: int) -> Tensor:
    """Sort indices by class, in random order within each class.

    Args:
        labels: int64 ``(n,)``.
        seed: Seed of the order.

    Returns:
        Indices, int64 ``(n,)``.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derived_seed(seed, "split")))
    return order[labels[order].argsort(stable=True)]


def balanced(labels: Tensor, limit: int, seed: int) -> Tensor:
    """Choose random images, as many of every class as the sizes of the classes allow.

    Args:
        labels: int64 ``(n,)``.
        limit: Number of images to choose; all of them if there are fewer.
        seed: Seed of the choice. With the same seed, a smaller limit chooses a subset of what a larger one does.

    Returns:
        Indices in ascending order.
    """
    order = shuffled_by_class(labels, seed)
    counts = torch.bincount(labels)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(labels)) - first[labels[order]]  # within its class
    return order[place.argsort(stable=True)][:limit].sort().values


def stratified(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Choose a fraction of every class.

    Args:
        labels: int64 ``(n,)``.
        fraction: Fraction of the images to choose, between 0 and 1.
        seed: Seed of the choice.

    Returns:
        bool ``(n,)``, true for ``floor(fraction * n)`` images. The share of each class is exact to less than one image.
    """
    order = shuffled_by_class(labels, seed)
    steps = torch.arange(len(labels) + 1, dtype=torch.float64) * fraction
    taken = (steps + 1e-9).floor().diff() > 0  # without the small shift, 100 * 0.29 would give 28
    dealt = torch.zeros(len(labels), dtype=torch.bool)
    dealt[order] = taken
    return dealt


def halves(labels: Tensor, groups: Tensor | None, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split images into the train half and the search half.

    Every class has the same share in both halves, and images of one group stay together. With a fraction of 0.5, both
    halves have the same length: surplus images, which belong to the largest classes, are left out.

    Args:
        labels: int64 ``(n,)``.
        groups: Group of every image, int64 ``(n,)``, or None if every image may be split from every other.
        fraction: Fraction of the images in the search half, between 0 and 1.
        seed: Seed of the split.

    Returns:
        Indices of the train half and of the search half, each in ascending order.

    Raises:
        DataError: A half gets no image of some class.
    """
    if groups is None:
        search_mask = stratified(labels, fraction, seed)
    else:
        units, unit = torch.unique(groups, return_inverse=True)
        contents = [tuple(labels[unit == u].sort().values.tolist()) for u in range(len(units))]
        kinds = {content: kind for kind, content in enumerate(sorted(set(contents)))}
        search_mask = stratified(torch.tensor([kinds[content] for content in contents]), fraction, seed)[unit]
    train, search = (~search_mask).nonzero().flatten(), search_mask.nonzero().flatten()
    if fraction == 0.5:
        shorter = min(len(train), len(search))
        train, search = (half[balanced(labels[half], shorter, seed)] for half in (train, search))
    for name, half in (("train", train), ("search", search)):
        missing = sorted(set(labels.tolist()) - set(labels[half].tolist()))
        if missing:
            what = "images" if groups is None else "groups of images"
            raise DataError(
                f"The {name} half gets no image of the classes {missing} at search_fraction {fraction}. Use more "
                f"{what} per class (at least two), or a search_fraction closer to 0.5."
            )
    return train, search
