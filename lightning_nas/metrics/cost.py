"""Costs of networks: parameters, multiply-accumulates, latency and activation memory."""

import copy
import statistics
import time
import weakref
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least

WARM_UP = 5
"""Number of forward passes before the clock starts: the first ones choose algorithms and allocate memory."""


class Latency(NamedTuple):
    """Milliseconds of a forward pass.

    Attributes:
        median: Median over the passes.
        spread: Interquartile range over the passes.
    """

    median: float
    spread: float


class CostSource(ABC):  # noqa: B024  # it has a default
    """Anything that knows costs of architectures without a query, such as an evaluator.

    Constraints of searches and cost-aware samplers of paths take one.

    Example:
        ```python
        class Depth(CostSource):
            def costs(self, architecture):
                return {"convolutions": float(architecture.choices.count(3))}
        ```
    """

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """The costs of an architecture that are known without a query; none by default.

        Args:
            architecture: The architecture.

        Returns:
            The costs by name; lower is better. A mapping may measure a cost only when its name is looked up, so that
            a cost that is not needed takes no time.
        """
        return {}


def parameters(module: nn.Module) -> int:
    """Number of parameters of a module.

    Shared parameters count once. An auxiliary head counts if the module has one.

    Args:
        module: The module.
    """
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, image_shape: Sequence[int]) -> int:
    """Multiply-accumulates of a forward pass for one image in eval mode.

    Convolutions, linear layers and other matrix products count, as in the papers of the field; biases, normalization,
    pooling and activations do not. Half the floating-point operations that torch's ``FlopCounterMode`` counts. A copy
    of the module is run; the module itself stays unchanged.

    Args:
        module: A module that takes images ``(batch, channels, height, width)``.
        image_shape: Shape of an image, ``(channels, height, width)``.

    Example:
        ```python
        macs(torchvision.models.resnet18(), (3, 224, 224))  # 1_814_073_344
        ```
    """
    shadow, images = _ready(module, image_shape, 1)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        shadow(images)
    return counter.get_total_flops() // 2


def latency(module: nn.Module, image_shape: Sequence[int], batch_size: int = 1, repeats: int = 30) -> Latency:
    """Measure the latency of forward passes in eval mode without gradients, on the module's device.

    Passes run one by one, after some that do not count; on a GPU, each is waited for. The median is robust against
    other work of the machine as long as that does not last; the spread shows it. A copy of the module is run; the
    module itself stays unchanged.

    Args:
        module: A module that takes images ``(batch, channels, height, width)``.
        image_shape: Shape of an image, ``(channels, height, width)``.
        batch_size: Images per pass, at least 1.
        repeats: Number of passes that count, at least 2.

    Raises:
        ConfigError: A number is too small.
    """
    at_least(1, batch_size=batch_size)
    at_least(2, repeats=repeats)
    shadow, images = _ready(module, image_shape, batch_size)
    wait = partial(torch.cuda.synchronize, images.device) if images.device.type == "cuda" else _no_wait
    milliseconds = []
    with torch.no_grad():
        for _ in range(WARM_UP):
            shadow(images)
        for _ in range(repeats):
            wait()
            start = time.perf_counter()
            shadow(images)
            wait()
            milliseconds.append(1000 * (time.perf_counter() - start))
    low, median, high = statistics.quantiles(milliseconds, n=4, method="inclusive")
    return Latency(median, high - low)


def _no_wait() -> None:
    """On a CPU, a result is ready when its call returns."""


def activation_memory(module: nn.Module, image_shape: Sequence[int], batch_size: int = 1) -> int:
    """Peak memory of the activations of a forward pass in eval mode without gradients, in bytes.

    Counted are the images and every tensor that an operation of torch returns, from its call until the last reference
    to it is gone. Views and in-place results share the memory of their source. Weights do not count, nor does memory
    inside an operation, such as the workspace of a convolution. The result is a count, not a measurement: it is the
    same on every machine and device. A copy of the module is run; the module itself stays unchanged.

    Args:
        module: A module that takes images ``(batch, channels, height, width)``.
        image_shape: Shape of an image, ``(channels, height, width)``.
        batch_size: Images of the pass, at least 1.

    Raises:
        ConfigError: ``batch_size`` is less than 1.
    """
    at_least(1, batch_size=batch_size)
    shadow, images = _ready(module, image_shape, batch_size)
    alive = _Alive([*shadow.parameters(), *shadow.buffers()])
    alive.count(images)
    with torch.no_grad(), alive:
        shadow(images)
    return alive.peak


def _ready(module: nn.Module, image_shape: Sequence[int], batch_size: int) -> tuple[nn.Module, Tensor]:
    """A copy in eval mode, and images on its device in its precision."""
    shadow = copy.deepcopy(module).eval()
    like = next(shadow.parameters(), torch.empty(0))
    # pixels of ordinary size: a CPU is slow with denormal numbers
    images = torch.rand(batch_size, *image_shape, generator=torch.Generator().manual_seed(0))
    return shadow, images.to(like.device, like.dtype)


class _Alive(TorchFunctionMode):
    """Counts the bytes of living tensors, and their peak.

    Args:
        owned: Tensors that do not count, such as weights.
    """

    def __init__(self, owned: Sequence[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in owned}
        self.bytes = 0
        self.peak = 0

    def count(self, result: Any) -> None:
        """Count the tensors of a result, unless their memory is counted already, until they are gone."""
        if isinstance(result, (tuple, list)):
            for each in result:
                self.count(each)
        elif isinstance(result, Tensor):
            storage = result.untyped_storage()
            place, size = storage.data_ptr(), storage.nbytes()
            if size and place not in self.known:
                self.known.add(place)
                self.bytes += size
                self.peak = max(self.peak, self.bytes)
                weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.bytes -= size

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count(result)
        return result
