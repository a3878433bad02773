"""Writing and reading files completely or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_nas.errors import ArtifactError
from lightning_nas.files.artifacts import (
    read_json,
    read_tensors,
    remove_leftovers,
    write_bytes,
    write_json,
    write_tensors,
)


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


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "old", b"")
        (tmp_path / "old").chmod(0o600)
        paths = [write_bytes(tmp_path / "old", b"x"), write_json(tmp_path / "new" / "x.json", {})]
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o666 & ~mask] * 2


KILLED = """
import os, sys
from lightning_nas.files.artifacts import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os._exit(9)
"""


@pytest.mark.slow
def test_what_a_kill_leaves_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "a.json", b"whole")
    others = [write_bytes(tmp_path / name, b"mine") for name in (".a.json.part", ".part", ".a.0123.part", "b.part")]
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == 9
    assert path.read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 6
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])
