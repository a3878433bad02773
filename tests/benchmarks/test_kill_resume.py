"""A stage that is killed and resumed, and what tells two runs apart."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks.kill_resume import ARTIFACTS, main, prepare, same


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_killed_distillation_goes_on(last: Callable[[], dict[str, Any]]) -> None:
    returned = main(["--kills=1", "--last=distill"])
    found = last()
    assert found == returned
    assert list(found) == ["kills", "equal", "from_a_checkpoint", "within_an_epoch", "stages"]
    assert (found["kills"], found["equal"], found["stages"]) == (1, 1, {"distill": 1})


def test_stages_are_those_of_the_page_of_results(tmp_path: Path) -> None:
    """Distillation, search and training with drop path, with checkpoints within epochs."""
    prepare(tmp_path)
    configs = {stage: yaml.safe_load((tmp_path / f"{stage}.yaml").read_text()) for stage in ARTIFACTS}
    kinds = [config["model"]["class_path"].rpartition(".")[2] for config in configs.values()]
    assert kinds == ["DistillTask", "BilevelTask", "TrainTask"]
    assert configs["train"]["model"]["init_args"]["drop_path"] > 0
    for config in configs.values():
        assert config["preemption"] == {"every_n_batches": 3}
        assert config["trainer"]["max_epochs"] == 4
        assert config["trainer"]["limit_train_batches"] == 8


def test_states_differ_in_the_last_bit() -> None:
    state: dict[str, Any] = {"weights": [torch.ones(2), {"step": 3}], "lr": (0.1, None)}
    assert same(state, copy.deepcopy(state))
    for change in (
        {"weights": [torch.tensor([1.0, 1.0 + 2**-23]), {"step": 3}]},
        {"weights": [torch.ones(2, dtype=torch.float64), {"step": 3}]},
        {"weights": [torch.ones(2), {"step": 4}]},
        {"weights": [torch.ones(2)]},
        {"lr": (0.1, 0)},
        {"more": 1},
    ):
        assert not same(state, {**copy.deepcopy(state), **change})
