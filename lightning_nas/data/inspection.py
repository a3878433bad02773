"""What users should know about their images before they trust a result."""

import logging
from collections import defaultdict
from collections.abc import Sequence

import torch
from lightning.pytorch.utilities import rank_zero_only

from lightning_nas.data.sets import ImageSet, LabelledImages

_log = logging.getLogger(__name__)

_DARK = 32


@rank_zero_only
def note(text: str) -> None:
    """Say something in the log, on the main process only."""
    _log.warning(text)


def digests(images: LabelledImages) -> list[int]:
    """Compute a hash of every image, by which equal images are found.

    Args:
        images: A set of images.

    Returns:
        One number per image. The list is empty for images that are not pixels in memory, which are not compared.
    """
    if not isinstance(images, ImageSet) or images.images.dtype != torch.uint8:
        return []
    return [hash(image.tobytes()) for image in images.images.cpu().numpy()]


def inspect_training_set(images: LabelledImages, hashes: Sequence[int]) -> None:
    """Say in the log if equal training images have different labels, or if all of them are very dark.

    Args:
        images: The training images.
        hashes: Their ``digests``.
    """
    labels = defaultdict(set)
    for digest, label in zip(hashes, images.labels.tolist(), strict=False):
        labels[digest].add(label)
    ambiguous = sum(len(labels[digest]) > 1 for digest in hashes)
    if ambiguous:
        note(
            f"{ambiguous} of {len(images)} training images equal an image with another label. Check the labels, or "
            "remove these images."
        )
    if hashes and isinstance(images, ImageSet) and int(images.images.max()) < _DARK:
        note(
            f"The brightest pixel of the training images is {int(images.images.max())} of 255, which leaves few grey "
            "levels. If their files hold fewer bits than they declare, such as 12 of 16, rescale the images."
        )


def inspect_held_out(name: str, images: LabelledImages, training: frozenset[int]) -> None:
    """Say in the log if test or validation images are also training images.

    Args:
        name: ``test`` or ``validation``.
        images: These images.
        training: ``digests`` of the training images.
    """
    shared = sum(digest in training for digest in digests(images))
    if shared:
        note(
            f"{shared} of {len(images)} {name} images are also training images, so that the {name} accuracy is too "
            "high. Remove them from one of the two sets."
        )
