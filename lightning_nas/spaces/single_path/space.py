"""The single-path space of SPOS: a chain of blocks, each of one of several kinds."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lightning_nas.architecture import Architecture, SpaceSpec
from lightning_nas.checks import within
from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.files.classes import class_path
from lightning_nas.spaces.base import SupernetSpace
from lightning_nas.spaces.graph import Graph
from lightning_nas.spaces.rebuildable import PlainForm, from_plain, to_plain
from lightning_nas.spaces.single_path.blocks import (
    ChoiceBlock,
    ShuffleBlock,
    SinglePathNetwork,
    XceptionBlock,
    block_sizes,
    convolution,
)

MAX_BLOCKS = 256
"""Largest number of blocks of a chain."""


class SinglePathSupernet(nn.Module):
    """All blocks at all positions of a chain; a forward pass computes one block per position.

    Args:
        choices: The blocks.
        allowed: For every position, the indices of the blocks that it may take; only these have weights.
        num_classes: Number of classes.
        channels_in: Channels of an image.
        widths: Channels of each stage.
        depths: Number of blocks of each stage.
        strides: Stride of the first block of each stage.
        stem: Channels of the first convolution.
        stem_stride: Stride of the first convolution.
        last: Channels of the 1x1 convolution after the blocks.
        dropout: Probability of dropout before the classifier.
        affine: Whether batch norms have affine parameters.
    """

    def __init__(
        self,
        choices: Sequence[ChoiceBlock],
        allowed: Sequence[Sequence[int]],
        num_classes: int,
        channels_in: int,
        widths: Sequence[int],
        depths: Sequence[int],
        strides: Sequence[int],
        stem: int,
        stem_stride: int,
        last: int,
        dropout: float,
        affine: bool,
    ) -> None:
        super().__init__()
        self.stem = convolution(channels_in, stem, 3, stem_stride)
        sizes = block_sizes(stem, widths, depths, strides)
        # named by the index in the whole space, so that supernets of a space and of its restrictions share names
        self.blocks = nn.ModuleList(
            nn.ModuleDict({str(choice): choices[choice].module(*size) for choice in row})
            for row, size in zip(allowed, sizes, strict=True)
        )
        self.last = convolution(widths[-1], last)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(last, num_classes, bias=False)
        if not affine:
            for norm in self.modules():
                if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                    norm.affine, norm.weight, norm.bias = False, None, None  # type: ignore[assignment]  # as torch does

    def forward(self, x: Tensor, path: Sequence[int]) -> Tensor:
        """Map images ``(batch, channels_in, height, width)`` to logits ``(batch, classes)``.

        Args:
            x: Normalized images.
            path: Index of the block at every position, as in the choices of an architecture.
        """
        x = self.stem(x)
        for blocks, choice in zip(self.blocks.children(), path, strict=True):
            x = blocks.get_submodule(str(choice))(x)
        logits: Tensor = self.classifier(self.dropout(self.last(x).mean((2, 3))))
        return logits


class SinglePathSpace(SupernetSpace):
    """The space of SPOS: a chain of positions in stages, each of which takes one of several blocks.

    A network consists of a 3x3 convolution, the blocks, a 1x1 convolution, average pooling and a classifier. By default
    there are 20 positions and four blocks of the ShuffleNetV2 kind, which gives 4^20 networks for images of 224x224
    pixels. For small images choose smaller sizes, such as those of the example.

    Choices of an architecture: the index into ``choices`` of the block at every position. The arguments from ``widths``
    to ``stem_stride`` are part of the identity of the space, and artifacts store them.

    References:
        1. Guo, Zhang, Mu, Heng, Liu, Wei, Sun: Single Path One-Shot Neural Architecture Search with Uniform Sampling,
           ECCV 2020, https://arxiv.org/abs/1904.00420

    Example:
        ```yaml
        space:
          class_path: SinglePathSpace
          init_args: {widths: [16, 32], depths: [2, 2], strides: [1, 2], stem_stride: 1}
        ```

    Args:
        widths: Channels of each stage.
        depths: Number of positions of each stage.
        choices: The blocks, at least two; by default those of the paper: ``ShuffleBlock`` with kernels of 3, 5 and 7,
            and ``XceptionBlock``.
        strides: Stride of the first block of each stage, by default 2; the others have stride 1.
        stem: Channels of the first convolution.
        last: Channels of the last convolution.
        stem_stride: Stride of the first convolution.
        allowed: For every position, the names of the blocks that it may take; by default all of ``choices``.
        affine: Whether batch norms of the supernet have affine parameters (the paper: false). Those of networks always
            have.
        dropout: Probability of dropout before the classifier of the supernet (the paper: 0.1).

    Raises:
        ConfigError: There are fewer than two blocks or two of the same name, a number or the length of a list is wrong,
            a block cannot have the widths, or ``allowed`` leaves a position without blocks.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 160, 320, 640),
        *,
        depths: Sequence[int] = (4, 4, 8, 4),
        choices: Sequence[ChoiceBlock] | None = None,
        strides: Sequence[int] | None = None,
        stem: int = 16,
        last: int = 1024,
        stem_stride: int = 2,
        allowed: Sequence[Sequence[str]] | None = None,
        affine: bool = False,
        dropout: float = 0.1,
    ) -> None:
        stages = len(widths)
        self.sizes: dict[str, Any] = {
            "widths": list(widths),
            "depths": list(depths),
            "strides": [2] * stages if strides is None else list(strides),
            "stem": stem,
            "stem_stride": stem_stride,
            "last": last,
        }
        for name, value in self.sizes.items():
            values = value if isinstance(value, list) else [value] * stages
            if not values or len(values) != stages or any(type(each) is not int or each < 1 for each in values):
                raise ConfigError(
                    f"{name} is {value!s:.200}; it must be made of positive integers, one per stage in widths, depths "
                    f"and strides. There are {stages} widths."
                )
        if sum(depths) > MAX_BLOCKS:
            raise ConfigError(f"depths make {sum(depths)} positions; a chain has at most {MAX_BLOCKS}.")
        within("[0, 1)", dropout=dropout)
        self.choices = _find_blocks(choices)
        self.names = [block.name for block in self.choices]
        self.affine = affine
        self.dropout = dropout
        plain = {**self.sizes, "choices": [to_plain(block) for block in self.choices]}
        self._spec = SpaceSpec(class_path(SinglePathSpace), tuple(plain.items()))
        self._positions = block_sizes(
            self.sizes["stem"], *(self.sizes[name] for name in ("widths", "depths", "strides"))
        )
        self._counts = self._parameters()
        self.allowed = self._indices(allowed)

    def _parameters(self) -> list[list[int]]:
        """Number of parameters of every block at every position.

        Raises:
            ConfigError: A block cannot have the widths.
        """
        counts = {}
        for size in set(self._positions):
            for block in self.choices:
                try:
                    with torch.device("meta"):
                        counts[size, block] = sum(p.numel() for p in block.module(*size).parameters())
                except (ConfigError, ValueError, RuntimeError) as error:
                    raise ConfigError(f"{block!r} does not fit the stem and widths: {error}") from None
        return [[counts[size, block] for block in self.choices] for size in self._positions]

    def _indices(self, allowed: Sequence[Sequence[str]] | None) -> list[list[int]]:
        """The indices of the blocks that every position may take."""
        rows = [self.names] * len(self._positions) if allowed is None else allowed
        unknown = sorted({name for row in rows for name in row} - set(self.names))
        if unknown:
            raise ConfigError(f"allowed names {unknown}; the blocks are {self.names}.")
        if len(rows) != len(self._positions):
            raise ConfigError(
                f"allowed has {len(rows)} lists; it must have {len(self._positions)}, one per position of the chain."
            )
        if not all(rows):
            raise ConfigError(
                f"allowed has {sum(not row for row in rows)} empty lists; every position needs at least one of "
                f"{self.names}."
            )
        return [[i for i, name in enumerate(self.names) if name in row] for row in rows]

    def restrict(self, allowed: Sequence[Sequence[str]]) -> "SinglePathSpace":
        """Return the part of this space in which every position may take only some blocks.

        The supernet of the part has no weights of the others, and names its weights as that of this space. The
        architectures of both spaces are interchangeable.

        Args:
            allowed: Names of blocks, one list per position; it can only remove blocks.

        Raises:
            ConfigError: A position or name is wrong, a block was not allowed before, or a position is left without
                blocks.
        """
        added = [
            (position, self.names[i])
            for position, (new, old) in enumerate(zip(self._indices(allowed), self.allowed, strict=True))
            for i in new
            if i not in old
        ]
        if added:
            raise ConfigError(
                f"allowed has (position, block) {added[:3]}, which this space does not allow; restrict can only remove "
                "blocks. Start from the wider space."
            )
        return SinglePathSpace(
            **self.sizes, choices=self.choices, allowed=allowed, affine=self.affine, dropout=self.dropout
        )

    def spec(self) -> SpaceSpec:
        """Return all sizes, and the blocks with their arguments."""
        return self._spec

    def arguments(self) -> dict[str, Any]:
        """See ``SupernetSpace.arguments``."""
        allowed = [[self.names[i] for i in row] for row in self.allowed]
        return {**super().arguments(), "allowed": allowed, "affine": self.affine, "dropout": self.dropout}

    @property
    def num_values(self) -> tuple[int, ...]:
        """Number of blocks, for every position; that of the whole space, also where only some are allowed."""
        return (len(self.choices),) * len(self._positions)

    def check(self, architecture: Architecture) -> None:
        """See ``SearchSpace.check``."""
        self.check_spec(architecture)
        if len(architecture.choices) != len(self._positions):
            raise ArchitectureError(
                f"{len(architecture.choices)} choices; a chain has {len(self._positions)}, one per position."
            )
        for position, (choice, row) in enumerate(zip(architecture.choices, self.allowed, strict=True)):
            if choice not in row:
                raise ArchitectureError(
                    f"Position {position} has block {choice}; it takes one of {row}, indices into {self.names}."
                )

    def sample(self, generator: torch.Generator) -> Architecture:
        """Draw one block per position, uniformly from all that are allowed.

        Args:
            generator: Source of randomness, on the CPU.
        """
        return self.architecture([row[int(torch.randint(len(row), (1,), generator=generator))] for row in self.allowed])

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """Yield all architectures with one other block.

        Args:
            architecture: A point of this space.
        """
        self.check(architecture)
        choices = architecture.choices
        for position, row in enumerate(self.allowed):
            for choice in row:
                if choice != choices[position]:
                    yield self.architecture((*choices[:position], choice, *choices[position + 1 :]))

    def largest(self) -> Architecture:
        """Return the architecture that has the block with the most parameters at every position."""
        pairs = zip(self._counts, self.allowed, strict=True)
        return self.architecture([max(row, key=counts.__getitem__) for counts, row in pairs])

    def parameter_count(self, architecture: Architecture) -> int:
        """Return the number of parameters of the blocks."""
        self.check(architecture)
        return sum(counts[choice] for counts, choice in zip(self._counts, architecture.choices, strict=True))

    def _check_images(self, image_shape: Sequence[int]) -> None:
        _, height, width = image_shape
        least = prod([self.sizes["stem_stride"], *self.sizes["strides"]])
        if min(height, width) < least:
            raise DataError(
                f"Images of {height}x{width} pixels are too small: stem_stride {self.sizes['stem_stride']} and strides "
                f"{self.sizes['strides']} need at least {least}x{least}. Use a space with smaller strides, or larger "
                "images."
            )

    def network(
        self,
        architecture: Architecture,
        *,
        num_classes: int,
        image_shape: Sequence[int],
        channels: int | None = None,
        cells: int | None = None,
        auxiliary: bool = False,
        dropout: float = 0.0,
    ) -> SinglePathNetwork:
        """Build the ordinary network of an architecture; see ``SearchSpace.network``.

        Its widths and depths are those of the space: they are part of what an architecture is.

        Args:
            architecture: A point of this space.
            num_classes: Number of classes.
            image_shape: Shape of an image, ``(channels, height, width)``.
            channels: Ignored: ``stem`` and ``widths`` of the space decide.
            cells: Ignored: ``depths`` of the space decide.
            auxiliary: Must be False: the published network has no auxiliary classifier.
            dropout: Probability of dropout before the classifier (the paper: 0.1). It is off by default, because it
                draws random numbers wherever a network is in training mode, even where a network is only scored with
                the statistics of a batch.

        Raises:
            ArchitectureError: The architecture belongs to another space.
            ConfigError: An auxiliary classifier is requested.
            DataError: The images are too small.
        """
        self.check(architecture)
        if auxiliary:
            raise ConfigError(
                "The networks of single-path spaces have no auxiliary classifier; train them with auxiliary_weight 0."
            )
        self._check_images(image_shape)
        blocks = [self.choices[choice] for choice in architecture.choices]
        return SinglePathNetwork(blocks, num_classes, image_shape[0], **self.sizes, dropout=dropout)

    def supernet(self, *, num_classes: int, image_shape: Sequence[int]) -> SinglePathSupernet:
        """See ``SupernetSpace.supernet``."""
        self._check_images(image_shape)
        return SinglePathSupernet(
            self.choices,
            self.allowed,
            num_classes,
            image_shape[0],
            **self.sizes,
            dropout=self.dropout,
            affine=self.affine,
        )

    def to_path(self, architecture: Architecture) -> tuple[int, ...]:
        """Return the index of the block at every position.

        Args:
            architecture: A point of this space.
        """
        self.check(architecture)
        return architecture.choices

    def _stages(self, architecture: Architecture) -> list[list[str]]:
        """Names of the blocks, one list per stage."""
        self.check(architecture)
        names = iter([self.names[choice] for choice in architecture.choices])
        return [[next(names) for _ in range(depth)] for depth in self.sizes["depths"]]

    def graphs(self, architecture: Architecture) -> list[Graph]:
        """Return the stages as chains for drawing.

        Args:
            architecture: A point of this space.
        """
        counts = iter([self._counts[position][choice] for position, choice in enumerate(architecture.choices)])
        graphs = []
        for i, names in enumerate(self._stages(architecture), 1):
            nodes = ("in", *map(str, range(1, len(names))), "out")
            edges = tuple((n, n + 1, name) for n, name in enumerate(names))
            graphs.append(Graph(f"stage {i}", nodes, edges, frozenset(name for name in names if next(counts))))
        return graphs

    def text(self, architecture: Architecture) -> str:
        """Return the names of the blocks, with a bar between stages: ``shuffle3 xception | shuffle7 shuffle3``.

        Args:
            architecture: A point of this space.
        """
        return " | ".join(" ".join(names) for names in self._stages(architecture))

    def parse(self, text: str) -> Architecture:
        """Read what ``text`` wrote, with or without the bars.

        Args:
            text: Names such as ``shuffle3 xception | shuffle7 shuffle3``.

        Raises:
            ArchitectureError: The text is not an architecture of this space.
        """
        words = text.replace("|", " ").split()
        unknown = [word for word in words if word not in self.names]
        if unknown or len(words) != len(self._positions):
            raise ArchitectureError(
                f"Received {len(words)} blocks, {unknown[:3] or 'none'} of them unknown, in {text[:200]!r}; expected "
                f"are {len(self._positions)} of {self.names}, separated by spaces."
            )
        return self.architecture([self.names.index(word) for word in words])


def _find_blocks(given: Sequence[ChoiceBlock | PlainForm] | None) -> list[ChoiceBlock]:
    """The blocks of a space, which artifacts give in their plain form.

    Raises:
        ConfigError: A value is not a block, there are fewer than two, or two have the same name.
    """
    if given is None:
        return [ShuffleBlock(3), ShuffleBlock(5), ShuffleBlock(7), XceptionBlock()]
    blocks = [b if isinstance(b, ChoiceBlock) else from_plain(b, ChoiceBlock, "choices") for b in given]
    names = [block.name for block in blocks]
    wrong = [name for name in names if len(name.split()) != 1 or name == "|" or names.count(name) > 1]
    if wrong or len(names) < 2:
        raise ConfigError(
            f"choices are {names!s:.300}; a space needs at least two blocks, whose names are different single words."
        )
    return blocks
