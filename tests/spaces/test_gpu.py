"""What supernets do differently on a GPU, run on a CPU that says it is one, against one module per edge."""

from collections.abc import Iterator
from unittest import mock

import pytest
import torch

from lightning_nas.spaces import DARTSSpace, NASBench201Space
from tests.spaces.pair import Pair


@pytest.fixture(autouse=True)
def _gpu() -> Iterator[None]:
    with mock.patch.object(torch.Tensor, "is_cuda", property(lambda tensor: True)):
        yield


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_darts(kernel: str, size: tuple[int, int]) -> None:
    Pair(DARTSSpace(nodes=2, channels=4, cells=3), size).check()


@pytest.mark.parametrize("density", [0.5, 1.0])
def test_nasbench201(density: float) -> None:
    mask = torch.rand(6, 5) < density
    mask[~mask.any(1), 0] = True
    Pair(NASBench201Space(channels=3, cells_per_stage=1).restrict({"cell": mask}), (9, 7)).check()


def test_derivatives_of_derivatives() -> None:
    pair = Pair(NASBench201Space(channels=3, cells_per_stage=1), (6, 6))
    found = []
    for net in pair.nets:
        slopes = torch.autograd.grad(pair.loss(net), pair.arch, create_graph=True)
        found += torch.autograd.grad(sum(slope.square().sum() for slope in slopes), pair.arch)
    for each, other in zip(found[:1], found[1:], strict=True):
        torch.testing.assert_close(each, other, rtol=1e-8, atol=1e-8)
