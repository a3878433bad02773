"""Both ways of computing a wave, and few threads: tensors are tiny."""

from collections.abc import Iterator

import pytest
import torch

from lightning_nas.spaces import wave, wave_wide
from tests.spaces.pair import PATHS


@pytest.fixture(autouse=True)
def _few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors are tiny
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=list(PATHS))
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All ways of computing, whatever the size of the images."""
    pixels, single = PATHS[request.param]
    monkeypatch.setattr(wave, "DENSE_PIXELS", pixels)
    monkeypatch.setattr(wave_wide.Wide, "single", single)
    return str(request.param)
