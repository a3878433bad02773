"""Real images chosen by how difficult they are for a briefly trained network."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.checks import at_least, greater_than, one_of, within
from lightning_nas.distill.base import Selection
from lightning_nas.distill.convnet import train_convnet
from lightning_nas.errors import ConfigError
from lightning_nas.terminal import Progress

Keep = Literal["easy", "middle", "hard"]
"""Which of the images of a class may be chosen."""

_BATCH = 64


class Difficulty(ABC):
    """Base class of measures of how difficult an image is for a network in training."""

    @abstractmethod
    def scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the difficulty of every image; higher is more difficult.

        Args:
            logits: What the network said about every image when it trained on it, ``(epochs, n, classes)``.
            labels: int64 ``(n,)``.

        Returns:
            ``(n,)``.
        """


class LossDifficulty(Difficulty):
    """Cross-entropy in the last epoch: ``- log p[y]``.

    References:
        1. Loshchilov, Hutter: Online Batch Selection for Faster Training of Neural Networks, 2015,
           https://arxiv.org/abs/1511.06343
    """

    def scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See ``Difficulty.scores``."""
        return F.cross_entropy(logits[-1], labels, reduction="none")


class EL2N(Difficulty):
    """Norm of the error, ``|| p - onehot(y) ||``, averaged over the epochs.

    The paper averages over networks after some epochs instead.

    References:
        1. Paul, Ganguli, Dziugaite: Deep Learning on a Data Diet, NeurIPS 2021, https://arxiv.org/abs/2107.07075
    """

    def scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See ``Difficulty.scores``."""
        wanted = F.one_hot(labels, logits.shape[2])
        return (logits.softmax(2) - wanted).square().sum(2).sqrt().mean(0)


class ForgettingEvents(Difficulty):
    """Number of epochs in which an image is wrong after it was right in the one before.

    An image that is never right counts as forgotten in every epoch.

    References:
        1. Toneva et al.: An Empirical Study of Example Forgetting during Deep Neural Network Learning, ICLR 2019,
           https://arxiv.org/abs/1812.05159
    """

    def scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See ``Difficulty.scores``."""
        right = logits.argmax(2) == labels
        forgotten = (right[:-1] & ~right[1:]).sum(0)
        return torch.where(right.any(0), forgotten, len(right)).float()


class AreaUnderMargin(Difficulty):
    """Minus the mean over the epochs of the margin ``z[y] - max over k != y of z[k]`` of the logits.

    References:
        1. Pleiss, Zhang, Elenberg, Weinberger: Identifying Mislabeled Data using the Area Under the Margin Ranking,
           NeurIPS 2020, https://arxiv.org/abs/2001.10528
    """

    def scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See ``Difficulty.scores``."""
        own = F.one_hot(labels, logits.shape[2]).bool()
        others = logits.masked_fill(own, -torch.inf).amax(2)
        return (others - (logits * own).sum(2)).mean(0)


class DifficultySelection(Selection):
    """Random images among the easiest, the middle or the hardest ones of every class.

    A ``ConvNet`` is trained on all images by SGD with batches of 64, momentum 0.9 and a learning rate that falls to 0
    along a cosine. What it says about an image in each epoch, before the step, gives the difficulty. Small proxies do
    best with easy images, as in paper 1; images of equal difficulty come in random order.

    References:
        1. Sorscher, Geirhos, Shekhar, Ganguli, Morcos: Beyond neural scaling laws: beating power law scaling via data
           pruning, NeurIPS 2022, https://arxiv.org/abs/2206.14486

    Args:
        measure: What difficulty is; ``EL2N`` if null.
        keep: ``easy``, ``middle`` or ``hard``.
        fraction: Fraction of the images of every class that are easy, middle or hard enough, above 0 and at most 1.
        width: Channels of the network, at least 1.
        depth: Blocks of the network, at least 1; each halves the image.
        epochs: Epochs of the network, at least 1.
        learning_rate: Learning rate at the first step, above 0.

    Raises:
        ConfigError: An argument is out of its range.

    Example:
        ```yaml
        model:
          class_path: DistillTask
          init_args:
            scheme:
              class_path: RandomSubset
              init_args:
                images_per_class: 10
                selection: {class_path: DifficultySelection, init_args: {keep: easy, fraction: 0.5}}
        ```
    """

    def __init__(
        self,
        measure: Difficulty | None = None,
        *,
        keep: Keep = "easy",
        fraction: float = 0.5,
        width: int = 64,
        depth: int = 3,
        epochs: int = 8,
        learning_rate: float = 0.01,
    ) -> None:
        one_of(get_args(Keep), keep=keep)
        within("(0, 1]", fraction=fraction)
        at_least(1, width=width, depth=depth, epochs=epochs)
        greater_than(0, learning_rate=learning_rate)
        self.measure = measure or EL2N()
        self.keep = keep
        self.fraction = fraction
        self.width = width
        self.depth = depth
        self.epochs = epochs
        self.learning_rate = learning_rate

    def check(self, labels: Tensor, per_class: int, num_classes: int, name: str) -> None:
        """See ``Selection.check``."""
        counts = torch.bincount(labels, minlength=num_classes)
        fewest = min(self._allowed(int(count)) for count in counts)
        if per_class > fewest:
            raise ConfigError(
                f"{name} is {per_class}; fraction {self.fraction:g} of the {int(counts.min())} training images of "
                f"class {int(counts.argmin())} are {fewest}. Use a larger fraction, or fewer images."
            )

    def _allowed(self, count: int) -> int:
        return round(self.fraction * count)

    def choose(
        self, images: Tensor, labels: Tensor, per_class: int, num_classes: int, generator: torch.Generator
    ) -> Tensor:
        """Train the network and choose images of every class; see ``Selection.choose``."""
        scores = self.measure.scores(self._logits(images, labels, num_classes, generator), labels)
        mixed = torch.randperm(len(labels), generator=generator)
        order = mixed[scores[mixed].argsort(stable=True)]
        chosen = []
        for c in range(num_classes):
            of_class = order[labels[order] == c]
            allowed = self._allowed(len(of_class))
            first = {"easy": 0, "middle": (len(of_class) - allowed) // 2, "hard": len(of_class) - allowed}[self.keep]
            drawn = torch.randperm(allowed, generator=generator)[:per_class]
            chosen.append(of_class[first + drawn])
        return torch.cat(chosen)

    def _logits(self, images: Tensor, labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
        """Train the network and return what it said about every image in every epoch, ``(epochs, n, classes)``."""
        found = torch.empty(self.epochs, len(images), classes)
        per_epoch = -(-len(images) // _BATCH)
        progress = Progress("epochs of the network that says which images are difficult", self.epochs)

        def batches() -> Iterator[Tensor]:
            for _ in range(self.epochs):
                yield from torch.randperm(len(images), generator=generator).split(_BATCH)
                progress.step()

        def heard(step: int, part: Tensor, logits: Tensor) -> None:
            found[step // per_epoch, part] = logits

        train_convnet(
            images,
            labels,
            classes,
            batches(),
            steps=self.epochs * per_epoch,
            width=self.width,
            depth=self.depth,
            learning_rate=self.learning_rate,
            generator=generator,
            heard=heard,
        )
        return found
