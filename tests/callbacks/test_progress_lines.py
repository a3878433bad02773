"""Bars in a terminal, plain lines elsewhere, and how long a training will take."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_nas.callbacks import progress_lines
from lightning_nas.callbacks.progress_lines import ProgressLines, RichBar, TimeEstimate, TQDMBar, progress_bar
from lightning_nas.terminal import shown
from tests.helpers import QUIET, pseudo_terminal


class Line(LightningModule):
    """Fits a line, and may fail."""

    def __init__(self, fail_at: int = -1, ends_by: str = "") -> None:
        super().__init__()
        self.layer_of_one = nn.Linear(1, 1)
        self.fail_at = fail_at
        self.ends_by = ends_by

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Minimize the output."""
        if batch_idx == self.fail_at:
            raise ValueError("no batch")
        loss = self.layer_of_one(batch).pow(2).mean()
        self.log("train/loss", 0.5, prog_bar=True)
        return loss  # type: ignore[no-any-return]

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """Do nothing."""

    def configure_optimizers(self) -> Any:
        """Plain gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A clock on which a second goes by whenever it is looked at."""
    now = 0.0

    def monotonic() -> float:
        nonlocal now
        now += 1
        return now

    monkeypatch.setattr(time, "monotonic", monotonic)
    monkeypatch.setattr(progress_lines.time, "monotonic", monotonic)
    return


def trainer(*callbacks: Callback, bar: bool = True, **options: Any) -> Trainer:
    return Trainer(**{**QUIET, "max_epochs": 2, "enable_progress_bar": bar, "callbacks": list(callbacks), **options})


def batches(count: int = 6) -> "DataLoader[Tensor]":
    return DataLoader(list(torch.ones(count, 1)))  # type: ignore[arg-type]  # a list of tensors


def test_lines_are_plain_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str], clock: None) -> None:
    made = progress_bar()
    assert type(made) is ProgressLines
    with shown():
        fitted = trainer(ProgressLines(seconds=4))
        fitted.fit(Line(), batches())
        fitted.test(Line(), batches(), verbose=False)
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "  epoch 1 of 2, batch 4 of 6, train/loss 0.5, about 8 s left",
        "  epoch 2 of 2, batch 2 of 6, train/loss 0.5, about 4 s left",
        "  epoch 2 of 2, batch 6 of 6, train/loss 0.5",
        "  test, batch 4 of 6",
    ]


def test_a_terminal_has_the_bar_of_rich_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    with pseudo_terminal() as screen, shown():
        chosen = progress_bar()
        trainer(chosen).fit(Line(), batches())
    assert type(chosen) is RichBar
    assert "6/6" in screen.written.decode()
    assert "v_num" not in screen.written.decode()


def test_a_bar_ends_its_line_before_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_lines, "RequirementCache", lambda _: False)
    with pseudo_terminal() as screen, shown():
        chosen = progress_bar()
        assert type(chosen) is TQDMBar
        with pytest.raises(ValueError, match="no batch"):
            trainer(chosen).fit(Line(fail_at=3), batches())
        print("lightning-nas: an error")
    first, last = screen.lines()
    assert first.startswith("Epoch 0:")
    assert last == "lightning-nas: an error"


def test_how_long_a_training_takes_is_told_once(capsys: pytest.CaptureFixture[str], clock: None) -> None:
    with shown():
        trainer(TimeEstimate(), bar=False).fit(Line(), batches(20))
        trainer(TimeEstimate(), bar=False).fit(Line(ends_by="the budget"), batches(20))
        trainer(TimeEstimate(), bar=False, max_epochs=1).fit(Line(), batches(6))  # little is left
        trainer(TimeEstimate(), bar=False, max_epochs=-1, max_steps=30).fit(Line(), batches(20))  # not by epochs
        trainer(TimeEstimate(), bar=False, max_time="00:00:01:00").fit(Line(), batches(20))  # of unknown length
    assert capsys.readouterr().out.splitlines() == ["  about 36 s"]
