"""The quickstart shows what its pipeline prints."""

import re
from pathlib import Path
from typing import Any

from lightning_nas.pipeline.config import EXPORT, parse
from lightning_nas.pipeline.stages import resolve
from lightning_nas.report.screen import table
from tests.conftest import ROOT
from tests.report.pages import FIDELITY, SUMMARY

CONFIG = ROOT / "configs" / "pipeline" / "digits.yaml"
PAGE = ROOT / "docs" / "quickstart.md"


def names(text: str) -> list[str]:
    return [re.split(r"\s{2,}", line)[0] for line in text.strip().splitlines()]


def test_the_table_has_the_rows_that_are_printed(tmp_path: Path) -> None:
    arguments = parse(["--config", str(CONFIG)])
    stages: Any = [stage.name for stage in resolve(arguments.config, tmp_path, arguments.base)]
    done = [{"name": name, "seconds": 1.0, "resumed": False} for name in (*stages, EXPORT)]
    printed = table({**SUMMARY, "stages": done, "fidelity": {**FIDELITY, "passed": True}})
    (shown,) = re.findall(r"prints a table:\n\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert names(shown) == names(printed)
    assert {len(line) for line in shown.splitlines()} == {len(line) for line in printed.splitlines()}
