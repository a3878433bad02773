"""Every kernel of the fused edges, and few threads."""

from collections.abc import Iterator

import pytest
import torch

from lightning_nas.spaces.darts import fused_edges
from lightning_nas.spaces.darts.kernel_wide import WideKernel

KERNELS = {"dense": (10**9, True), "wide": (0, True), "together": (0, False)}
"""Largest number of pixels for the dense kernel, and whether the wide kernel computes targets one by one."""


@pytest.fixture(autouse=True)
def _few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors are tiny
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=list(KERNELS))
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All kernels, whatever the size of the images."""
    pixels, one_by_one = KERNELS[request.param]
    monkeypatch.setattr(fused_edges, "DENSE_PIXELS", pixels)
    monkeypatch.setattr(WideKernel, "one_by_one", one_by_one)
    return str(request.param)
