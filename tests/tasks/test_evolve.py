"""Searches by proposals, through the command line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_nas.architecture import Architecture
from lightning_nas.artifacts import read_json
from lightning_nas.cli import run
from lightning_nas.errors import CheckpointError, ConfigError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.evolution.base import Strategy
from lightning_nas.spaces.limited import LimitedSpace
from lightning_nas.spaces.nasbench201 import NASBench201Space
from lightning_nas.tasks.evolve import EvolveTask

HERE = "tests.tasks.test_evolve"
STRATEGIES = {
    "random": {"class_path": "lightning_nas.evolution.random_search.RandomSearch"},
    "evolution": {
        "class_path": "lightning_nas.evolution.regularized_evolution.RegularizedEvolution",
        "init_args": {"population": 6, "tournament": 3},
    },
    "local": {"class_path": "lightning_nas.evolution.local_search.LocalSearch"},
    "first": {
        "class_path": "lightning_nas.evolution.local_search.LocalSearch",
        "init_args": {"first_improvement": True, "from_largest": True, "patience": 15},
    },
    "forest": {
        "class_path": "lightning_nas.prediction.weak.WeakPredictors",
        "init_args": {
            "predictor": {
                "class_path": "lightning_nas.prediction.predictors.RandomForest",
                "init_args": {"trees": 3},
            },
            "initial": 16,
            "pool": 30,
            "parents": 2,
            "first": {
                "class_path": "lightning_nas.evolution.local_search.LocalSearch",
                "init_args": {"first_improvement": True, "restarts": False, "patience": 3},
            },
        },
    },
}


class Known(Evaluator):
    """An objective that is a function of the architecture.

    Args:
        objective: Its name.
        fail_at: Call at which the machine fails.
    """

    def __init__(self, objective: str = "accuracy", fail_at: int | None = None) -> None:
        self.objective = objective
        self.fail_at = fail_at
        self.calls = 0

    def costs(self, architecture: Architecture) -> dict[str, float]:
        return {"convolutions": float(architecture.choices.count(3)), "seconds": 2.0}

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("the power is gone")
        return [
            Evaluation({self.objective: sum(c * 1.01**i for i, c in enumerate(a.choices))}, self.costs(a))
            for a in architectures
        ]


class Nothing(Strategy):
    """Asks for nothing."""

    def ask(self, count: int) -> list[Architecture]:
        return []


def fit(*args: str, trainer: Any = None, **model: Any) -> EvolveTask:
    """``lightning-nas fit`` on the cells of NAS-Bench-201."""
    arguments = {
        "space": {"class_path": "lightning_nas.spaces.nasbench201.NASBench201Space"},
        "strategy": STRATEGIES["random"],
        "evaluator": {"class_path": f"{HERE}.Known"},
        "budget": 23,
        "generation": 4,
        "output_dir": "out",
        **model,
    }
    keep = {
        "class_path": "ModelCheckpoint",
        "init_args": {"dirpath": "kept", "filename": "last", "every_n_train_steps": 1, "enable_version_counter": False},
    }
    quiet = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "enable_model_summary": False}
    config = {
        "model": {"class_path": "lightning_nas.tasks.evolve.EvolveTask", "init_args": arguments},
        "data": {"class_path": "lightning_nas.data.steps.StepsDataModule"},
        "trainer": {**quiet, "max_epochs": 1, "log_every_n_steps": 1, "callbacks": [keep], **(trainer or {})},
    }
    Path("run.yaml").write_text(yaml.safe_dump(config))
    made: EvolveTask = run(["fit", "--config", "run.yaml", *args]).model
    return made


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_search_spends_its_budget_and_leaves_the_best(name: str) -> None:
    task = fit(strategy=STRATEGIES[name])
    texts = [row["architecture"] for row in task.search.history()]
    assert len(texts) == len(set(texts)) == 23
    written = read_json(Path("out/history.json"), repair="")
    assert written["history"] == task.search.history()
    values = [row["objectives"]["accuracy"] for row in task.search.history()]
    assert written["queries"] == 23
    assert written["queries_to_best"] == values.index(max(values)) + 1
    assert written["evaluation_seconds"] == 46.0
    best = Architecture.load(Path("out/architecture.json"))
    assert NASBench201Space().text(best) == written["architecture"] == texts[values.index(max(values))]
    assert (
        json.loads(Path("out/architecture.json").read_text())["provenance"]["strategy"] == type(task.strategy).__name__
    )


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_search_gone_on_with_equals_an_uninterrupted_one(name: str) -> None:
    whole = fit(strategy=STRATEGIES[name]).search.history()
    with pytest.raises(RuntimeError, match="power"):
        fit(strategy=STRATEGIES[name], evaluator={"class_path": f"{HERE}.Known", "init_args": {"fail_at": 4}})
    again = fit("--ckpt_path", "kept/last.ckpt", strategy=STRATEGIES[name])
    assert again.search.history() == whole
    assert again.search.evaluator.calls < len(whole)  # type: ignore[attr-defined]


def test_a_smaller_space_ends_the_search() -> None:
    edges = [["none"]] * 3 + [["none", "nor_conv_3x3"]] * 3
    space = {
        "class_path": "lightning_nas.spaces.nasbench201.NASBench201Space",
        "init_args": {"operations": ["none", "nor_conv_3x3"], "allowed": {"cell": edges}},
    }
    task = fit(space=space, budget=100)
    assert len(task.search.history()) == 8


def test_limits_hold_for_all_that_is_asked_for() -> None:
    for name in STRATEGIES:
        task = fit(strategy=STRATEGIES[name], limits={"convolutions": 2})
        assert max(row["cost"]["convolutions"] for row in task.search.history()) == 2.0
    with pytest.raises(ConfigError, match=r"'volume': 2\.0.*there are the costs \['convolutions', 'seconds'\]"):
        fit(limits={"volume": 2})
    with pytest.raises(ConfigError, match="None of 10000 random architectures is within"):
        fit(limits={"seconds": 1})


def test_the_largest_within_limits_is_near_the_largest() -> None:
    known = Known()
    space = LimitedSpace(NASBench201Space(), known.costs, {"convolutions": 4})
    largest = space.largest()
    assert largest.choices.count(3) == 4
    assert all(space.allows(a) for a in space.neighbours(largest))
    assert len(list(space.neighbours(largest))) == 4 * 4 + 2 * 3
    with pytest.raises(ConfigError, match="is nearer to the limits"):
        LimitedSpace(NASBench201Space(), known.costs, {"seconds": 1}).largest()


def test_a_report_looks_at_what_was_found() -> None:
    task = fit(
        evaluator={"class_path": f"{HERE}.Known", "init_args": {"objective": "loss"}},
        objective="loss",
        report={"class_path": f"{HERE}.Known"},
    )
    losses = [row["objectives"]["loss"] for row in task.search.history()]
    written = read_json(Path("out/history.json"), repair="")
    assert written["objectives"] == {"loss": min(losses)}
    assert written["reported"] == {"accuracy": min(losses)}


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ConfigError, match="budget is 0"):
        EvolveTask(NASBench201Space(), Nothing(), Known(), budget=0)
    with pytest.raises(ConfigError, match="max_epochs is 2"):
        fit("--trainer.max_epochs", "2")
    with pytest.raises(ConfigError, match=r"\['accuracy'\], not 'loss'"):
        fit(objective="loss")
    with pytest.raises(ConfigError, match="had nothing to ask for"):
        fit(strategy={"class_path": f"{HERE}.Nothing"})
    fit()
    with pytest.raises(CheckpointError, match="strategy"):
        fit("--ckpt_path", "kept/last.ckpt", strategy=STRATEGIES["local"])
