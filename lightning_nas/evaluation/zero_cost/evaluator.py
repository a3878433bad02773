"""The evaluator that scores untrained networks."""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture, SpaceSpec
from lightning_nas.checks import at_least
from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError, TrainingError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.evaluation.zero_cost.az_nas import Expressivity, Progressivity
from lightning_nas.evaluation.zero_cost.base import Probe, ZeroCostScore
from lightning_nas.evaluation.zero_cost.paths import ShortestPath
from lightning_nas.evaluation.zero_cost.size import Parameters
from lightning_nas.evaluation.zero_cost.synflow import SynFlow
from lightning_nas.spaces.artifact import architecture_from_dict, build_space
from lightning_nas.spaces.sized import build_network
from lightning_nas.supernets.scoring import fixed_images
from lightning_nas.terminal import Progress

COMBINED = "zero_cost"
"""Name of the objective that combines several scores."""


class ZeroCost(Evaluator):
    """Scores architectures by their untrained networks, in milliseconds each.

    Every architecture is built once with weights drawn from ``seed``, and every score looks at it with the same few
    images. With one score, the objective has its name and is its value. With several, the objective is ``zero_cost``:
    the sum over scores of the architecture's rank among all that were scored so far, from 1 for the worst, ties sharing
    their mean rank. Ranks change as more architectures come: ``version`` rises then, and earlier evaluations do not
    compare with later ones. Asking again for an architecture gives its present rank and costs nothing.

    By default the scores are the number of parameters, synaptic flow, expressivity and progressivity of AZ-NAS, and the
    shortest path. Their sum was chosen on CIFAR-10's results in NAS-Bench-201 for networks of 8 channels and one cell
    per stage; see the documentation's results for the ranks of each score in other spaces.

    ``features`` of an evaluation has the values of the scores in their order; its cost is ``seconds``.

    Args:
        scores: The scores; by default the five above.
        data: Images of which a few are scored on, from the training set and without augmentation; normal noise with
            random labels if null.
        images: Number of images, at least 2 (32 give the ranks of more images).
        channels: Channels of the network's first cell.
        cells: Cells of the network, as the space counts them; null, the default, takes the fewest with which every
            choice has an effect (1 per stage in NAS-Bench-201, 3 in the DARTS space). Fewer are refused.
        image_size: Side of the noise images; the data have their own.
        num_classes: Number of classes of the noise images; the data have their own.
        seed: Seed of the weights, of the choice of images, and of what scores draw.

    Raises:
        ConfigError: A number is out of its range, or two scores have one name; when scoring, ``cells`` is too small
            for the space.

    Example:
        ```yaml
        model:
          class_path: EvolveTask
          init_args:
            space: NASBench201Space
            strategy: Screen
            evaluator:
              class_path: ZeroCost
              init_args:
                data: {class_path: CIFAR10DataModule, init_args: {image_size: 16}}
            objective: zero_cost
            budget: 2000
            generation_size: 1000
        ```
    """

    stochastic = False
    joint = True

    def __init__(
        self,
        scores: list[ZeroCostScore] | None = None,
        *,
        data: ImageDataModule | None = None,
        images: int = 32,
        channels: int = 8,
        cells: int | None = None,
        image_size: int = 16,
        num_classes: int = 10,
        seed: int = 0,
    ) -> None:
        at_least(1, channels=channels, cells=cells, image_size=image_size, num_classes=num_classes)
        at_least(2, images=images)
        self.scores = scores or [Parameters(), SynFlow(), Expressivity(), Progressivity(), ShortestPath()]
        names = [score.name for score in self.scores]
        if len(set(names)) < len(names):
            raise ConfigError(f"scores are {names}; each may be named once. Remove the repetition.")
        self.data = data
        self.images = images
        self.channels = channels
        self.cells = cells
        self.image_size = image_size
        self.num_classes = num_classes
        self.seed = seed
        self.version = 0
        self._known: dict[Architecture, list[float]] = {}
        self._least: dict[SpaceSpec, int] = {}  # counting cells builds networks, which takes longer than some scores
        self._batch: tuple[Tensor, Tensor] | None = None

    def prepare_data(self) -> None:
        """Download the images."""
        if self.data is not None:
            self.data.prepare_data()

    def data_modules(self) -> list[Any]:
        """See ``Evaluator.data_modules``."""
        return [] if self.data is None else [self.data]

    def check(self) -> None:
        """Refuse data without images; see ``Evaluator.check``."""
        if self.data is not None:
            self.data.list_parts()

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        """The images and labels that networks are scored on."""
        if self._batch is None:
            if self.data is not None:
                self._batch = fixed_images(self.data, self.data.train_set, self.images, self.seed)
            else:
                generator = torch.Generator().manual_seed(derived_seed(self.seed, "noise"))
                shape = (self.images, 3, self.image_size, self.image_size)
                labels = torch.randint(self.num_classes, (self.images,), generator=generator)
                self._batch = torch.randn(shape, generator=generator), labels
        return self._batch

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Score; see the class. Networks are always scored on the CPU."""
        seconds = []
        progress = Progress("architectures scored", len(architectures))
        for architecture in architectures:
            start = time.perf_counter()
            if architecture not in self._known:
                self._known[architecture] = self._score(architecture)
                self.version += len(self.scores) > 1
            seconds.append(time.perf_counter() - start)
            progress.step()
        if not architectures:
            return []
        from scipy.stats import rankdata

        name = self.scores[0].name if len(self.scores) == 1 else COMBINED
        known = list(self._known)
        table = torch.tensor([self._known[a] for a in known], dtype=torch.float64)
        values = table[:, 0] if len(self.scores) == 1 else torch.from_numpy(rankdata(table.numpy(), axis=0)).sum(1)
        places = {architecture: i for i, architecture in enumerate(known)}
        return [
            Evaluation({name: float(values[places[a]])}, {"seconds": s}, table[places[a]].float())
            for a, s in zip(architectures, seconds, strict=True)
        ]

    def _score(self, architecture: Architecture) -> list[float]:
        images, labels = self.batch
        classes = self.data.num_classes if self.data is not None else self.num_classes
        space = build_space(architecture.space)
        if architecture.space not in self._least:
            self._least[architecture.space] = space.least_cells
        least = self._least[architecture.space]
        if self.cells is not None and self.cells < least:
            raise ConfigError(
                f"cells is {self.cells}, but a network of {type(space).__name__} with fewer than {least} cells does "
                f"not depend on every choice. Set cells to {least} or more, or to null."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = build_network(
                space,
                architecture,
                num_classes=classes,
                image_shape=tuple(images.shape[1:]),
                channels=self.channels,
                cells=least if self.cells is None else self.cells,
            )
        probe = Probe(network, images, labels, classes, self.seed)
        values = [score.score(probe) for score in self.scores]
        undefined = [score.name for score, value in zip(self.scores, values, strict=True) if math.isnan(value)]
        if undefined:  # one rank that is not a number would spoil those of all architectures
            raise TrainingError(f"The zero-cost score {', '.join(undefined)} of an architecture is not a number.")
        return values

    def state_dict(self) -> dict[str, Any]:
        """The scores so far, which the ranks are taken among; nothing where there is one score, without ranks."""
        if len(self.scores) == 1:
            return {}
        return {
            "version": self.version,
            "names": [score.name for score in self.scores],
            "choices": [[dict(a.to_dict()), values] for a, values in self._known.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Evaluator.load_state_dict``."""
        if not state:
            return
        self.version = state["version"]
        self._known = {architecture_from_dict(content): list(values) for content, values in state["choices"]}
