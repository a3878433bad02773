import json
import os
from pathlib import Path

import pytest
import torch

from lightning_nas.distill.base import Proxy
from lightning_nas.distill.images import PlainImages
from lightning_nas.errors import ArchitectureError, ArtifactError
from lightning_nas.files import artifacts
from lightning_nas.spaces.artifact import load_architecture
from lightning_nas.spaces.darts.space import DARTSSpace
from tests.helpers import stored


def test_architecture_makes_the_round_trip_and_keeps_its_provenance(tmp_path: Path) -> None:
    architecture = DARTSSpace(nodes=3).sample(torch.Generator().manual_seed(0))
    path = architecture.save(tmp_path / "a.json", score=0.5)
    assert load_architecture(path) == architecture
    assert hash(load_architecture(path)) == hash(architecture)
    content = json.loads(path.read_text())
    assert content["provenance"] == {"score": 0.5}
    assert content["schema"] == artifacts.SCHEMA


def _edited(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"schema": 99}, ArtifactError, "schema 99"),
        ({"schema": None}, ArtifactError, "no integer 'schema'"),
        ({"choices": [0] * 32}, ArchitectureError, "two different sources"),
        ({"choices": [0]}, ArchitectureError, "choices"),
        ({"choices": "abc"}, ArtifactError, "integers"),
        ({"choices": [True] * 32}, ArtifactError, "integers"),
        ({"space": {"class_path": "os.system", "arguments": {}}}, ArtifactError, "no SearchSpace"),
        ({"space": {"class_path": "lightning_nas.nothing.Space", "arguments": {}}}, ArtifactError, "no SearchSpace"),
        ({"space": {"class_path": 3, "arguments": {}}}, ArtifactError, "text"),
        (
            {"space": {"class_path": "lightning_nas.spaces.darts.space.DARTSSpace", "arguments": {"knots": 4}}},
            ArtifactError,
            "cannot be made",
        ),
        ({"space": None}, ArtifactError, "Not an architecture"),
    ],
)
def test_foreign_and_newer_architectures_are_refused(
    tmp_path: Path, changes: dict[str, object], error: type[Exception], match: str
) -> None:
    path = DARTSSpace().largest().save(tmp_path / "a.json")
    with pytest.raises(error, match=match):
        load_architecture(_edited(path, **changes))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"schema": "1"}'])
def test_damaged_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"a\.json"):
        load_architecture(path)


def test_reading_an_artifact_imports_nothing_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    path = DARTSSpace().largest().save(tmp_path / "a.json")
    with pytest.raises(ArtifactError, match="imported"):
        load_architecture(_edited(path, space={"class_path": "evil.Space", "arguments": {}}))


def make_proxy() -> Proxy:
    labels = torch.arange(6) % 3
    scheme = stored(PlainImages(), images=torch.randn(6, 1, 4, 4), labels=labels)
    return Proxy(scheme, ["a", "b", "c"], [0.5], [0.2], {"seed": 7})


def test_proxy_makes_the_round_trip(tmp_path: Path) -> None:
    proxy = make_proxy()
    again = Proxy.load(proxy.save(tmp_path / "proxy.safetensors"))
    assert torch.equal(again.images, proxy.images)
    assert torch.equal(again.labels, proxy.labels)
    assert (again.class_names, again.mean, again.info["seed"]) == (["a", "b", "c"], [0.5], 7)
    assert (again.num_classes, again.image_shape) == (3, (1, 4, 4))


def test_damaged_proxies_are_refused(tmp_path: Path) -> None:
    path = make_proxy().save(tmp_path / "proxy.safetensors")
    whole = path.read_bytes()
    for broken in (b"", whole[:20], whole[:-8], b"\x80\x04N." * 20):
        path.write_bytes(broken)
        with pytest.raises(ArtifactError, match="proxy.safetensors"):
            Proxy.load(path)
    path.unlink()
    with pytest.raises(ArtifactError, match="does not exist"):
        Proxy.load(path)
    artifacts.write_tensors(path, {"images": torch.zeros(2, 1, 4, 4), "labels": torch.tensor([0, 7])})
    with pytest.raises(ArtifactError, match="no proxy of 3 classes"):
        Proxy.load(path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = artifacts.write_bytes(tmp_path / "x", b"old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ArtifactError, match="x cannot be written .disk full.. What was written there before"):
        artifacts.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
