"""Random numbers of training steps that do not depend on what was drawn before."""

from typing import Any

import pytest
import torch

from lightning_nas.callbacks.step_seed import StepSeed
from tests.callbacks.test_preemption import Counts
from tests.helpers import quiet_trainer


def test_steps_draw_the_same_numbers_whatever_was_drawn_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")

    class Draws(Counts):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen.append(float(torch.rand(())))  # type: ignore[arg-type]
            return super().training_step(batch, batch_idx)

    drawn = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        task = Draws()
        quiet_trainer(max_epochs=2, callbacks=[StepSeed()]).fit(task)
        drawn.append([s for s in task.seen if isinstance(s, float)])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 12
