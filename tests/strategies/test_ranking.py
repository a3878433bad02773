"""Kept rankings are those of sorting anew, in few comparisons."""

import random
from collections.abc import Sequence

from lightning_nas.architecture import Architecture
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.spaces import NASBench201Space
from lightning_nas.strategies import RandomSearch
from lightning_nas.strategies.history import QueryHistory
from lightning_nas.strategies.ranking import FitnessRanking

SPACE = NASBench201Space()


class Compared(float):
    """A number that counts comparisons."""

    count = 0

    def __lt__(self, other: float) -> bool:
        Compared.count += 1
        return float(self) < float(other)

    def __neg__(self) -> "Compared":
        return Compared(-float(self))


def test_it_is_the_order_of_sorting_with_ties_and_values_that_change() -> None:
    generator, ranking, fitness = random.Random(0), FitnessRanking(), dict[str, float]()
    for _ in range(300):
        key, value = str(generator.randrange(60)), generator.randrange(10) / 10
        fitness[key] = value
        ranking.put(key, value)
        assert list(ranking) == sorted(fitness, key=fitness.__getitem__, reverse=True)
    assert list(FitnessRanking(fitness)) == list(ranking)


def test_a_new_value_takes_few_comparisons() -> None:
    ranking, generator = FitnessRanking(), random.Random(0)
    for i in range(1000):
        ranking.put(str(i), Compared(generator.random()))
        next(iter(ranking))
    assert Compared.count < 12 * 1000  # a thousand has ten binary digits


class Read(dict[str, float]):
    """Objectives that count how often they are read."""

    count = 0

    def __getitem__(self, name: str) -> float:
        Read.count += 1
        return super().__getitem__(name)


class Watched(Evaluator):
    """Sums choices."""

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        return [Evaluation(Read(accuracy=float(sum(each.choices))), {}) for each in architectures]


def test_the_best_result_is_known_without_looking_at_all_of_them() -> None:
    queries = 120
    history, strategy = QueryHistory(SPACE, Watched(), budget=queries), RandomSearch()
    strategy.start(SPACE)
    Read.count = 0
    while history.step(strategy, 1):
        assert history.best in history.results
        assert strategy.leaders(1) == [strategy.best()]
    assert len(history.results) == queries
    assert Read.count < 6 * queries
    first = max(history.results, key=lambda result: result[1].objectives["accuracy"])
    assert history.best == first
