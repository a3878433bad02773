"""Every kernel of the fused edges, and few threads: tensors are tiny."""

from collections.abc import Iterator

import pytest
import torch

from lightning_nas.spaces.darts import fused_edges
from lightning_nas.spaces.darts.kernel_wide import WideKernel
from tests.spaces.pair import PATHS


@pytest.fixture(autouse=True)
def _few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors are tiny
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=list(PATHS))
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All kernels, whatever the size of the images."""
    pixels, single = PATHS[request.param]
    monkeypatch.setattr(fused_edges, "DENSE_PIXELS", pixels)
    monkeypatch.setattr(WideKernel, "one_by_one", single)
    return str(request.param)
