"""Operations that the edges of cells may take, and how a space is given its operations."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import nn

from lightning_nas.architecture import frozen
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.operation_modules import (
    DilConv,
    FactorizedReduce,
    Noise,
    ReLUConvBN,
    SepConv,
    Zero,
    average_pool,
    max_pool,
)
from lightning_nas.spaces.rebuildable import PlainForm, Rebuildable, from_plain, to_plain


class Operation(Rebuildable, ABC):
    """An operation that an edge of a cell may take.

    Write your own as a subclass in any module that can be imported, and give an object of it to a space:

    - It is searched with the module that it makes. The fused supernets of ``DARTSSpace`` and ``NASBench201Space``
      compute only the operations that they were written for; with any other, the space builds a ``PerEdgeSupernet``.
    - The constructor arguments are JSON values (numbers, text, booleans, null and lists of them), and each is kept as
      the attribute of the same name. Artifacts store the class path and these arguments. To read an artifact, the
      class must have been imported.
    - If found networks shall be exported as one plain Python file, the module that defines the class imports nothing
      but torch, the standard library and modules that do the same.

    Example:
        ```python
        class SqueezeExcite(Operation):
            name = "squeeze_excite"

            def __init__(self, ratio: int = 4) -> None:
                self.ratio = ratio

            def module(self, channels: int, stride: int, affine: bool) -> nn.Module:
                return MySqueezeExcite(channels, self.ratio, stride)
        ```

        ```yaml
        space:
          class_path: DARTSSpace
          init_args:
            operations:
              - none
              - skip_connect
              - sep_conv_3x3
              - class_path: my_operations.SqueezeExcite
                init_args: {ratio: 2}
        ```

    Attributes:
        name: One word that names the operation in texts, drawings and restrictions of a space.
        is_none: Whether the output is always zero, which means that there is no connection.
        is_skip: Whether an edge of stride 1 passes its input unchanged.
        is_random: Whether the forward pass draws random numbers. Such an operation cannot be computed a second time
            with the same result, as checkpointing and second-order gradients would.
    """

    name: str
    is_none: bool = False
    is_skip: bool = False
    is_random: bool = False

    @abstractmethod
    def module(self, channels: int, stride: int, affine: bool) -> nn.Module:
        """Build the module of the operation in the network of an architecture.

        Args:
            channels: Channels of the input ``(batch, channels, height, width)`` and of the output.
            stride: 1 keeps height and width; 2 halves them, rounding up.
            affine: Whether batch norms have affine parameters.
        """

    def search_module(self, channels: int, stride: int) -> nn.Module:
        """Build the module of the operation in a supernet.

        By default it is ``module`` without affine parameters in its batch norms. A supernet weights the outputs of
        operations, so that the scale of an output should be fixed: a batch norm as the last layer does that.

        Args:
            channels: See ``module``.
            stride: See ``module``.
        """
        return self.module(channels, stride, False)

    @cached_property
    def has_weights(self) -> bool:
        """Whether the operation has trained parameters where it keeps height and width."""
        return self.parameter_count > 0

    @cached_property
    def parameter_count(self) -> int:
        """Number of trained parameters for 16 channels, where the operation keeps height and width."""
        with torch.device("meta"):  # so that no weights are drawn from the global generator
            return sum(p.numel() for p in self.module(16, 1, True).parameters())


class NoConnection(Operation):
    """The operation ``none``: zeros."""

    name = "none"
    is_none = True

    def module(self, channels: int, stride: int, affine: bool) -> nn.Module:
        """See ``Operation.module``."""
        return Zero(stride)


class SkipConnection(Operation):
    """The operation ``skip_connect``: the identity, or a factorized reduction where the stride is 2."""

    name = "skip_connect"
    is_skip = True

    def module(self, channels: int, stride: int, affine: bool) -> nn.Module:
        """See ``Operation.module``."""
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


class MaxPooling(Operation):
    """The operation ``max_pool_3x3``; in a supernet a batch norm follows, as in the public DARTS code."""

    name = "max_pool_3x3"

    def module(self, channels: int, stride: int, affine: bool) -> nn.Module:
        """See ``Operation.module``."""
        return max_pool(stride)

    def search_module(self, channels: int, stride: int) -> nn.Module:
        """See ``Operation.search_module``."""
        return nn.Sequential(max_pool(stride), nn.BatchNorm2d(channels, affine=False))


class AveragePooling(Operation):
    """The operation ``avg_pool_3x3``, whose means leave the padding out.

    Args:
        normalize: Whether a batch norm follows in a supernet: true in the public DARTS code, false in that of
            NAS-Bench-201.
    """

    name = "avg_pool_3x3"

    def __init__(self, normalize: bool = True) -> None:
        self.normalize = normalize

    def module(self, channels: int, stride: int, affine: bool) -> nn.Module:
        """See ``Operation.module``."""
        return average_pool(stride)

    def search_module(self, channels: int, stride: int) -> nn.Module:
        """See ``Operation.search_module``."""
        if not self.normalize:
            return average_pool(stride)
        return nn.Sequential(average_pool(stride), nn.BatchNorm2d(channels, affine=False))


class Convolution(Operation):
    """The operations ``nor_conv_1x1`` and ``nor_conv_3x3`` of NAS-Bench-201: ReLU, convolution, batch norm.

    Args:
        kernel: Side of the kernel, odd.

    Raises:
        ConfigError: ``kernel`` is not a positive odd integer.
    """

    def __init__(self, kernel: int = 3) -> None:
        self.kernel = _odd(kernel)
        self.name = f"nor_conv_{kernel}x{kernel}"

    def module(self, channels: int, stride: int, affine: bool) -> nn.Module:
        """See ``Operation.module``."""
        return ReLUConvBN(channels, channels, self.kernel, stride, self.kernel // 2, affine)


class SeparableConvolution(Operation):
    """The operations ``sep_conv_3x3`` and ``sep_conv_5x5``: a depthwise and a pointwise convolution, applied twice.

    Args:
        kernel: Side of the depthwise kernels, odd.

    Raises:
        ConfigError: ``kernel`` is not a positive odd integer.
    """

    def __init__(self, kernel: int = 3) -> None:
        self.kernel = _odd(kernel)
        self.name = f"sep_conv_{kernel}x{kernel}"

    def module(self, channels: int, stride: int, affine: bool) -> nn.Module:
        """See ``Operation.module``."""
        return SepConv(channels, self.kernel, stride, affine)


class DilatedConvolution(Operation):
    """The operations ``dil_conv_3x3`` and ``dil_conv_5x5``: a dilated depthwise and a pointwise convolution, once.

    Args:
        kernel: Side of the depthwise kernel, odd; the dilation is 2.

    Raises:
        ConfigError: ``kernel`` is not a positive odd integer.
    """

    def __init__(self, kernel: int = 3) -> None:
        self.kernel = _odd(kernel)
        self.name = f"dil_conv_{kernel}x{kernel}"

    def module(self, channels: int, stride: int, affine: bool) -> nn.Module:
        """See ``Operation.module``."""
        return DilConv(channels, self.kernel, stride, affine=affine)


class GaussianNoise(Operation):
    """The operation ``noise``: standard normal noise of the output's size, which ignores the input.

    A reliable search never chooses it, which makes it a test of searches. In the fused supernet of ``DARTSSpace``, all
    edges that leave a state share the same noise; elsewhere every edge draws its own.

    References:
        1. Zela, Elsken, Saikia, Marrakchi, Brox, Hutter: Understanding and Robustifying Differentiable Architecture
           Search, ICLR 2020, https://arxiv.org/abs/1909.09656
    """

    name = "noise"
    is_random = True

    def module(self, channels: int, stride: int, affine: bool) -> nn.Module:
        """See ``Operation.module``."""
        return Noise(stride)


def _odd(kernel: int) -> int:
    if type(kernel) is not int or kernel < 1 or kernel % 2 == 0:
        raise ConfigError(f"kernel is {kernel!r:.50}; it must be a positive odd integer.")
    return kernel


DARTS_OPERATIONS: tuple[Operation, ...] = (
    NoConnection(),
    MaxPooling(),
    AveragePooling(),
    SkipConnection(),
    SeparableConvolution(3),
    SeparableConvolution(5),
    DilatedConvolution(3),
    DilatedConvolution(5),
)
"""The operations of the DARTS paper, in the published order."""

BUILT_IN: tuple[Operation, ...] = (*DARTS_OPERATIONS, GaussianNoise())
"""All operations that the fused supernet of ``DARTSSpace`` computes."""

NASBENCH201_OPERATIONS: tuple[Operation, ...] = (
    NoConnection(),
    SkipConnection(),
    Convolution(1),
    Convolution(3),
    AveragePooling(normalize=False),
)
"""The operations of NAS-Bench-201, in the published order."""

OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in DARTS_OPERATIONS}
"""The operations of the DARTS paper by name."""

ALL_OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in BUILT_IN}
"""The operations that ``DARTSSpace`` knows by name. Others are given to it as objects."""


def find_operations(
    given: Sequence[str | Operation | PlainForm], known: Mapping[str, Operation]
) -> tuple[Operation, ...]:
    """Look up the operations of a space.

    Args:
        given: The operations: names, objects, or the forms in which artifacts store objects.
        known: The operations that the space knows by name.

    Raises:
        ConfigError: A name is unknown, a value is not an operation, or two operations have the same name.
    """
    found = [_operation(value, known) for value in given]
    names = [operation.name for operation in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not found:
        what = f"{twice} occur more than once" if twice else "the list is empty"
        raise ConfigError(f"operations are {names!s:.300}: {what}. Give each operation once.")
    return tuple(found)


def _operation(value: str | Operation | PlainForm, known: Mapping[str, Operation]) -> Operation:
    if isinstance(value, str):
        if value not in known:
            raise ConfigError(
                f"operations contain {value!r:.100}, which is unknown; known by name are {list(known)}. Give an "
                "operation of your own as an object of a subclass of Operation: 'class_path: my_module.MyOperation'."
            )
        value = known[value]
    made = from_plain(value, Operation, "operations") if isinstance(value, (list, tuple)) else value
    if not isinstance(made, Operation):
        raise ConfigError(
            f"operations contain {made!r:.100}, which is not an Operation. Write a subclass of Operation whose method "
            "'module' makes the module, and give an object of it."
        )
    if not isinstance(getattr(made, "name", None), str) or len(made.name.split()) != 1:
        raise ConfigError(
            f"The name of {type(made).__name__} is {getattr(made, 'name', None)!r:.100}; it must be one word."
        )
    return made


def operation_argument(operations: Sequence[Operation], known: Sequence[Operation]) -> tuple[str | PlainForm, ...]:
    """Return operations as the argument of a space that artifacts store, with lists as tuples.

    Args:
        operations: The operations.
        known: The operations that the space knows by name; others are stored with class and arguments.

    Raises:
        ConfigError: An operation has arguments that are not JSON values.
    """
    return tuple(frozen(operation.name if operation in known else to_plain(operation)) for operation in operations)
