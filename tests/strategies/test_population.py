"""Evolution of a population by its best members."""

import pytest

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.population import PopulationEvolution

SPACE = NASBench201Space()


def evaluation(architecture: Architecture) -> Evaluation:
    return Evaluation({"accuracy": float(architecture.choices.count(3))})


def generations(strategy: PopulationEvolution, sizes: list[int]) -> list[list[Architecture]]:
    strategy.start(SPACE, seed=0)
    asked = []
    for size in sizes:
        asked.append(strategy.ask(size))
        strategy.tell([(a, evaluation(a)) for a in asked[-1]])
    return asked


def keys(architectures: list[Architecture]) -> list[str]:
    return [SPACE.key(a) for a in architectures]


def test_generations_are_new_and_get_better() -> None:
    asked = generations(PopulationEvolution(parents=3), [20] * 5)
    everything = [key for each in asked for key in keys(each)]
    assert len(set(everything)) == 100
    means = [sum(evaluation(a).objectives["accuracy"] for a in each) / 20 for each in asked]
    assert means[4] > means[0] + 1


def test_parents_come_back_where_scores_move() -> None:
    strategy = PopulationEvolution(parents=4, rescore=True)
    asked = generations(strategy, [20, 20, 20])
    for before, after in zip(asked, asked[1:], strict=False):
        best = sorted(before, key=lambda a: -evaluation(a).objectives["accuracy"])[:4]
        assert keys(after)[:4] == keys(best)
        assert len(set(keys(after))) == 20
    # scores of earlier generations no longer count
    strategy.tell([(asked[0][0], Evaluation({"accuracy": 99.0}))])
    strategy.tell([(a, evaluation(a)) for a in asked[2]])
    assert evaluation(strategy.best()).objectives["accuracy"] == max(
        evaluation(a).objectives["accuracy"] for a in asked[2]
    )
    with pytest.raises(ConfigError, match="4 has no room beside its 4 parents"):
        strategy.ask(4)


def test_children_are_mutations_and_crossings() -> None:
    crossed = generations(PopulationEvolution(parents=2, mutated=0.0), [20, 10])
    first, second = (a.choices for a in sorted(crossed[0], key=lambda a: -a.choices.count(3))[:2])
    for child in crossed[1]:
        if all(c in pair for c, *pair in zip(child.choices, first, second, strict=True)):
            break
    else:
        raise AssertionError("no child has its parents' choices")
    mutated = generations(PopulationEvolution(parents=1, mutated=1.0, mutation_probability=0.01), [20, 10])
    (parent,) = sorted(mutated[0], key=lambda a: -a.choices.count(3))[:1]
    differing = [sum(a != b for a, b in zip(child.choices, parent.choices, strict=True)) for child in mutated[1]]
    assert differing == [1] * 10


def test_wrong_numbers_are_named() -> None:
    for wrong in ({"parents": 0}, {"mutated": 1.5}, {"mutation_probability": 0.0}):
        with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
            PopulationEvolution(**wrong)  # type: ignore[arg-type]
