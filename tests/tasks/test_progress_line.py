import logging

import pytest

from lightning_nas.tasks import progress_line
from lightning_nas.tasks.progress_line import ProgressLine


def test_a_line_comes_every_ten_seconds(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress_line.time, "monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO):
        told = ProgressLine("selection errors", "removals")
        for done in range(26):
            clock[0] += 1.0
            told(done, 54)
    assert caplog.messages == ["selection errors: 9 of 54 removals", "selection errors: 19 of 54 removals"]
