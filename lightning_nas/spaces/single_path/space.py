"""The single-path space of SPOS (Guo et al., 2020): a chain of blocks, each of several kinds."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lightning_nas.architecture import Architecture, SpaceSpec
from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.files.classes import class_path, find_class
from lightning_nas.spaces.base import Graph, SupernetSpace
from lightning_nas.spaces.single_path.blocks import (
    ChoiceBlock,
    ShuffleBlock,
    SinglePathNetwork,
    XceptionBlock,
    block_sizes,
    convolution,
)

MOST_BLOCKS = 256
"""Blocks of a chain."""

PlainBlock = Sequence[Any]
"""A block as an artifact holds it: its class path, and its constructor arguments as ``(name, value)`` pairs."""


class SinglePathSupernet(nn.Module):
    """All blocks of all places of a chain; a forward pass computes one block of each.

    Args:
        choices: The blocks that there are.
        allowed: For every place the indices of the blocks that it may take; there are weights of these alone.
        num_classes: Width of the classifier.
        channels_in: Channels of an image.
        widths: Channels of every stage.
        depths: Blocks of every stage.
        strides: Of the first block of every stage.
        stem: Channels of the first convolution.
        stem_stride: Its stride.
        last: Channels of the 1x1 convolution behind the blocks.
        dropout: Probability with which its outputs are dropped before the classifier.
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
        # named by the index in the whole space, so that supernets of its parts share names
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
            x: Normalised images.
            path: Which block every place takes, as in an architecture's choices.
        """
        x = self.stem(x)
        for blocks, choice in zip(self.blocks.children(), path, strict=True):
            x = blocks.get_submodule(str(choice))(x)
        logits: Tensor = self.classifier(self.dropout(self.last(x).mean((2, 3))))
        return logits


class SinglePathSpace(SupernetSpace):
    """The space of SPOS: a chain of places in stages, each of which takes one of some blocks.

    A network is a 3x3 convolution, the blocks, a 1x1 convolution, average pooling and a classifier. By default there
    are 20 places and four blocks of the ShuffleNetV2 kind, 4^20 networks for images of 224x224 pixels. For small images
    choose smaller sizes, such as ``widths`` 16 and 32, ``depths`` 2 and 2, ``strides`` 1 and 2, ``stem_stride`` 1.

    Choices of an architecture: the index into ``choices`` of the block at every place. All arguments down to
    ``stem_stride`` are part of what an architecture is, and artifacts hold them.

    References:
        1. Guo, Zhang, Mu, Heng, Liu, Wei, Sun: Single Path One-Shot Neural Architecture Search with Uniform Sampling,
           ECCV 2020, https://arxiv.org/abs/1904.00420

    Args:
        widths: Channels of every stage.
        depths: Places of every stage.
        choices: The blocks, at least two; by default those of the paper: ``ShuffleBlock`` with the kernels 3, 5 and 7,
            and ``XceptionBlock``. Artifacts give them as ``PlainBlock``.
        strides: Of the first block of every stage, by default 2; the others have stride 1.
        stem: Channels of the first convolution.
        last: Channels of the last convolution.
        stem_stride: Stride of the first convolution.
        allowed: For every place the names of the blocks that it may take; by default all of ``choices``.
        affine: Whether the supernet's batch norms have affine parameters (the paper: false); networks' always have.
        dropout: Probability of dropout before the supernet's classifier (the paper: 0.1).

    Raises:
        ConfigError: There are fewer than two blocks or two of one name, a number or its count is wrong, a block cannot
            have the widths, or ``allowed`` leaves a place without blocks.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 160, 320, 640),
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
                    f"{name} is {value!s:.200}; expected are integers from 1 on, and equally many widths, depths and "
                    f"strides: there are {stages} widths."
                )
        if not 0 < sum(depths) <= MOST_BLOCKS or not 0 <= dropout < 1:
            raise ConfigError(
                f"depths make {sum(depths)} places, and dropout is {dropout}; expected are 1 to {MOST_BLOCKS}, and a "
                "probability below 1."
            )
        given = [ShuffleBlock(3), ShuffleBlock(5), ShuffleBlock(7), XceptionBlock()] if choices is None else choices
        self.choices = [block if isinstance(block, ChoiceBlock) else _made(block) for block in given]
        self.names = [block.name for block in self.choices]
        wrong = [name for name in self.names if len(name.split()) != 1 or name == "|" or self.names.count(name) > 1]
        if wrong or len(self.names) < 2:
            raise ConfigError(
                f"choices are {self.names!s:.300}; expected are at least two blocks, each with another name, which is "
                "one word. Give others."
            )
        self.affine = affine
        self.dropout = dropout
        plain = {**self.sizes, "choices": [_plain(block) for block in self.choices]}
        arguments = tuple(sorted((name, _frozen(value)) for name, value in plain.items()))
        self._spec = SpaceSpec("lightning_nas.spaces.SinglePathSpace", arguments)
        self._places = block_sizes(self.sizes["stem"], *(self.sizes[name] for name in ("widths", "depths", "strides")))
        self._counts = self._parameters()
        self.allowed = self._indices(allowed)

    def _parameters(self) -> list[list[int]]:
        """Parameters of every block, a list a place.

        Raises:
            ConfigError: A block cannot have the widths.
        """
        counts = {}
        for size in set(self._places):
            for block in self.choices:
                try:
                    with torch.device("meta"):
                        counts[size, block] = sum(p.numel() for p in block.module(*size).parameters())
                except (ConfigError, ValueError, RuntimeError) as error:
                    raise ConfigError(f"{block!r} does not fit the stem and widths: {error}") from None
        return [[counts[size, block] for block in self.choices] for size in self._places]

    def _indices(self, allowed: Sequence[Sequence[str]] | None) -> list[list[int]]:
        """The indices of the blocks that every place may take."""
        rows = [self.names] * len(self._places) if allowed is None else allowed
        unknown = sorted({name for row in rows for name in row} - set(self.names))
        if len(rows) != len(self._places) or unknown or not all(rows):
            raise ConfigError(
                f"allowed has {len(rows)} lists, {sum(not row for row in rows)} of them empty, and names "
                f"{unknown or 'known blocks'}; expected are {len(self._places)} lists, one a place, of at least one of "
                f"{self.names}."
            )
        return [[i for i, name in enumerate(self.names) if name in row] for row in rows]

    def restrict(self, allowed: Sequence[Sequence[str]]) -> "SinglePathSpace":
        """The part of this space in which every place takes one of some blocks.

        Its supernet has no weights of the others; those that it has are named as here. Architectures of both are
        interchangeable.

        Args:
            allowed: Names of blocks, a list a place; it may only take away.

        Raises:
            ConfigError: A place or name is wrong, a block was not allowed before, or a place is left without blocks.
        """
        added = [
            (place, self.names[i])
            for place, (new, old) in enumerate(zip(self._indices(allowed), self.allowed, strict=True))
            for i in new
            if i not in old
        ]
        if added:
            raise ConfigError(
                f"allowed has (place, block) {added[:3]}, which this space does not allow; restrict only takes away. "
                "Start from the wider space."
            )
        return SinglePathSpace(
            **self.sizes, choices=self.choices, allowed=allowed, affine=self.affine, dropout=self.dropout
        )

    def spec(self) -> SpaceSpec:
        """The blocks with their arguments, and all sizes."""
        return self._spec

    def arguments(self) -> dict[str, Any]:
        """See ``SupernetSpace.arguments``."""
        allowed = [[self.names[i] for i in row] for row in self.allowed]
        return {**super().arguments(), "allowed": allowed, "affine": self.affine, "dropout": self.dropout}

    @property
    def num_values(self) -> tuple[int, ...]:
        """A block a place; of the whole space, also where only some are allowed."""
        return (len(self.choices),) * len(self._places)

    def check(self, architecture: Architecture) -> None:
        """Raise ``ArchitectureError`` unless the architecture is a point of this space."""
        self.check_spec(architecture)
        if len(architecture.choices) != len(self._places):
            raise ArchitectureError(
                f"{len(architecture.choices)} choices; a chain takes {len(self._places)}, one a place."
            )
        for place, (choice, row) in enumerate(zip(architecture.choices, self.allowed, strict=True)):
            if choice not in row:
                raise ArchitectureError(
                    f"Place {place} has block {choice}; it takes one of {row}, indices into {self.names}."
                )

    def sample(self, generator: torch.Generator) -> Architecture:
        """Draw a block a place, uniformly over all that are allowed."""
        return self.architecture([row[int(torch.randint(len(row), (1,), generator=generator))] for row in self.allowed])

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """All architectures with one other block."""
        self.check(architecture)
        choices = architecture.choices
        for place, row in enumerate(self.allowed):
            for choice in row:
                if choice != choices[place]:
                    yield self.architecture((*choices[:place], choice, *choices[place + 1 :]))

    def largest(self) -> Architecture:
        """The block with most parameters at every place."""
        pairs = zip(self._counts, self.allowed, strict=True)
        return self.architecture([max(row, key=counts.__getitem__) for counts, row in pairs])

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

        Its widths and depths are the space's: they are part of what the architecture is.

        Args:
            architecture: A point of this space.
            num_classes: Width of the classifier.
            image_shape: ``(channels, height, width)`` of an image.
            channels: Of no effect: ``stem`` and ``widths`` of the space decide.
            cells: Of no effect: ``depths`` of the space decide.
            auxiliary: Must be False: the published network has no auxiliary classifier.
            dropout: Probability of dropout before the classifier (the paper: 0.1). It is off by default, as it draws
                random numbers wherever a network is in training mode, also to be scored by batch statistics.

        Raises:
            ArchitectureError: The architecture is of another space.
            ConfigError: An auxiliary classifier is asked for.
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
        """Build the supernet; see ``SupernetSpace.supernet``."""
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
        """The path: the index of the block at every place."""
        self.check(architecture)
        return architecture.choices

    def _stages(self, architecture: Architecture) -> list[list[str]]:
        """Names of the blocks, a list a stage."""
        self.check(architecture)
        names = iter([self.names[choice] for choice in architecture.choices])
        return [[next(names) for _ in range(depth)] for depth in self.sizes["depths"]]

    def graphs(self, architecture: Architecture) -> list[Graph]:
        """The stages as chains, for drawing."""
        self.check(architecture)
        labels = iter([self._label(place, choice) for place, choice in enumerate(architecture.choices)])
        graphs = []
        for i, names in enumerate(self._stages(architecture), 1):
            nodes = ("in", *map(str, range(1, len(names))), "out")
            graphs.append(Graph(f"stage {i}", nodes, tuple((n, n + 1, next(labels)) for n in range(len(names)))))
        return graphs

    def _label(self, place: int, choice: int) -> str:
        # pictures take what has no 'conv' in its label for an operation without weights
        plain = "conv" in self.names[choice] or not self._counts[place][choice]
        return self.names[choice] if plain else f"{self.names[choice]} conv"

    def text(self, architecture: Architecture) -> str:
        """The names of the blocks, with a bar between stages: ``shuffle3 xception | shuffle7 shuffle3``."""
        return " | ".join(" ".join(names) for names in self._stages(architecture))

    def parse(self, text: str) -> Architecture:
        """Read what ``text`` wrote, with or without the bars.

        Args:
            text: ``shuffle3 xception | shuffle7 shuffle3``.

        Raises:
            ArchitectureError: The text is no architecture of this space.
        """
        words = text.replace("|", " ").split()
        unknown = [word for word in words if word not in self.names]
        if unknown or len(words) != len(self._places):
            raise ArchitectureError(
                f"Received {len(words)} blocks, {unknown[:3] or 'none'} of them unknown, in {text[:200]!r}; expected "
                f"are {len(self._places)} of {self.names}, separated by spaces."
            )
        return self.architecture([self.names.index(word) for word in words])


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, (list, tuple)) else value


def _plain(block: ChoiceBlock) -> PlainBlock:
    """A block as an artifact holds it."""
    found = block.arguments()
    wrong = [name for name, value in found.items() if not _is_plain(value)]
    if wrong:
        raise ConfigError(
            f"The arguments {wrong} of {type(block).__name__} are {[found[name] for name in wrong]!s:.200}; artifacts "
            "hold numbers, text, booleans, null and lists of them. Use such."
        )
    return [class_path(type(block)), sorted([name, v] for name, v in found.items())]


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _made(plain: PlainBlock) -> ChoiceBlock:
    """A block again."""
    try:
        kind, pairs = plain
        made: ChoiceBlock = find_class(kind, ChoiceBlock)(**dict(pairs))
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"choices has {plain!r:.200}, which is no block ({error}); expected are objects of ChoiceBlock classes."
        ) from None
    return made
