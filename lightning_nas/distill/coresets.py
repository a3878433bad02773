"""Controls that choose real images by their features in a briefly trained network."""

from abc import abstractmethod

import torch
from torch import Tensor

from lightning_nas.checks import at_least, greater_than
from lightning_nas.distill.convnet import train_convnet
from lightning_nas.distill.images import RandomSubset

_BATCH = 256


class Coreset(RandomSubset):
    """Base class of controls that choose real images of every class by their features. The images are not trained.

    Features are those of a ``ConvNet`` that is trained on all real images by SGD with batches of 256, momentum 0.9 and
    a learning rate that falls to 0 along a cosine.

    Args:
        images_per_class: Images per class, at least 1.
        width: Channels of the network, at least 1.
        depth: Blocks of the network, at least 1; each halves the image.
        steps: Optimizer steps of the network, at least 0. With 0, features are random.
        learning_rate: Learning rate at the first step, above 0.
        downscale: Side of an image divided by that of its stored one, at least 1. Features are those of whole images.

    Raises:
        ConfigError: An argument is out of its range.
    """

    def __init__(
        self,
        images_per_class: int = 10,
        *,
        width: int = 64,
        depth: int = 3,
        steps: int = 300,
        learning_rate: float = 0.01,
        downscale: int = 1,
    ) -> None:
        super().__init__(images_per_class, downscale=downscale)
        at_least(1, width=width, depth=depth)
        at_least(0, steps=steps)
        greater_than(0, learning_rate=learning_rate)
        self.width = width
        self.depth = depth
        self.steps = steps
        self.learning_rate = learning_rate

    def choose(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        """Choose images class by class; see ``PlainImages.choose``."""
        self.check(labels, num_classes)
        features = self._features(images, labels, num_classes, generator)
        classes = [(labels == c).nonzero().flatten() for c in range(num_classes)]
        return torch.cat([index[self.pick(features[index], self.images_per_class)] for index in classes])

    @abstractmethod
    def pick(self, features: Tensor, count: int) -> Tensor:
        """Choose images of one class.

        Args:
            features: ``(n, features)``.
            count: Number of images to choose, at most n.

        Returns:
            ``count`` indices, in the order in which they were chosen.
        """

    def _features(self, images: Tensor, labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
        """Train the network and compute the features of all images, ``(n, features)``."""
        network = train_convnet(
            images,
            labels,
            classes,
            (torch.randint(len(images), (_BATCH,), generator=generator) for _ in range(self.steps)),
            steps=self.steps,
            width=self.width,
            depth=self.depth,
            learning_rate=self.learning_rate,
            generator=generator,
        )
        with torch.no_grad():
            return torch.cat([network.features(chunk) for chunk in images.split(_BATCH)])


class Herding(Coreset):
    """Control: images chosen one by one so that their mean feature stays closest to the mean feature of their class.

    References:
        1. Welling: Herding Dynamical Weights to Learn, ICML 2009, https://doi.org/10.1145/1553374.1553517
        2. Rebuffi et al.: iCaRL, CVPR 2017, https://arxiv.org/abs/1611.07725

    Args:
        images_per_class: Images per class, at least 1.
        width: Channels of the network, at least 1; see ``Coreset``.
        depth: Blocks of the network, at least 1; each halves the image.
        steps: Optimizer steps of the network, at least 0. With 0, features are random.
        learning_rate: Learning rate at the first step, above 0.
        downscale: Side of an image divided by that of its stored one, at least 1. Features are those of whole images.

    Raises:
        ConfigError: An argument is out of its range.

    Example:
        ```yaml
        model:
          class_path: DistillTask
          init_args:
            scheme:
              class_path: Herding
              init_args:
                images_per_class: 10
        ```
    """

    def pick(self, features: Tensor, count: int) -> Tensor:
        """Greedily minimise ``|| mean of all - mean of the chosen ||``; see ``Coreset.pick``."""
        mean, total = features.mean(0), torch.zeros(features.shape[1])
        free = torch.ones(len(features), dtype=torch.bool)
        chosen: list[int] = []
        for k in range(1, count + 1):
            distance = (mean - (total + features) / k).square().sum(1)
            best = int(distance.masked_fill(~free, torch.inf).argmin())
            total += features[best]
            free[best] = False
            chosen.append(best)
        return torch.tensor(chosen)


class KCenter(Coreset):
    """Control: each image is the one farthest from all images chosen before; the first is closest to the class mean.

    References:
        1. Sener, Savarese: Active Learning for Convolutional Neural Networks: A Core-Set Approach, ICLR 2018,
           https://arxiv.org/abs/1708.00489

    Args:
        images_per_class: Images per class, at least 1.
        width: Channels of the network, at least 1; see ``Coreset``.
        depth: Blocks of the network, at least 1; each halves the image.
        steps: Optimizer steps of the network, at least 0. With 0, features are random.
        learning_rate: Learning rate at the first step, above 0.
        downscale: Side of an image divided by that of its stored one, at least 1. Features are those of whole images.

    Raises:
        ConfigError: An argument is out of its range.

    Example:
        ```yaml
        model:
          class_path: DistillTask
          init_args:
            scheme:
              class_path: KCenter
              init_args:
                images_per_class: 10
        ```
    """

    def pick(self, features: Tensor, count: int) -> Tensor:
        """Greedily minimise the largest distance to the nearest chosen image; see ``Coreset.pick``."""
        chosen = [int((features - features.mean(0)).square().sum(1).argmin())]
        nearest = torch.full((len(features),), torch.inf)
        for _ in range(count - 1):
            nearest = torch.minimum(nearest, (features - features[chosen[-1]]).square().sum(1))
            nearest[chosen[-1]] = -1.0  # so that each is chosen once even where images are equal
            chosen.append(int(nearest.argmax()))
        return torch.tensor(chosen)
