"""What tests of benchmarks share: the last line of the output, and small made-up data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_nas.tables.synthetic import write_nasbench201


@pytest.fixture
def last(capsys: pytest.CaptureFixture[str]) -> Callable[[], dict[str, Any]]:
    """Reads the last line that was printed."""

    def read() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    return read


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An npz of ten classes of noise at 16 pixels, 16 training images and one test image of each."""
    generator = np.random.default_rng(0)
    labels = np.arange(160) % 10
    pixels = generator.integers(256, size=(160, 16, 16, 3), dtype=np.uint8)
    path = tmp_path / "images.npz"
    np.savez(path, x_train=pixels, y_train=labels, x_test=pixels[:10], y_test=labels[:10])
    return path


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A folder with a made-up nasbench201.npz."""
    write_nasbench201(tmp_path / "nasbench201.npz")
    return tmp_path
