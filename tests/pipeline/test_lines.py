"""What a pipeline says while it runs."""

import logging
from pathlib import Path

import pytest

from lightning_nas.pipeline.config import parse
from lightning_nas.pipeline.lines import Lines, comparison, count_steps, describe
from lightning_nas.pipeline.logs import REPEATING, quiet_repeats
from lightning_nas.pipeline.records import Record
from lightning_nas.pipeline.stages import Stage, resolve
from lightning_nas.terminal import shown
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[Stage]:
    arguments = parse(["--config", str(ROOT / "configs" / "pipeline" / "digits.yaml")])
    return resolve(arguments.config, tmp_path_factory.mktemp("run"), arguments.base)


def test_a_stage_is_announced_with_what_is_known(stages: list[Stage], capsys: pytest.CaptureFixture[str]) -> None:
    by_name = {stage.name: stage for stage in stages}
    lines = Lines(count_steps(stages, final=True))
    with shown():
        lines.begin("search", *describe(by_name["search"], 300, resumed=False))
        lines.begin("train", *describe(by_name["train"], None, resumed=True))
        lines.begin("export")
    assert capsys.readouterr().out.splitlines() == [
        "[1/6] search: BilevelTask in DARTSSpace, 300 images, 30 epochs",
        "[2/6] train: TrainTask, 12 epochs, continued from its last checkpoint",
        "[3/6] export",
    ]


def test_trainings_for_comparison_take_as_long_as_that_of_the_found_network() -> None:
    tested = Record("", {}, {}, {}, seconds=12.0)
    assert list(filter(None, comparison(5, 0, 2, tested))) == ["5 trainings", "2 at a time", "about 36 s"]
    assert list(filter(None, comparison(1, 4, 1, tested))) == ["1 training", "about 12 s", "4 done before"]
    tested.resumed = True  # its seconds are those of a part
    assert list(filter(None, comparison(2, 0, 1, tested))) == ["2 trainings"]
    assert list(filter(None, comparison(0, 5, 2, tested))) == ["5 done before"]


class Heard(logging.Handler):
    """Keeps messages."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.said.append(record.getMessage())


def test_lightning_says_the_same_once_a_run_and_warns_always(tmp_path: Path) -> None:
    heard, loggers = Heard(), [logging.getLogger(name) for name in REPEATING]
    for log in loggers:
        log.addHandler(heard)
    try:
        with quiet_repeats():
            for name in ("first", "second"):
                loggers[0].info("Seed set to 0")
                loggers[1].info("Loaded model weights from the checkpoint at %s", tmp_path / name)
                loggers[1].warning("The run may fail.")
                loggers[1].info("Balanced class weights: %s", name)
        loggers[0].info("Seed set to 0")
    finally:
        for log in loggers:
            log.removeHandler(heard)
    assert heard.said == [
        "Seed set to 0",
        "The run may fail.",
        "Balanced class weights: first",
        "The run may fail.",
        "Balanced class weights: second",
        "Seed set to 0",
    ]
