"""What the found network predicts for every test image: confusions, accuracy by class, and its worst mistakes."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightning_nas.errors import ArtifactError
from lightning_nas.files.artifacts import read_tensors
from lightning_nas.metrics.paired import wilson_interval

IMAGES = "test_images.safetensors"
"""Name of the file in the folder of a tested stage with the results of every test image; see ``ImageResults``."""

MAX_MATRIX = 20
"""Number of classes up to which a page shows the whole confusion matrix."""

MAX_CONFUSIONS = 20
"""Number of the most frequent confusions that a page lists where there are more classes."""


@dataclass(frozen=True)
class Mistake:
    """A test image that the network is wrong about.

    Attributes:
        src: The image as a data URI.
        truth: Name of its class.
        said: Name of the class that the network gave it.
        confidence: Probability that it gave this class.
        index: Number of the image in the test set.
    """

    src: str
    truth: str
    said: str
    confidence: float
    index: int


@dataclass(frozen=True)
class ClassResult:
    """The results of one class.

    Attributes:
        name: Name of the class.
        count: Number of test images of it.
        accuracy: Share of them that the network recognizes.
        interval: Wilson's 95 % interval of the accuracy.
    """

    name: str
    count: int
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class ByImage:
    """Results by test image.

    Attributes:
        names: Names of the classes.
        confusion: Number of images by true class (rows) and class that the network gave (columns).
        classes: Results of the classes that the test set has, the least accurate first.
        confusions: True class, given class and number of images of the most frequent confusions.
        mistakes: The most confident mistakes with their images.
    """

    names: list[str]
    confusion: list[list[int]]
    classes: list[ClassResult]
    confusions: list[tuple[str, str, int]]
    mistakes: list[Mistake]

    @property
    def small(self) -> bool:
        """Whether there are few enough classes for the whole matrix."""
        return len(self.names) <= MAX_MATRIX


def read_tested(path: Path, class_names: Sequence[str]) -> ByImage | str:
    """Read the results of every test image.

    Args:
        path: File of ``ImageResults``.
        class_names: Names of the classes; numbers take the place of missing ones.

    Returns:
        The results, or why there are none.
    """
    if not path.is_file():
        return f"The run folder has no {path.parent.name}/{path.name}, which the test of one process writes."
    try:
        found = read_tensors(path, repair="")
        labels, predicted, confidence = found["labels"].long(), found["predicted"].long(), found["confidence"].float()
        if labels.ndim != 1 or not len(labels) == len(predicted) == len(confidence) > 0 or int(labels.min()) < 0:
            raise ValueError
        size = int(max(labels.max(), predicted.max())) + 1
        names = [*map(str, class_names), *map(str, range(len(class_names), size))]
        counts = torch.bincount(labels * len(names) + predicted, minlength=len(names) ** 2)
        confusion = counts.view(len(names), len(names))
        mistakes = [
            Mistake(_data_uri(picture), names[labels[i]], names[predicted[i]], float(confidence[i]), i)
            for i, picture in zip(found.get("mistakes", labels[:0]).tolist(), found.get("pictures", ()), strict=True)
        ]
    except (ArtifactError, KeyError, IndexError, ValueError, TypeError, RuntimeError):
        return f"{path.parent.name}/{path.name} is damaged."
    wrong = confusion - torch.diag(confusion.diag())
    pairs = [(int(wrong[i, j]), i, j) for i, j in wrong.nonzero().tolist()]
    top = sorted(pairs, key=lambda each: (-each[0], each[1:]))[:MAX_CONFUSIONS]
    confusions = [(names[i], names[j], count) for count, i, j in top]
    return ByImage(names, confusion.tolist(), _by_class(names, confusion), confusions, mistakes)


def _by_class(names: Sequence[str], confusion: Tensor) -> list[ClassResult]:
    found = []
    for name, row, right in zip(names, confusion.sum(1).tolist(), confusion.diag().tolist(), strict=True):
        if row:
            found.append(ClassResult(name, row, right / row, wilson_interval(right / row, row)))
    return sorted(found, key=lambda each: each.accuracy)


def _data_uri(picture: Tensor) -> str:
    """A uint8 image ``(channels, height, width)`` as a PNG in a data URI; gray unless it has three channels."""
    from PIL import Image

    pixels = picture.permute(1, 2, 0) if len(picture) == 3 else picture.float().mean(0).round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
