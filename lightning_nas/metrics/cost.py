"""What a network costs: parameters, multiply-accumulates, time and memory."""

import copy
import statistics
import time
import weakref
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError

WARM_UP = 5
"""Forward passes before the clock starts: the first ones choose algorithms and allocate memory."""


class Latency(NamedTuple):
    """Milliseconds of a forward pass.

    Attributes:
        median: Half of the passes took longer.
        spread: The interquartile range: the middle half of the passes lies within it.
    """

    median: float
    spread: float


class CostSource(ABC):  # noqa: B024
    """Anything that knows the costs of architectures, such as an evaluator."""

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """The costs of an architecture, as far as they are known without a query; none by default.

        Args:
            architecture: Any architecture.

        Returns:
            Costs by name, such as latencies and parameters; lower is better. A cost that takes long to measure may be
            measured when its name is looked up, so that nobody pays for a cost that is not asked for.
        """
        return {}


def parameters(module: nn.Module) -> int:
    """Number of parameters, shared ones counted once; an auxiliary head counts where the module has one."""
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, image_shape: Sequence[int]) -> int:
    """Multiply-accumulates of all convolutions and linear layers for one image in eval mode.

    Counted as the field's papers do: biases, normalisation, pooling and activations cost nothing. A copy of
    the module is run for the shapes alone, so the module itself stays as it is.

    Args:
        module: Maps images ``(batch, channels, height, width)`` to anything, with layers of class ``nn.Conv2d`` and
            ``nn.Linear``.
        image_shape: ``(channels, height, width)`` of an image.
    """
    counts: list[int] = []
    shadow = copy.deepcopy(module).float().eval()
    for layer in shadow.modules():
        if isinstance(layer, nn.Conv2d):
            layer.forward = partial(_convolution, layer, counts)  # type: ignore[method-assign]  # of the copy alone
        elif isinstance(layer, nn.Linear):
            layer.forward = partial(_linear, layer, counts)  # type: ignore[method-assign]  # of the copy alone
    device = next((parameter.device for parameter in shadow.parameters()), torch.device("cpu"))
    with torch.no_grad():
        shadow(torch.zeros(1, *image_shape, device=device))
    return sum(counts)


def _convolution(layer: nn.Conv2d, counts: list[int], x: Tensor) -> Tensor:
    """Count a convolution, and return something of its output's shape.

    One channel tells the height and width. The meta device would tell them too, but it loads torch's compiler, which
    takes longer than all of this.
    """
    one = F.conv2d(x[:, :1], layer.weight[:1, :1], None, layer.stride, layer.padding, layer.dilation)
    # a weight is (outputs, inputs / groups, height, width): one output pixel takes all but its first axis
    counts.append(layer.out_channels * one[0].numel() * layer.weight[0].numel())
    return one.expand(-1, layer.out_channels, -1, -1)


def _linear(layer: nn.Linear, counts: list[int], x: Tensor) -> Tensor:
    """Count a linear layer, and return something of its output's shape."""
    counts.append(x.numel() * layer.out_features)
    return x[..., :1].expand(*x.shape[:-1], layer.out_features)


def latency(module: nn.Module, image_shape: Sequence[int], batch_size: int = 1, repeats: int = 30) -> Latency:
    """Measure forward passes in eval mode without gradients, one by one, on the module's device.

    Some passes that do not count come first. On a GPU each pass is waited for. The median leaves out what else the
    machine was doing, unless that lasted; the spread tells. A copy of the module is run, so the module itself stays as
    it is.

    Args:
        module: Maps images ``(batch, channels, height, width)`` to anything.
        image_shape: ``(channels, height, width)`` of an image.
        batch_size: Images a pass, at least 1.
        repeats: Passes that count, at least 2.

    Raises:
        ConfigError: A number is out of its range.
    """
    if batch_size < 1 or repeats < 2:
        raise ConfigError(f"batch_size is {batch_size} and repeats {repeats}; they must be at least 1 and 2.")
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
    """A CPU has computed when a call returns."""


def activation_memory(module: nn.Module, image_shape: Sequence[int], batch_size: int = 1) -> int:
    """The most bytes of tensors that are alive at once in a forward pass in eval mode without gradients.

    Counted are the images and every tensor that an operation of torch makes, from its call until nothing refers to it
    any more; views and results in place share the memory of their source. Weights and what happens inside one
    operation, such as a convolution's workspace, are not. It is a count, not a measurement: the same on every machine
    and device. A copy of the module is run, so the module itself stays as it is.

    Args:
        module: Maps images ``(batch, channels, height, width)`` to anything.
        image_shape: ``(channels, height, width)`` of an image.
        batch_size: Images of the pass, at least 1.

    Raises:
        ConfigError: ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
    shadow, images = _ready(module, image_shape, batch_size)
    alive = _Alive([*shadow.parameters(), *shadow.buffers()])
    alive.count(images)
    with torch.no_grad(), alive:
        shadow(images)
    return alive.peak


def _ready(module: nn.Module, image_shape: Sequence[int], batch_size: int) -> tuple[nn.Module, Tensor]:
    """A copy in eval mode, and images of its device and precision."""
    shadow = copy.deepcopy(module).eval()
    like = next(shadow.parameters(), torch.empty(0))
    # numbers of ordinary size: with very small ones a CPU is slower
    images = torch.rand(batch_size, *image_shape, generator=torch.Generator().manual_seed(0))
    return shadow, images.to(like.device, like.dtype)


class _Alive(TorchFunctionMode):
    """Counts the bytes of tensors while they live.

    Args:
        owned: Tensors that do not count.
    """

    def __init__(self, owned: Sequence[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in owned}
        self.bytes = 0
        self.peak = 0

    def count(self, result: Any) -> None:
        """Count the tensors of a result whose memory is not counted yet, until they are gone."""
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
