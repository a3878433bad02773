"""The quickstart shows what its pipeline prints."""

import re
from pathlib import Path

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
    left_out = [each["name"] for each in SUMMARY["baselines_left_out"]]
    stages = [each for each in resolve(arguments.config, tmp_path, arguments.base) if each.name not in left_out]
    done = [{"name": name, "seconds": 1.0, "resumed": False} for name in (*(each.name for each in stages), EXPORT)]
    compared = [each.name for each in stages if each.compared]
    summary = {**SUMMARY, "stages": done, "compared_stages": compared, "fidelity": {**FIDELITY, "passed": True}}
    undecided = SUMMARY["selection_errors"]["edges"]  # as all choices in the run that the page shows
    summary |= {"selection_errors": {"edges": undecided, "operations": undecided}}
    summary |= {"test_interval": [0.97, 0.99], "test_images": 360}
    printed = table(summary)
    (shown,) = re.findall(r"prints a table:\n\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert names(shown) == names(printed)
