"""Which images go where: the same seed gives the same parts on every machine and rank."""

import hashlib

import torch
from torch import Tensor

from lightning_nas.errors import DataError


def derived_seed(*parts: int | str) -> int:
    """A seed for one purpose, from a seed and names or counters; neighbouring seeds share no draws."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def shuffled_by_class(labels: Tensor, seed: int) -> Tensor:
    """Indices class by class, in random order within a class, ``(n,)``."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derived_seed(seed, "split")))
    return order[labels[order].argsort(stable=True)]


def balanced(labels: Tensor, limit: int, seed: int) -> Tensor:
    """Random images, as many of every class as the sizes of the classes allow.

    Args:
        labels: int64 ``(n,)``.
        limit: How many; all if there are fewer.
        seed: Of the choice. A smaller limit gives a part of a larger one's images.

    Returns:
        Ascending indices.
    """
    order = shuffled_by_class(labels, seed)
    counts = torch.bincount(labels)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(labels)) - first[labels[order]]  # within its class
    return order[place.argsort(stable=True)][:limit].sort().values


def stratified(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Deal every class's images out: ``floor(fraction * n)`` in all, each class's share off by less than one.

    Returns:
        bool ``(n,)``, true where the image is dealt.
    """
    order = shuffled_by_class(labels, seed)
    steps = torch.arange(len(labels) + 1, dtype=torch.float64) * fraction
    taken = (steps + 1e-9).floor().diff() > 0  # the shift keeps 100 * 0.29 from being 28
    dealt = torch.zeros(len(labels), dtype=torch.bool)
    dealt[order] = taken
    return dealt


def halves(labels: Tensor, groups: Tensor | None, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split into the train half and the search half.

    Both hold every class in its share. Images of one group stay together. With a fraction of 0.5 the halves
    are equally long: left-over images, of the classes with the most, are dropped.

    Args:
        labels: int64 ``(n,)``.
        groups: int64 ``(n,)``, or None: every image by itself.
        fraction: Of the images in the search half, between 0 and 1.
        seed: Of the split.

    Returns:
        Ascending indices of the train half and of the search half.

    Raises:
        DataError: A half has no image of some class.
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
                f"The {name} half, at search_fraction {fraction}, gets no image of the classes {missing}. "
                f"Use more {what} a class (two at least), or a search_fraction nearer to 0.5."
            )
    return train, search
