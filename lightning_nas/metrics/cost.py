"""What a network costs: parameters and multiply-accumulates."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def parameters(module: nn.Module) -> int:
    """Number of parameters, shared ones counted once; an auxiliary head counts where the module has one."""
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, image_shape: Sequence[int]) -> int:
    """Multiply-accumulates of all convolutions and linear layers for one image in eval mode.

    Counted as the field's papers do: biases, normalisation, pooling and activations cost nothing. A copy of
    the module on the meta device is run, so nothing is computed, and the module itself stays as it is.

    Args:
        module: Maps images ``(batch, channels, height, width)`` to anything.
        image_shape: ``(channels, height, width)`` of an image.
    """
    counts: list[int] = []

    def convolution(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # a weight is (outputs, inputs / groups, height, width): one output pixel takes all but its first axis
        assert isinstance(layer, nn.Conv2d)
        counts.append(output.numel() * layer.weight[0].numel())

    def linear(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        counts.append(output.numel() * layer.in_features)

    shadow = copy.deepcopy(module).to("meta").eval()
    for layer in shadow.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(convolution)
        elif isinstance(layer, nn.Linear):
            layer.register_forward_hook(linear)
    with torch.no_grad():
        shadow(torch.zeros(1, *image_shape, device="meta"))
    return sum(counts)
