"""Scheme 2 of the two-scheme pipeline: a few bases that all classes share, and learned mappings from labels to them."""

from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.checks import at_least, within
from lightning_nas.data.splits import derived_seed
from lightning_nas.distill.base import Scheme, Selection, Synthetic
from lightning_nas.distill.images import averaged, check_selected, enlarged, selected
from lightning_nas.errors import ConfigError


class RelationMappings(Scheme):
    """Scheme 2: every image is a combination of bases that all classes share.

    Mapping i makes for class c the image

        x = sum over k of A_i[c, k] b_k

    so the mappings ``A_i`` address the bases ``b_k`` by label. Bases and mappings come in separate banks. Images of
    different banks share nothing, so that a search can have one bank in each half. At the start, bases and mappings are
    the best approximation of real images by so many bases, which a singular value decomposition gives. Labels are soft:
    ``softmax(relations[c])``. At the start a small part of the probability goes to other classes, in proportion to the
    similarity of the classes' mean images; matchers that use labels train them further.

    The text of the pipeline's Scheme 2 is not public. This is a reconstruction, following the addressable memories
    below; the banks, the start and the soft labels are ours.

    References:
        1. Liu, Qiao, Zhao, Deng, Yan: A new pipeline with ultimate search efficiency for neural architecture search,
           Neural Networks, 2025
        2. Deng, Russakovsky: Remember the Past: Distilling Datasets into Addressable Memories for Neural Networks,
           NeurIPS 2022, https://arxiv.org/abs/2206.02916

    Args:
        bases: Number of bases in all banks together, a positive multiple of ``banks``.
        mappings: Number of mappings in all banks together, which is the number of images per class, a positive
            multiple of ``banks``.
        banks: Number of banks, at least 1. A search on the proxy alone needs 2.
        downscale: Side of an image divided by that of a base, at least 1. With 2, bases take a quarter of the bytes.
        mappings_per_step: Mappings per bank that a step of matching draws, at least 1; all of them if null.
        softness: Probability that a soft label gives to other classes at the start, at least 0 and below 1. With 0,
            labels are hard.
        mapping_lr: Learning rate of the mappings; that of the bases if null.
        label_lr: Learning rate of the soft labels; that of the bases if null.
        selection: Choice of the real images to start from; random ones if null.

    Raises:
        ConfigError: An argument is out of its range.

    Example:
        ```yaml
        scheme:
          class_path: RelationMappings
          init_args:
            bases: 64
            mappings: 50
        ```
    """

    parameter_names = ("bases", "mappings", "relations")
    buffer_names = ()
    # every base has a range of its own; the values of all images for the k-th base of every bank share one
    slice_dims = MappingProxyType({"bases": 0, "mappings": 3})

    def __init__(
        self,
        bases: int = 64,
        *,
        mappings: int = 50,
        banks: int = 2,
        downscale: int = 1,
        mappings_per_step: int | None = 5,
        softness: float = 0.1,
        mapping_lr: float | None = None,
        label_lr: float | None = None,
        selection: Selection | None = None,
    ) -> None:
        super().__init__()
        at_least(1, banks=banks, downscale=downscale, mappings_per_step=mappings_per_step)
        within("[0, 1)", softness=softness)
        for name, value in {"bases": bases, "mappings": mappings}.items():
            if value < 1 or value % banks:
                raise ConfigError(f"{name} is {value}; it must be a positive multiple of banks, which is {banks}.")
        self.counts = {"bases": bases, "mappings": mappings, "banks": banks, "downscale": downscale}
        self.mappings_per_step = mappings_per_step
        self.softness = softness
        self.mapping_lr = mapping_lr
        self.label_lr = label_lr
        self.selection = selection

    def check(self, labels: Tensor, num_classes: int) -> None:
        """See ``Scheme.check``."""
        check_selected(self.selection, labels, self.counts["mappings"], num_classes, "mappings")

    def start(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> None:
        """Approximate random real images by so many bases; see ``Scheme.start``."""
        bases, mappings, banks, downscale = self.counts.values()
        chosen = selected(self.selection, images, labels, mappings, num_classes, generator, "mappings")
        small = averaged(images[chosen], downscale)
        # (banks, classes * mappings per bank, values of a base)
        rows = small.flatten(1).unflatten(0, (num_classes, banks, -1)).transpose(0, 1).flatten(1, 2)
        if bases // banks > min(rows.shape[1:]):
            raise ConfigError(
                f"bases is {bases}, which is {bases // banks} per bank; more than {min(rows.shape[1:])} are useless "
                f"for {rows.shape[1]} images of {rows.shape[2]} values. Use fewer bases, or more mappings."
            )
        left, strength, right = torch.linalg.svd(rows.double(), full_matrices=False)
        kept = bases // banks
        size = rows.shape[2] ** 0.5  # so that the values of a base are about 1, like those of an image
        start = right[:, :kept].float() * size
        coefficients = (left * strength[:, None])[:, :, :kept].float() / size
        self.bases = nn.Parameter(start.reshape(bases, *small.shape[1:]))
        # (banks, classes, mappings per bank, bases per bank)
        self.mappings = nn.Parameter(coefficients.unflatten(1, (num_classes, -1)).contiguous())
        self.relations = nn.Parameter(self._related(images, labels, num_classes), requires_grad=self.softness > 0)

    def _related(self, images: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        """Return the logits of the soft labels at the start, ``(classes, classes)``."""
        means = torch.stack([images[labels == c].mean(0).flatten() for c in range(num_classes)])
        means = F.normalize(means - means.mean(0), dim=1)
        own = torch.eye(num_classes, dtype=torch.bool)
        others = (means @ means.t()).masked_fill(own, -torch.inf).softmax(1)
        return torch.where(own, 1 - self.softness, self.softness * others).clamp(min=1e-6).log()

    def proxy(self) -> Synthetic:
        """Make the images of all mappings. Those of a bank are one group."""
        return self._made_by(self.mappings)

    def layout(self, num_classes: int) -> tuple[Tensor, Tensor]:
        """See ``Scheme.layout``."""
        return self._labels_and_groups(
            self.counts["banks"], num_classes, self.counts["mappings"] // self.counts["banks"]
        )

    @staticmethod
    def _labels_and_groups(banks: int, classes: int, each: int) -> tuple[Tensor, Tensor]:
        index = torch.arange(banks * classes * each)
        return index // each % classes, index // (each * classes)

    def draw(self, seed: int) -> Synthetic:
        """Make the images of some random mappings of every bank; see ``Scheme.draw``."""
        generator = torch.Generator().manual_seed(derived_seed(seed, "draw"))
        order = torch.randperm(self.mappings.shape[2], generator=generator)
        chosen = order[: self.mappings_per_step].to(self.mappings.device, non_blocking=True)
        return self._made_by(self.mappings[:, :, chosen])

    def _made_by(self, mappings: Tensor) -> Synthetic:
        banks, classes, each, kept = mappings.shape
        bases = self.bases.unflatten(0, (banks, kept))
        x = torch.einsum("bcmk,bk...->bcm...", mappings, bases).flatten(0, 2)
        x = enlarged(x, self.counts["downscale"])
        labels, groups = (t.to(x.device, non_blocking=True) for t in self._labels_and_groups(banks, classes, each))
        soft_labels = self.relations.softmax(1)[labels] if self.softness else None
        return Synthetic(x, labels, groups, soft_labels)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return bases, mappings and soft labels with their learning rates; see ``Scheme.parameter_groups``."""
        rates = {"bases": None, "mappings": self.mapping_lr, "relations": self.label_lr}
        groups: list[dict[str, Any]] = []
        for name, rate in rates.items():
            parameter: Tensor = getattr(self, name)
            if parameter.requires_grad:
                groups.append({"params": [parameter], **({} if rate is None else {"lr": rate})})
        if self.relations.requires_grad:  # weight decay, meant for images, would make all classes equal
            groups[-1]["weight_decay"] = 0.0
        return groups

    def arguments(self) -> dict[str, Any]:
        """See ``Scheme.arguments``."""
        return {**self.counts, "softness": self.softness}

    def proxy_shape(self) -> tuple[int, int, int, int]:
        """See ``Scheme.proxy_shape``."""
        bases, channels, low, narrow = self.bases.shape
        banks, classes, each, kept = self.mappings.shape
        if bases != banks * kept or self.relations.shape != (classes, classes) or not classes:
            raise ValueError(
                f"bases has shape {tuple(self.bases.shape)}, mappings {tuple(self.mappings.shape)} and relations "
                f"{tuple(self.relations.shape)}; expected (k, ...), (banks, classes, mappings, k / banks) and "
                "(classes, classes)"
            )
        downscale = self.counts["downscale"]
        return banks * classes * each, channels, low * downscale, narrow * downscale
