"""Every shipped study runs, made tiny by the options in ``tests/conf/compare``."""

import json
from pathlib import Path

import pytest

from lightning_nas.__main__ import main
from lightning_nas.pipeline.config import read_yaml
from tests.tiny import CONFIGS, OVERLAYS, given

NAMES = sorted(path.stem for path in (CONFIGS / "compare").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_study_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = read_yaml(OVERLAYS / "compare" / f"{name}.yaml")
    folder = str(given(tmp_path))
    pairs = [
        part for key, value in options.items() for part in (f"--{key}", json.dumps(value).replace("${given}", folder))
    ]
    main(["compare", "--config", str(CONFIGS / "compare" / f"{name}.yaml"), "--output_dir", "out", *pairs])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    study = read_yaml(CONFIGS / "compare" / f"{name}.yaml")
    assert {each["entry"] for each in line["entries"]} == set(study["entries"])
    assert line["missing"] == 0
    assert {path.name for path in Path("out").glob("table.*")} == {"table.txt", "table.csv", "table.md", "table.tex"}
