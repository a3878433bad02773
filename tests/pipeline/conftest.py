"""A folder for tests that start pipelines many times."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest
from jsonargparse import Namespace

from lightning_nas.cli import lightning
from lightning_nas.files.artifacts import write_bytes

check_config = lightning.check_config


@cache
def parsed(text: str) -> Namespace:
    """What ``check_config`` returns for the text of a file; parsing takes a large part of a second."""
    with tempfile.TemporaryDirectory() as folder:
        return check_config(write_bytes(Path(folder) / "stage.yaml", text.encode()))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder for many tests, so that their stages have the same configurations."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture
def quick(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which configurations that were parsed before are not parsed again."""
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    monkeypatch.chdir(place)
    monkeypatch.setattr(lightning, "check_config", lambda path: parsed(path.read_text()).clone())
    return place
