"""What a network costs: parameters and multiply-accumulates."""

import copy
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
