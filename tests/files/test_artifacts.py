"""Writing and reading files completely or not at all."""

import os
from pathlib import Path

import pytest
import torch

from lightning_nas.errors import ArtifactError
from lightning_nas.files.artifacts import read_json, read_tensors, write_bytes, write_json, write_tensors


def test_what_is_written_is_read(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 2).t(), "b": torch.arange(3)}
    found = read_tensors(write_tensors(tmp_path / "new" / "x.safetensors", tensors), repair="")
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    content = read_json(write_json(tmp_path / "x.json", {"n": [1, None, "ü"]}), repair="")
    assert content["n"] == [1, None, "ü"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"schema": "1"}'])
def test_damaged_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"a\.json"):
        read_json(path, repair="")


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_bytes(tmp_path / "x", b"old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ArtifactError, match="x cannot be written .disk full.. The file that was there before"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
