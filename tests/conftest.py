"""Every test starts from the same seed, in a folder of its own, and leaves the process as it found it."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)  # here too: fixtures of whole modules come before those of single tests
# Lightning's launchers take the number of all cores where nothing is said, and sums depend on it
os.environ["OMP_NUM_THREADS"] = "1"


def _environment() -> dict[str, str]:
    """All variables but those that pytest, Lightning, sklearn and torch set by themselves."""
    own = ("PYTEST_", "PL_", "KMP_", "TORCH")
    return {key: value for key, value in os.environ.items() if not key.startswith(own)}


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes are no names: they may hold times, and must be called alike in all processes that share the tests."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-nas"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    torch.manual_seed(0)
    torch.set_num_threads(1)  # on tiny networks a second thread waits more than it computes
    before, logs = _environment(), [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in logs]
    yield
    for log, level in zip(logs, levels, strict=True):  # benchmarks, which are whole programs, silence them
        log.setLevel(level)
    after = _environment()
    assert after == before, "a test changed the environment"
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def configs() -> Path:
    """The folder of the shipped configurations."""
    return ROOT / "configs"
