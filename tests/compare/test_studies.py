"""Every shipped study runs, made tiny by the options in ``tests/conf/compare``."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_nas.__main__ import main
from lightning_nas.cli.lightning import check_config
from lightning_nas.compare.config import parse
from lightning_nas.compare.runs import runs
from lightning_nas.pipeline.config import read_yaml
from tests.tiny import CONFIGS, OVERLAYS, given

NAMES = sorted(path.stem for path in (CONFIGS / "compare").glob("*.yaml"))


def arguments(name: str, folder: Path, options: dict[str, Any]) -> list[str]:
    """The command line of a study with some options."""
    texts = {key: json.dumps(value).replace("${given}", str(folder / "given")) for key, value in options.items()}
    pairs = [part for key, text in texts.items() for part in (f"--{key}", text)]
    return ["--config", f"compare/{name}", "--output_dir", str(folder / "out"), *pairs]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_study_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given(tmp_path)
    options = read_yaml(OVERLAYS / "compare" / f"{name}.yaml")
    left_out = options.pop("left_out", [])  # entries that are only checked, as they differ from others in strategies
    every = runs(parse(arguments(name, tmp_path, options)))
    for run in every:
        for stage in run.pipeline().stages if run.entry in left_out else []:
            path = tmp_path / f"{stage.name}.yaml"
            path.write_text(yaml.safe_dump(stage.config))
            check_config(path)
    main(["compare", *arguments(name, tmp_path, options | {f"entries.{entry}": None for entry in left_out})])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {each["entry"] for each in line["entries"]} == {run.entry for run in every} - set(left_out)
    assert line["missing"] == 0
    assert (tmp_path / "out" / "report.html").is_file()
