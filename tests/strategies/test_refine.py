"""Refinement by rounds, on a truth that is known."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArtifactError, ConfigError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.history import QueryHistory
from lightning_nas.strategies.refine import Refine

SPACE = NASBench201Space()
LARGEST = SPACE.largest()
BETTER = SPACE.architecture([3, 3, 3, 1, 3, 3])  # a skip connection over all


class Rounds(Evaluator):
    """A loss with a bias in round 0, which favours pools, and the truth afterwards.

    Args:
        truth: Losses by choices; 1 for all others.
    """

    def __init__(self, truth: dict[tuple[int, ...], float]) -> None:
        self.truth = truth
        self.asked: list[tuple[int, Architecture]] = []

    def begin(self, round: int) -> None:
        self.version = round

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        self.asked += [(self.version, a) for a in architectures]
        return [Evaluation({"loss": self._loss(a)}) for a in architectures]

    def _loss(self, architecture: Architecture) -> float:
        bias = 0.3 * architecture.choices.count(4) if self.version == 0 else 0.0
        return self.truth.get(architecture.choices, 1.0) - bias


def played(evaluator: Evaluator, strategy: Refine, budget: int = 100, count: int = 7) -> QueryHistory:
    search = QueryHistory(SPACE, evaluator, budget, "loss")
    strategy.start(SPACE, "loss", seed=1)
    while search.step(strategy, count):
        pass
    return search


def test_finals_correct_what_brief_trainings_say() -> None:
    evaluator = Rounds({LARGEST.choices: 0.8, BETTER.choices: 0.5})
    search = played(evaluator, Refine())
    assert search.best[0] == BETTER
    by_round = [[a for number, a in evaluator.asked if number == each] for each in range(3)]
    assert [len(each) for each in by_round] == [25, 5, 3]
    assert {a.choices for a in by_round[0]} == {LARGEST.choices, *(a.choices for a in SPACE.neighbours(LARGEST))}
    assert all(each[0] == LARGEST for each in by_round)
    # round 0 favours six pools over five others; the best of them went on, and the truth decided among them
    assert sum(4 in a.choices for a in by_round[1]) == 3
    assert len(search.results) == 33


def test_a_start_is_left_only_for_what_beats_it_in_the_last_round() -> None:
    search = played(Rounds({LARGEST.choices: 0.8}), Refine())
    assert min(e.objectives["loss"] for _, e in search.results[:25]) < 0.8  # a neighbour with a pool
    assert search.best[0] == LARGEST


def test_starts_come_from_other_searches(tmp_path: Path) -> None:
    path = str(BETTER.save(tmp_path / "architecture.json"))
    evaluator = Rounds({BETTER.choices: 0.5})
    played(evaluator, Refine(starts=[path], with_largest=True, neighbours=3, finals=[2]), count=4)
    first = [a for number, a in evaluator.asked if number == 0]
    assert first[:2] == [BETTER, LARGEST]
    assert len(first) in (7, 8)  # both may have drawn the same neighbour
    assert [a for number, a in evaluator.asked if number == 1][:2] == [BETTER, LARGEST]


@pytest.mark.parametrize("stop", [1, 4, 5, 6])
def test_a_refinement_gone_on_with_equals_an_uninterrupted_one(stop: int) -> None:
    truth = {LARGEST.choices: 0.8, BETTER.choices: 0.5}
    whole = played(Rounds(truth), Refine())
    first = QueryHistory(SPACE, Rounds(truth), 100, "loss")
    strategy = Refine()
    strategy.start(SPACE, "loss", seed=1)
    for _ in range(stop):
        first.step(strategy, 7)
    search, again = QueryHistory(SPACE, Rounds(truth), 100, "loss"), Refine()
    again.start(SPACE, "loss", seed=5)
    again.load_state_dict(strategy.state_dict())
    search.load_state_dict(first.state_dict())
    while search.step(again, 7):
        pass
    assert search.rows() == whole.rows()
    assert search.best[0] == whole.best[0] == again.best()


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neighbours is 0"):
        Refine(neighbours=0)
    for finals in ([], [0], [2, 4]):
        with pytest.raises(ConfigError, match="finals is"):
            Refine(finals=finals)
    with pytest.raises(ArtifactError, match="missing"):
        Refine(starts=["missing.json"]).start(SPACE)
    other = DARTSSpace(nodes=2)
    path = str(other.sample(torch.Generator().manual_seed(0)).save(tmp_path / "other.json"))
    with pytest.raises(ConfigError, match="cannot be a start of this search"):
        Refine(starts=[path]).start(SPACE)
