"""Architectures in files."""

import json
from pathlib import Path

import pytest
import torch

from lightning_nas.errors import ArchitectureError, ArtifactError
from lightning_nas.files.artifacts import SCHEMA
from lightning_nas.spaces.artifact import load_architecture
from lightning_nas.spaces.darts.space import DARTSSpace


def test_architecture_makes_the_round_trip_and_keeps_its_provenance(tmp_path: Path) -> None:
    architecture = DARTSSpace(nodes=3).sample(torch.Generator().manual_seed(0))
    path = architecture.save(tmp_path / "a.json", score=0.5)
    assert load_architecture(path) == architecture
    assert hash(load_architecture(path)) == hash(architecture)
    content = json.loads(path.read_text())
    assert content["provenance"] == {"score": 0.5}
    assert content["schema"] == SCHEMA


def _edited(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"schema": 99}, ArtifactError, "schema 99"),
        ({"schema": None}, ArtifactError, "'schema' is not a positive integer"),
        ({"choices": [0] * 32}, ArchitectureError, "2 different sources"),
        ({"choices": [0]}, ArchitectureError, "choices"),
        ({"choices": "abc"}, ArtifactError, "integers"),
        ({"choices": [True] * 32}, ArtifactError, "integers"),
        ({"space": {"class_path": "os.system", "arguments": {}}}, ArtifactError, "derives from SearchSpace"),
        (
            {"space": {"class_path": "lightning_nas.nothing.Space", "arguments": {}}},
            ArtifactError,
            "derives from SearchSpace",
        ),
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


def test_reading_an_artifact_imports_nothing_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    path = DARTSSpace().largest().save(tmp_path / "a.json")
    with pytest.raises(ArtifactError, match="imported"):
        load_architecture(_edited(path, space={"class_path": "evil.Space", "arguments": {}}))
