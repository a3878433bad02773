"""Searches by proposals, through the command line."""

import csv
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from torch.optim import SGD

from lightning_nas.architecture import Architecture
from lightning_nas.cli.lightning import run
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.errors import ArchitectureError, CheckpointError, ConfigError, DataError, TrainingError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.evaluation.supernet import SupernetEvaluator
from lightning_nas.evaluation.wrapper import EvaluatorWrapper
from lightning_nas.files.artifacts import read_json
from lightning_nas.report.front import Front
from lightning_nas.spaces.artifact import architecture_from_dict, load_architecture
from lightning_nas.spaces.constrained import ConstrainedSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.base import Strategy
from lightning_nas.strategies.nsga import NSGA2
from lightning_nas.strategies.shifting import Shifting
from lightning_nas.supernets.artifact import TrainedSupernet
from lightning_nas.tasks.evolve import EvolveTask

HERE = "tests.tasks.test_evolve"
STRATEGIES = {
    "random": {"class_path": "lightning_nas.strategies.random_search.RandomSearch"},
    "evolution": {
        "class_path": "lightning_nas.strategies.regularized_evolution.RegularizedEvolution",
        "init_args": {"population_size": 6, "tournament_size": 3},
    },
    "front": {
        "class_path": "lightning_nas.strategies.nsga.NSGA2",
        "init_args": {"population_size": 6},
    },
    "local": {"class_path": "lightning_nas.strategies.local_search.LocalSearch"},
    "first": {
        "class_path": "lightning_nas.strategies.local_search.LocalSearch",
        "init_args": {"first_improvement": True, "from_largest": True, "patience": 15},
    },
    "forest": {
        "class_path": "lightning_nas.strategies.weaknas.WeakPredictors",
        "init_args": {
            "predictor": {
                "class_path": "lightning_nas.predictors.regressors.RandomForest",
                "init_args": {"trees": 3},
            },
            "initial": 16,
            "pool": 30,
            "parents": 2,
            "first": {
                "class_path": "lightning_nas.strategies.local_search.LocalSearch",
                "init_args": {"first_improvement": True, "restarts": False, "patience": 3},
            },
        },
    },
}


class Known(Evaluator):
    """An objective that is a function of the architecture.

    Args:
        objective: Its name.
        fail_at: Call at which nothing works any more.
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
            raise DataError("the power is gone")
        return [
            Evaluation({self.objective: sum(c * 1.01**i for i, c in enumerate(a.choices))}, self.costs(a))
            for a in architectures
        ]


class Flaky(Known):
    """Fails at its sixth evaluation.

    Args:
        mode: How: it raises an error, ends the process, or finds nothing that is a number.
    """

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.rows: list[int] = []

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        path = Path("out/history.json")
        self.rows.append(read_json(path, repair="")["queries"] if path.exists() else 0)
        found = super().evaluate(architectures)
        if self.calls == 6 and self.mode == "raise":
            raise RuntimeError("CUDA out of memory")
        if self.calls == 6 and self.mode == "exit":
            raise SystemExit(5)
        return [Evaluation({"accuracy": float("nan")}, each.cost) if self.calls == 6 else each for each in found]


class Wrapped(EvaluatorWrapper):
    """Adds nothing.

    Args:
        evaluator: The wrapped evaluator.
    """

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        return self.evaluator.evaluate(architectures)


class Nothing(Strategy):
    """Asks for nothing."""

    def ask(self, count: int) -> list[Architecture]:
        return []


def fit(*args: str, trainer: Any = None, **model: Any) -> EvolveTask:
    """``lightning-nas fit`` on the cells of NAS-Bench-201."""
    arguments = {
        "space": {"class_path": "lightning_nas.spaces.nasbench201.space.NASBench201Space"},
        "strategy": STRATEGIES["random"],
        "evaluator": {"class_path": f"{HERE}.Known"},
        "budget": 23,
        "generation_size": 4,
        "output_dir": "out",
        "costs_to_minimise": ["convolutions"],
        **model,
    }
    keep = {
        "class_path": "ModelCheckpoint",
        "init_args": {"dirpath": "kept", "filename": "last", "every_n_train_steps": 1, "enable_version_counter": False},
    }
    quiet = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "enable_model_summary": False}
    config = {
        "model": {"class_path": "lightning_nas.tasks.evolve.EvolveTask", "init_args": arguments},
        "data": {"class_path": "lightning_nas.data.dummy.DummyDataModule"},
        "trainer": {**quiet, "max_epochs": 1, "log_every_n_steps": 1, "callbacks": [keep], **(trainer or {})},
    }
    Path("run.yaml").write_text(yaml.safe_dump(config))
    made: EvolveTask = run(["fit", "--config", "run.yaml", "--run_folder.overwrite", "true", *args]).model
    return made


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_search_spends_its_budget_and_leaves_the_best(name: str) -> None:
    task = fit(strategy=STRATEGIES[name])
    texts = [row["architecture"] for row in task.history.rows()]
    assert len(texts) == len(set(texts)) == 23
    written = read_json(Path("out/history.json"), repair="")
    assert written["history"] == task.history.rows()
    values = [row["objectives"]["accuracy"] for row in task.history.rows()]
    assert written["queries"] == 23
    assert written["queries_to_best"] == values.index(max(values)) + 1
    assert written["evaluation_seconds"] == 46.0
    best = load_architecture(Path("out/architecture.json"))
    assert NASBench201Space().text(best) == written["architecture"] == texts[values.index(max(values))]
    assert (
        json.loads(Path("out/architecture.json").read_text())["provenance"]["strategy"] == type(task.strategy).__name__
    )


@pytest.mark.parametrize(
    ("name", "mode"), [*((name, "raise") for name in STRATEGIES), ("random", "exit"), ("random", "nan")]
)
def test_one_failed_evaluation_costs_one_query(name: str, mode: str) -> None:
    flaky = {"class_path": f"{HERE}.Flaky", "init_args": {"mode": mode}}
    task = fit(strategy=STRATEGIES[name], evaluator=flaky)
    written = read_json(Path("out/history.json"), repair="")
    assert (written["queries"], written["failed"], len(written["history"])) == (23, 1, 22)
    assert written["failures"][0]["query"] == 6
    evaluator: Any = task.history.evaluator
    assert len(evaluator.rows) == 23
    # every generation begins with what those before it have written
    assert evaluator.rows == sorted(evaluator.rows)
    assert len(set(evaluator.rows)) > 5
    again = fit("--ckpt_path", "kept/last.ckpt", strategy=STRATEGIES[name], evaluator=flaky, budget=27)
    assert again.history.failures == task.history.failures
    assert again.history.rows()[:22] == task.history.rows()
    assert again.history.queries == 27


def test_a_search_keeps_a_checkpoint_by_default() -> None:
    stopped = {"class_path": f"{HERE}.Known", "init_args": {"fail_at": 14}}
    with pytest.raises(DataError, match="power"):
        fit(evaluator=stopped, trainer={"callbacks": None})
    (kept,) = Path().glob("lightning_logs/*/checkpoints/*.ckpt")
    assert kept.name == "last.ckpt"
    again = fit("--ckpt_path", str(kept), trainer={"callbacks": None})
    assert again.history.evaluator.calls == 23 - 12  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="power"):
        fit(evaluator=stopped, trainer={"callbacks": None, "enable_checkpointing": False, "default_root_dir": "none"})
    assert not list(Path("none").rglob("*.ckpt"))


def test_too_many_failures_end_a_search() -> None:
    flaky = {"class_path": f"{HERE}.Flaky", "init_args": {"mode": "raise"}}
    with pytest.raises(TrainingError, match="1 of 8 evaluations failed, more than max_failures = 0; .*out of memory"):
        fit(evaluator=flaky, max_failures=0)
    assert read_json(Path("out/history.json"), repair="")["failed"] == 1


def test_the_progress_bar_ends_with_the_budget() -> None:
    # the default bar is another one where rich is installed
    task = fit(trainer={"enable_progress_bar": True, "callbacks": [{"class_path": "TQDMProgressBar"}]})
    bar = task.trainer.progress_bar_callback.train_progress_bar
    assert bar.total == bar.n == 6  # 23 queries, four a generation


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_search_gone_on_with_equals_an_uninterrupted_one(name: str) -> None:
    whole = fit(strategy=STRATEGIES[name]).history.rows()
    with pytest.raises(DataError, match="power"):
        fit(strategy=STRATEGIES[name], evaluator={"class_path": f"{HERE}.Known", "init_args": {"fail_at": 14}})
    so_far = read_json(Path("out/history.json"), repair="")
    assert not so_far["finished"]
    assert so_far["history"] == whole[: so_far["queries"]]
    assert so_far["queries"] > 8
    again = fit("--ckpt_path", "kept/last.ckpt", strategy=STRATEGIES[name])
    assert again.history.rows() == whole
    assert again.history.evaluator.calls < len(whole)  # type: ignore[attr-defined]


def test_a_smaller_space_ends_the_search() -> None:
    edges = [["none"]] * 3 + [["none", "nor_conv_3x3"]] * 3
    space = {
        "class_path": "lightning_nas.spaces.nasbench201.space.NASBench201Space",
        "init_args": {"operations": ["none", "nor_conv_3x3"], "allowed": {"cell": edges}},
    }
    task = fit(space=space, budget=100)
    assert len(task.history.rows()) == 8


@pytest.mark.slow
def test_limits_hold_for_all_that_is_asked_for() -> None:
    for name in STRATEGIES:
        task = fit(strategy=STRATEGIES[name], constraints={"convolutions": 2})
        assert max(row["cost"]["convolutions"] for row in task.history.rows()) == 2.0
    with pytest.raises(ConfigError, match=r"name volume, .* it knows \['convolutions', 'seconds'\]"):
        fit(constraints={"volume": 2})
    with pytest.raises(ConfigError, match="None of 10000 random architectures satisfies"):
        fit(constraints={"seconds": 1})


def test_the_largest_within_limits_is_near_the_largest() -> None:
    known = Known()
    space = ConstrainedSpace(NASBench201Space(), known.costs, {"convolutions": 4})
    largest = space.largest()
    assert largest.choices.count(3) == 4
    assert all(space.allows(a) for a in space.neighbours(largest))
    assert len(list(space.neighbours(largest))) == 4 * 4 + 2 * 3
    with pytest.raises(ConfigError, match="searched from the largest one, satisfies the constraints"):
        ConstrainedSpace(NASBench201Space(), known.costs, {"seconds": 1}).largest()


def test_a_report_looks_at_what_was_found() -> None:
    task = fit(
        evaluator={"class_path": f"{HERE}.Known", "init_args": {"objective": "loss"}},
        objective="loss",
        final_evaluator={"class_path": f"{HERE}.Known"},
    )
    losses = [row["objectives"]["loss"] for row in task.history.rows()]
    written = read_json(Path("out/history.json"), repair="")
    assert written["objectives"] == {"loss": min(losses)}
    assert written["reported"] == {"accuracy": min(losses)}


@pytest.mark.parametrize("name", ["random", "front"])
def test_the_front_of_what_was_evaluated_is_written(name: str) -> None:
    task = fit(strategy=STRATEGIES[name])
    history = task.history.rows()
    values = [(-row["objectives"]["accuracy"], row["cost"]["convolutions"]) for row in history]

    def beaten(a: tuple[float, float]) -> bool:
        return any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in values)

    expected = {row["architecture"] for row, value in zip(history, values, strict=True) if not beaten(value)}
    written = read_json(Path("out/front.json"), repair="")
    assert {row["architecture"] for row in written["front"]} == expected
    assert task.outputs["front"] == [Path("out/front.json")]
    assert (written["objective"], written["costs"]) == ("accuracy", ["convolutions"])
    space = NASBench201Space()
    for row in written["front"]:
        read = architecture_from_dict({"space": written["space"], "choices": row["choices"]})
        assert space.text(read) == row["architecture"]
        assert row["cost"] == {"convolutions": float(row["choices"].count(3)), "seconds": 2.0}
    assert len(written["evaluated"]) == 23


def test_without_costs_there_is_no_front() -> None:
    task = fit(costs_to_minimise=[])
    assert set(task.outputs) == {"architecture", "history"}
    assert not Path("out/front.json").exists()


def test_curves_of_generations_are_logged() -> None:
    """A generation is a step: what is written of it is what its queries say."""
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": ".", "name": "curves"}}
    task = fit(reference={"class_path": f"{HERE}.Known"}, trainer={"logger": logger})
    with Path("curves/version_0/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(6))
    queried = [a.choices for a, _ in task.history.results]
    values = [e.objectives["accuracy"] for _, e in task.history.results]
    for row, end in zip(rows, (4, 8, 12, 16, 20, 23), strict=True):
        own = slice((end - 1) // 4 * 4, end)
        pairs = list(combinations(queried[own], 2))
        differing = sum(sum(x != y for x, y in zip(a, b, strict=True)) / 6 for a, b in pairs) / len(pairs)
        assert float(row["queries"]) == end
        assert float(row["best/accuracy"]) == pytest.approx(max(values[:end]))
        assert float(row["mean/accuracy"]) == pytest.approx(sum(values[own]) / len(values[own]))
        assert float(row["diversity"]) == pytest.approx(differing)
        assert float(row["truth/kendall_tau"]) == pytest.approx(1.0)
        assert float(row["front/size"]) == len(Front(task.history.results[:end], "accuracy", ["convolutions"]).members)


def test_the_innermost_evaluator_is_found_at_any_depth() -> None:
    wrapped = Wrapped(Wrapped(SupernetEvaluator("supernet.safetensors", data=ArrayDataModule("images.npz"))))
    task = EvolveTask(NASBench201Space(), strategy=Nothing(), evaluator=wrapped, shifting=Shifting(SGD))
    assert isinstance(task.scores, SupernetEvaluator)
    with pytest.raises(ConfigError, match="the innermost evaluator is Known"):
        EvolveTask(NASBench201Space(), strategy=Nothing(), evaluator=Wrapped(Wrapped(Known())), shifting=Shifting(SGD))


def test_a_supernet_of_another_space_is_refused() -> None:
    own = NASBench201Space(("none", "nor_conv_3x3"), channels=4, cells_per_stage=1)
    network = own.supernet(num_classes=2, image_shape=(3, 8, 8))
    path = TrainedSupernet(network, own, (3, 8, 8), 2, {}).save("supernet.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(8) % 2
    np.savez("images.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    images = ArrayDataModule("images.npz")
    task = EvolveTask(NASBench201Space(), strategy=Nothing(), evaluator=SupernetEvaluator(str(path), data=images))
    with pytest.raises(ArchitectureError, match="Use the space that the search used"):
        task.history.evaluator.evaluate([NASBench201Space().largest()])


def test_an_empty_front_is_refused_after_the_first_generation() -> None:
    for name in ("random", "front"):
        with pytest.raises(ConfigError, match=r"the costs \['convolutions', 'seconds'\], not \['volume'\]"):
            fit(strategy=STRATEGIES[name], costs_to_minimise=["seconds", "volume"])
        assert not Path("out/architecture.json").exists()
    with pytest.raises(ConfigError, match="NSGA2 searches for a front, but costs_to_minimise is empty"):
        EvolveTask(NASBench201Space(), strategy=NSGA2(), evaluator=Known())


@pytest.mark.slow
def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="budget is 0"):
        EvolveTask(NASBench201Space(), strategy=Nothing(), evaluator=Known(), budget=0)
    with pytest.raises(ConfigError, match="generation_size is 0"):
        EvolveTask(NASBench201Space(), strategy=Nothing(), evaluator=Known(), generation_size=0)
    rescored = {"parents": 5, "rescore": True}
    population = {"class_path": "lightning_nas.strategies.population.PopulationEvolution", "init_args": rescored}
    with pytest.raises(ConfigError, match="A generation of 4 has no room beside its 4 parents"):
        fit(strategy=population)
    with pytest.raises(ConfigError, match="max_epochs is 2"):
        fit("--trainer.max_epochs", "2")
    with pytest.raises(ConfigError, match=r"\['accuracy'\], not 'loss'"):
        fit(objective="loss")
    with pytest.raises(ConfigError, match="had nothing to ask for"):
        fit(strategy={"class_path": f"{HERE}.Nothing"})
    fit()
    with pytest.raises(CheckpointError, match="strategy"):
        fit("--ckpt_path", "kept/last.ckpt", strategy=STRATEGIES["local"])
