"""Evaluations elsewhere: equal to the last bit."""

import os
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch

import pytest
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.errors import ConfigError, DataError, TrainingError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.evaluation.costs import CostEvaluator
from lightning_nas.evaluation.executors import Processes, RayWorkers, Serial, Threads
from lightning_nas.evaluation.parallel import Parallel
from lightning_nas.evaluation.prior import PriorEvaluator
from lightning_nas.evaluation.short_training import ShortTraining
from lightning_nas.evaluation.supernet import SupernetEvaluator
from lightning_nas.evaluation.table import TableLookup
from lightning_nas.metrics.network_costs import NetworkCosts
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tables.nasbench201 import NASBench201Table
from lightning_nas.tables.synthetic import write_nasbench201
from tests.evaluation.test_supernet import SPACE as PATHS
from tests.evaluation.test_supernet import data as images
from tests.evaluation.test_supernet import saved
from tests.tasks.test_evolve import HERE, fit

SPACE = DARTSSpace(nodes=2)
CELLS = [SPACE.sample(torch.Generator().manual_seed(i)) for i in range(5)]
SMALL = NASBench201Space()


def short_training() -> ShortTraining:
    """On real images, which the workers need nothing of the tests for."""
    halves = HalvesDataModule(DigitsDataModule(), batch_size=32)
    return ShortTraining(halves, steps=3, batch_size=8, channels=4, cells=3, seed=3)


def facts(found: Sequence[Evaluation]) -> list[Any]:
    """All but the seconds."""
    return [(each.objectives, {k: v for k, v in each.cost.items() if k != "seconds"}, each.features) for each in found]


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    executor = Processes(2)
    yield executor
    executor.close()


class Drawn(Evaluator):
    """Draws from the process's generator, which it does not seed."""

    version = 4

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"tensor": torch.zeros(2), "names": ["a"], "deep": {"number": 1}}
        self.moved = torch.device("cpu")
        self.prepared = False
        self.spoil: tuple[str, Any] | None = None

    def prepare_data(self) -> None:
        self.prepared = True

    def to(self, device: torch.device) -> None:
        self.moved = device

    def costs(self, architecture: Architecture) -> dict[str, float]:
        return {"dollars": 2.0}

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        if self.spoil is not None:
            self.state.update([self.spoil])
        return [Evaluation({"accuracy": float(torch.rand(()))}, features=torch.rand(3)) for _ in architectures]


@pytest.mark.slow
def test_short_trainings_are_the_same_wherever_they_run(processes: Processes) -> None:
    expected = facts(short_training().evaluate(CELLS))
    assert len({str(each) for each in expected}) == len(CELLS)
    for executor in (Serial(), processes):
        evaluator = Parallel(short_training(), executor)
        assert facts(evaluator.evaluate(CELLS)) == expected
        assert facts(evaluator.evaluate([CELLS[3], CELLS[0], CELLS[3]])) == [expected[3], expected[0], expected[3]]
        assert evaluator.evaluate([]) == []


@pytest.mark.slow
def test_threads_score_by_a_supernet_alike(processes: Processes) -> None:
    path = saved(PATHS.supernet(num_classes=3, image_shape=(3, 8, 8)))
    drawn = [PATHS.sample(torch.Generator().manual_seed(i)) for i in range(3)]
    torch.set_num_threads(2)
    found = []
    for executor in (Serial(), Threads(2), processes):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        scores = SupernetEvaluator(path, data=images(5), images=12, new_classes=True)
        found.append(facts(Parallel(scores, executor).evaluate(drawn)))
        scores.weights_changed()
        found.append(facts(Parallel(scores, executor).evaluate(drawn)))
        executor.close()
        assert torch.equal(before, torch.get_rng_state())
        assert torch.get_num_threads() == 2
    assert all(each == found[0] for each in found)
    assert len({str(each) for each in found[0]}) == 3


def test_threads_are_refused_where_there_are_draws() -> None:
    with pytest.raises(ConfigError, match=r"ShortTraining may draw random numbers, and the calls of Threads"):
        Parallel(short_training(), Threads(2))


def test_the_number_of_threads_does_not_matter() -> None:
    expected = facts(Parallel(short_training(), Serial()).evaluate(CELLS[:2]))
    torch.set_num_threads(2)
    assert facts(Parallel(short_training(), Serial()).evaluate(CELLS[:2])) == expected
    assert torch.get_num_threads() == 2


@pytest.mark.slow
def test_draws_depend_on_the_architecture_alone(processes: Processes) -> None:
    before = torch.get_rng_state()
    first = Parallel(Drawn(), Serial()).evaluate(CELLS)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(5)
    second = Parallel(Drawn(), processes).evaluate(CELLS[::-1])[::-1]
    assert [each.objectives for each in first] == [each.objectives for each in second]
    assert all(torch.equal(a.features, b.features) for a, b in zip(first, second, strict=True))
    assert len({each.objectives["accuracy"] for each in first}) == len(CELLS)


@pytest.mark.parametrize(
    ("name", "value"),
    [("tensor", torch.ones(2)), ("tensor", torch.zeros(2).double()), ("names", ["a", "b"]), ("deep", {"number": 2}),
     ("new", 1)],
)  # fmt: skip
def test_an_evaluator_whose_state_changes_is_refused(name: str, value: Any) -> None:
    evaluator = Drawn()
    evaluator.spoil = (name, value)
    with pytest.raises(ConfigError, match="The state of Drawn changes as it evaluates"):
        Parallel(evaluator, Serial()).evaluate(CELLS)


def test_counts_of_queries_and_measured_costs_are_not_lost() -> None:
    table = NASBench201Table(str(write_nasbench201("made_up.npz")))
    cells = [SMALL.architecture([i, 3, 3, 1, 2, 0]) for i in range(2)]
    with pytest.raises(ConfigError, match="The state of TableLookup changes"):
        Parallel(TableLookup(table, budget=2), Serial()).evaluate(cells)
    costs = NetworkCosts(channels=4, cells=1, image_shape=(3, 8, 8))
    with pytest.raises(ConfigError, match=r"The state of CostEvaluator changes.*put Parallel inside it"):
        Parallel(CostEvaluator(Drawn(), costs), Serial()).evaluate(cells)
    inside = CostEvaluator(Parallel(Drawn(), Serial()), costs).evaluate(cells)
    assert [set(each.cost) for each in inside] == [{"dollars", "parameters", "macs"}] * 2


def test_the_rest_is_the_other_evaluators() -> None:
    evaluator = Parallel(Drawn(), Serial())
    evaluator.prepare_data()
    evaluator.to(torch.device("meta"))
    inner: Any = evaluator.evaluator
    assert (inner.prepared, inner.moved.type) == (True, "meta")
    assert evaluator.costs(CELLS[0]) == {"dollars": 2.0}
    assert evaluator.version == 4
    evaluator.load_state_dict({"x": 1})
    assert evaluator.state_dict() == inner.state == {"x": 1}


def test_a_search_is_the_same_with_it() -> None:
    known = {"class_path": f"{HERE}.Known"}
    executor = {"class_path": "lightning_nas.evaluation.executors.Serial"}
    spread = {
        "class_path": "lightning_nas.evaluation.parallel.Parallel",
        "init_args": {"evaluator": known, "executor": executor},
    }
    constraints = {"convolutions": 3.0}
    found = fit(evaluator=spread, constraints=constraints).history.rows()
    assert found == fit(evaluator=known, constraints=constraints).history.rows()


@patch.dict(os.environ, {"RAY_AUTH_MODE": "disabled"})  # Ray changes more of it, and else writes into the home folder
def test_ray() -> None:
    ray = pytest.importorskip("ray", reason='needs pip install "lightning_nas[ray]"')
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    executor = RayWorkers(2)
    try:
        expected = facts(Parallel(short_training(), Serial()).evaluate(CELLS))
        evaluator = Parallel(short_training(), executor)
        assert facts(evaluator.evaluate(CELLS)) == expected
        assert facts(evaluator.evaluate(CELLS[::-1])) == expected[::-1]
        with pytest.raises(DataError, match="fewer than a batch of 5000"):
            Parallel(ShortTraining(HalvesDataModule(DigitsDataModule()), batch_size=5000), executor).evaluate(CELLS)
        with pytest.raises(TrainingError, match="A worker process ended without an answer"):
            executor.map(os._exit, [1])
        with pytest.raises(ConfigError, match="3 workers need 1 CPU and 0 GPUs each; Ray has 2 CPUs"):
            RayWorkers(3).map(os.getpgid, [0])
    finally:
        executor.close()
        ray.shutdown()


class Rounds(Evaluator):
    """Says which round it is, and which process says so."""

    stochastic = False

    def begin(self, round: int) -> None:
        self.version = round

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        return [Evaluation({"loss": float(self.version)}, {"process": float(os.getpid())}) for _ in architectures]


@pytest.mark.slow
def test_workers_stay_from_round_to_round() -> None:
    parallel = Parallel(Rounds(), Processes(1))
    found = []
    for round in (0, 1, 2):
        parallel.begin(round)
        found += parallel.evaluate(CELLS[:1])
        assert parallel.version == round
    assert [each.objectives["loss"] for each in found] == [0.0, 1.0, 2.0]
    (worker,) = {int(each.cost["process"]) for each in found}
    PriorEvaluator(parallel).close()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
