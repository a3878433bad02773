"""Derivatives by hand equal those of autograd."""

import torch
import torch.nn.functional as F
from torch import nn

from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.convnet_derivatives import Derivatives, directions

X, Y = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double(), torch.arange(24) % 4


def test_the_gradient_of_all_parameters_is_that_of_autograd() -> None:
    network = ConvNet((3, 8, 8), 4, 6, 2).double()
    with torch.no_grad():  # norms whose parameters are not those of the start
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    derivatives = Derivatives(network)
    loss = F.cross_entropy(network(X), Y)
    expected = torch.autograd.grad(loss, derivatives.trained)
    with torch.no_grad():
        found = derivatives.mean_gradients(X, F.one_hot(Y, 4).double(), every=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    biases = [m.bias for m in network.features if isinstance(m, nn.Conv2d)]
    assert all(g.abs().max() < 1e-12 for g in torch.autograd.grad(F.cross_entropy(network(X), Y), biases))
    assert len(found) + len(biases) == len(list(network.parameters()))


def test_rows_without_direction_have_no_slope_and_equal_ones_no_distance() -> None:
    a, b = torch.randn(5, 3, 2).double(), torch.randn(5, 3, 2).double()
    a[1] = 0
    value, slope = directions(a, b)
    cosines = [F.cosine_similarity(a[i].flatten(), b[i].flatten(), dim=0) for i in (0, 2, 3, 4)]
    torch.testing.assert_close(value, sum((1 - c for c in cosines), torch.tensor(0.5).double()))
    assert not slope[1].any()
    assert float(directions(a, a)[0]) == 0
    assert float(directions(a, 3 * a)[0]) < 1e-30


def test_convnet_is_what_the_derivatives_are_of() -> None:
    """Blocks of a convolution, an instance norm, a ReLU and a pooling, and one linear layer."""
    kinds = [type(m) for m in ConvNet((3, 8, 8), 4, 6, 2).features]
    assert kinds == 2 * [nn.Conv2d, nn.GroupNorm, nn.ReLU, nn.AvgPool2d] + [nn.Flatten]
