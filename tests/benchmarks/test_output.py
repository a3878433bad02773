"""Output folders keep to their settings."""

from pathlib import Path

import pytest

from benchmarks.output import claim, digest
from lightning_nas.errors import ArtifactError


def test_a_folder_has_results_of_one_setting(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "results"
    claim(folder, {"steps": 1, "rows": [1, 2]})
    (folder / "measured.json").write_text("{}")
    claim(folder, {"steps": 1, "rows": [1, 2]})
    for settings in ({"steps": 2, "rows": [1, 2]}, {"steps": 1}, {"steps": 1, "rows": [1, 2], "seed": 0}):
        with pytest.raises(ArtifactError, match="results of other settings"):
            claim(folder, settings)
    claim(folder, {"steps": 1, "rows": [1, 2]})
    (folder / "settings.json").unlink()
    with pytest.raises(ArtifactError, match="results of other settings"):
        claim(folder, {"steps": 1, "rows": [1, 2]})


def test_digests_are_those_of_contents(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (digest(str(tmp_path / name)) for name in "abc")
    assert a == b != c
    assert len(a) == 16
