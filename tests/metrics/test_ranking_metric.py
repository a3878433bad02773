"""The metric against the function, over batches and processes."""

import numpy as np
import pytest
import torch

from lightning_nas.errors import DataError
from lightning_nas.metrics.ranking import ranking
from lightning_nas.metrics.ranking_metric import Ranking

GENERATOR = np.random.default_rng(0)
TARGET = GENERATOR.normal(size=60).tolist()
SCORES = (np.array(TARGET) + GENERATOR.normal(size=60)).tolist()


def test_the_metric_gathers_batches_and_processes() -> None:
    expected = ranking(SCORES, TARGET, samples=20)
    metric = Ranking(samples=20)
    for part in range(0, 60, 25):
        metric.update(torch.tensor(SCORES[part : part + 25]), torch.tensor(TARGET[part : part + 25]))
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found == pytest.approx(expected, abs=1e-6)
    halves = [Ranking(samples=20), Ranking(samples=20)]
    for half, rows in zip(halves, (slice(0, 20), slice(20, 60)), strict=True):
        half.update(torch.tensor(SCORES[rows]), torch.tensor(TARGET[rows]))
    halves[0]._reduce_states(
        {name: list(getattr(halves[1], name)) for name in ("scores", "target")}
    )  # as after a gather
    both = {name: float(value) for name, value in halves[0].compute().items()}
    assert both["kendall_tau"] == pytest.approx(expected["kendall_tau"])
    single = Ranking()
    single.update(torch.ones(1), torch.ones(1))
    with pytest.raises(DataError, match="two or more"):
        single.compute()
