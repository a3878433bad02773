"""NSGA-II over alphas."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.metrics.pareto import front, ranked
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench101.space import NASBench101Space
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.base import Strategy
from lightning_nas.strategies.history import QueryHistory
from lightning_nas.strategies.nevonas import NEvoNAS, novelty
from lightning_nas.strategies.random_search import RandomSearch
from tests.strategies.rugged import value

SPACE = NASBench201Space()


def searched(
    strategy: Strategy,
    queries: int,
    space: Any = SPACE,
    seed: int = 0,
    objective: Callable[[Architecture], float] = value,
    count: int = 20,
) -> list[Architecture]:
    strategy.start(space, seed=seed)
    found: list[Architecture] = []
    while len(found) < queries and (asked := strategy.ask(min(count, queries - len(found)))):
        found += asked
        strategy.tell([(a, Evaluation({"accuracy": objective(a)})) for a in asked])
    return found


def test_novelty_is_the_mean_jaccard_distance_to_the_nearest() -> None:
    generator = torch.Generator().manual_seed(0)
    choices = torch.randint(3, (16, 5), generator=generator)
    for places, neighbours in (([3, 0, 15], 3), (list(range(16)), 40), ([7], 1)):
        expected = []
        for place in places:
            others = choices.tolist()[:place] + choices.tolist()[place + 1 :]
            pairs = [(set(enumerate(choices[place].tolist())), set(enumerate(other))) for other in others]
            distances = sorted(1 - len(a & b) / len(a | b) for a, b in pairs)[:neighbours]
            expected.append(sum(distances) / len(distances))
        assert novelty(choices, torch.tensor(places), neighbours).tolist() == pytest.approx(expected)
    assert novelty(choices[:1], torch.tensor([0]), 5).tolist() == [0.0]


def test_the_first_generation_is_uniform() -> None:
    """The alphas of random architectures are uniform numbers, whatever the architectures are."""
    strategy = NEvoNAS(population_size=200)
    strategy.start(SPACE, seed=0)
    asked = strategy.ask(200)
    assert strategy.decode(strategy.members).tolist() == [list(a.choices) for a in asked]
    numbers = strategy.members.flatten().sort().values
    assert len(numbers) == 200 * 30
    largest_step = (numbers - torch.linspace(0, 1, len(numbers), dtype=torch.float64)).abs().max()
    assert largest_step < 1.95 / len(numbers) ** 0.5  # Kolmogorov and Smirnov, at 0.1 %


def test_those_survive_that_nsga2_selects() -> None:
    strategy = NEvoNAS(population_size=8)
    strategy.start(SPACE, seed=1)
    for _ in range(12):
        while asked := [a for a in strategy.generation if SPACE.key(a) not in strategy.evaluated] or (
            [] if strategy.generation else strategy.ask(8)
        ):
            strategy.tell([(a, Evaluation({"accuracy": value(a)})) for a in asked])
        alive = torch.cat([strategy.survivors, strategy.members])
        places, archive = strategy.living()
        assert torch.equal(archive[places], strategy.decode(alive))
        novelties = novelty(archive, places, 5)
        architectures = [SPACE.architecture(c) for c in strategy.decode(alive).tolist()]
        values = [[value(a), float(n)] for a, n in zip(architectures, novelties, strict=True)]
        # the most accurate is on the front, and is the best that is known
        assert max(values[i][0] for i in front(values)) == value(strategy.best())
        strategy.enter(strategy.breed())
        order = ranked(values)[:8]
        assert torch.equal(strategy.survivors, alive[order])
        assert strategy.survivor_keys == [SPACE.key(architectures[i]) for i in order]
        assert strategy.members.min() >= 0
        assert strategy.members.max() <= 1
    assert len(strategy.archive) == 12 * 8


def test_what_is_known_is_not_asked_for_and_enters_all_the_same() -> None:
    strategy = NEvoNAS()
    found = searched(strategy, 200)
    assert len(set(found)) == 200
    assert len(strategy.archive) > 200  # individuals, some of them alike
    assert strategy.best() == max(found, key=value)
    # a supernet trains on the whole generation
    assert len(strategy.training_paths()) == 20
    strategy.start(SPACE)
    assert strategy.ask(7) == strategy.training_paths()[:7]


def test_fitness_counts_unless_novelty_alone_does() -> None:
    def opposite(architecture: Architecture) -> float:
        return -value(architecture)

    alone = [searched(NEvoNAS(novelty_only=True), 150, objective=objective) for objective in (value, opposite)]
    assert alone[0] == alone[1]
    both = [searched(NEvoNAS(), 150, objective=objective) for objective in (value, opposite)]
    assert both[0][:20] == both[1][:20]
    assert both[0] != both[1]


def test_it_finds_better_ones_than_chance_and_novelty_spreads() -> None:
    def mean(make: Callable[[], Strategy], seed: int) -> float:
        return sum(value(a) for a in searched(make(), 120, seed=seed)[60:]) / 60

    def spread(make: Callable[[], NEvoNAS], seed: int) -> float:
        strategy = make()
        searched(strategy, 120, seed=seed)
        choices = strategy.decode(strategy.survivors)
        return float(novelty(choices, torch.arange(20), 19).mean())

    for seed in range(2):
        assert mean(NEvoNAS, seed) > mean(RandomSearch, seed) + 1
        assert spread(lambda: NEvoNAS(novelty_only=True), seed) > spread(lambda: NEvoNAS(neighbours=1), seed)


def test_the_most_novel_is_alive() -> None:
    strategy = NEvoNAS(novelty_only=True)
    strategy.start(SPACE)
    with pytest.raises(ConfigError, match="no architecture is alive"):
        strategy.most_novel()
    searched(strategy, 100)
    places, archive = strategy.living()
    assert len(places) == 40
    novelties = novelty(archive, places, 5)
    found = {tuple(archive[place].tolist()): float(n) for place, n in zip(places, novelties, strict=True)}
    assert found[strategy.most_novel().choices] == max(found.values()) > 0


@pytest.mark.parametrize("space", [DARTSSpace(), NASBench101Space()], ids=lambda s: type(s).__name__)
def test_only_architectures_are_asked_for_where_most_choices_are_none(space: Any) -> None:
    found = searched(NEvoNAS(population_size=6), 20, space, objective=lambda a: float(sum(a.choices)))
    assert len({space.key(a) for a in found}) == 20
    for architecture in found:
        space.check(architecture)


def test_a_restricted_space_is_searched_to_its_end() -> None:
    edges = [["none"]] * 3 + [["none", "nor_conv_3x3", "skip_connect"]] * 3
    strategy = NEvoNAS(population_size=5)
    found = searched(strategy, 100, NASBench201Space(allowed={"cell": edges}))
    assert len(set(found)) == 27
    assert strategy.masks.sum(1).tolist() == [1, 1, 1, 3, 3, 3]
    assert strategy.ask(1) == []


class Moving(Evaluator):
    """Scores that change with every version, in another order each time."""

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        return [Evaluation({"accuracy": self.score(a)}) for a in architectures]

    def score(self, architecture: Architecture) -> float:
        return float(derived_seed(self.version, *architecture.choices) % 10**6)

    def train(self, architectures: Sequence[Architecture]) -> None:
        self.version += 1

    def state_dict(self) -> dict[str, Any]:
        return {"version": self.version}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.version = state["version"]


def test_survivors_are_scored_anew_where_scores_move() -> None:
    evaluator, strategy = Moving(), NEvoNAS(population_size=6, rescore=True)
    search = QueryHistory(SPACE, evaluator, budget=100)
    strategy.start(SPACE)
    sizes = []
    while found := search.step(strategy, 12, evaluator.train):
        sizes.append(len(found))
        alive = strategy.alive()
        # nothing but what this version says of all that are alive is known
        assert strategy.fitness == {key: evaluator.score(a) for key, a in alive.items()}
        assert {SPACE.key(a) for a, _ in found} == alive.keys()
        assert strategy.best() == search.best[0] == max(alive.values(), key=evaluator.score)
        choices = torch.cat([strategy.survivors, strategy.members])
        places, archive = strategy.living()
        values = [
            [evaluator.score(SPACE.architecture(c)), float(n)]
            for c, n in zip(strategy.decode(choices).tolist(), novelty(archive, places, 5), strict=True)
        ]
        expected = choices[ranked(values)[:6]]
        state = strategy.state_dict()
        strategy.breed()
        assert torch.equal(strategy.survivors, expected)
        strategy.load_state_dict(state)
    assert len(sizes) > 7
    assert sizes[0] == 6 < max(sizes) <= 12
    # a generation is scored as a whole, or not at all
    assert 88 < sum(sizes) <= 100
    assert strategy.ask(12)


def test_a_search_with_moving_scores_goes_on_alike() -> None:
    def continued(every: int) -> list[Any]:
        search, strategy = QueryHistory(SPACE, Moving(), budget=80), NEvoNAS(population_size=5, rescore=True)
        strategy.start(SPACE)
        for number in range(100):
            evaluator: Any = search.evaluator
            if not search.step(strategy, 10, evaluator.train):
                return search.rows()
            if number % every == 0:
                states = search.state_dict(), strategy.state_dict()
                search, strategy = QueryHistory(SPACE, Moving(), budget=80), NEvoNAS(population_size=5, rescore=True)
                strategy.start(SPACE, seed=number)
                search.load_state_dict(states[0])
                strategy.load_state_dict(states[1])
        raise AssertionError("the search did not end")

    assert continued(1) == continued(1000)


def test_a_generation_must_have_room_for_all_that_are_scored_anew() -> None:
    strategy = NEvoNAS(population_size=6, rescore=True)
    strategy.start(SPACE)
    with pytest.raises(ConfigError, match="of 11 has no room for 12 individuals"):
        strategy.ask(11)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"population_size": 1}, "population_size is 1"),
        ({"neighbours": 0}, "neighbours is 0"),
        ({"crossover": 1.0}, "crossover is 1.0"),
        ({"mutation": 0.0}, "mutation is 0.0"),
        ({"crossover_eta": 1.0}, "crossover_eta is 1.0"),
        ({"mutation_eta": float("nan")}, "mutation_eta is nan"),
    ],
)
def test_wrong_numbers_are_named(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        NEvoNAS(**wrong)
