"""A genetic algorithm over alphas in a space that shrinks."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench101.space import NASBench101Space
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.pevonas import PEvoNAS, narrowed, shrink
from tests.strategies.rugged import value

SPACE = NASBench201Space()


class Watched(PEvoNAS):
    """Notes every generation: its masks, alphas, and architectures."""

    def start(self, *args: Any, **kwargs: Any) -> None:
        self.seen: list[tuple[Tensor, Tensor, list[Architecture]]] = []
        super().start(*args, **kwargs)

    def enter(self, members: Tensor) -> None:
        super().enter(members)
        if len(members):
            self.seen.append((self.masks, members, self.generation))


def searched(strategy: PEvoNAS, queries: int = 1000, space: Any = SPACE, seed: int = 0) -> list[Architecture]:
    strategy.start(space, seed=seed)
    found: list[Architecture] = []
    while len(found) < queries and (asked := strategy.ask(min(7, queries - len(found)))):
        found += asked
        strategy.tell([(a, Evaluation({"accuracy": value(a)})) for a in asked])
    return found


def test_shrinking_keeps_the_largest_that_there_are() -> None:
    alphas = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]])
    assert shrink(alphas, 2).tolist() == [[False, True, False, True], [True, True, False, False]]
    assert shrink(alphas, 9).all()
    masks = torch.tensor([[True, False, True, True], [False, False, True, False]])
    assert shrink(alphas, 2, masks).tolist() == [[False, False, True, True], [False, False, True, False]]
    restricted = SPACE.restrict({"cell": shrink(torch.rand(6, 5), 2)})
    assert restricted.allowed["cell"].sum(1).tolist() == [2] * 6
    for wrong, match in (
        ((alphas, 0), "keep is 0"),
        ((alphas[0], 1), r"alphas have shape \(4,\)"),
        ((alphas, 1, masks[:1]), r"masks have shape \(1, 4\)"),
        ((alphas / 0, 1), "8 of them not finite"),
    ):
        with pytest.raises(ConfigError, match=match):
            shrink(*wrong)  # type: ignore[arg-type]


def test_the_space_shrinks_around_the_winner_and_the_search_ends() -> None:
    strategy = Watched(population_size=10, tournament_size=3, patience=4, restarts=False)
    found = searched(strategy)
    assert len(set(found)) == len(found)
    assert strategy.ask(1) == []
    widths = [int(masks.sum()) for masks, _, _ in strategy.seen]
    assert sorted(set(widths), reverse=True) == [30, 18, 12]
    assert widths == sorted(widths, reverse=True)
    for width in (30, 18, 12):
        stage = [generation for generation, w in zip(strategy.seen, widths, strict=True) if w == width]
        winners = [max(architectures, key=value) for _, _, architectures in stage]
        # the winner has stayed the same as often as patience says, and not before
        repeated = [winners[i - 4 : i] for i in range(4, len(winners) + 1)]
        assert [len(set(last)) == 1 for last in repeated] == [False] * (len(repeated) - 1) + [True]
        masks, members, architectures = stage[-1]
        best = members[architectures.index(winners[-1])]
        after = [m for m, _, _ in strategy.seen if int(m.sum()) < width][:1]
        for narrower in after:
            assert torch.equal(narrower, shrink(best, 3 if width == 30 else 2, masks))
    for masks, _, architectures in strategy.seen:
        for architecture in architectures:
            assert masks[range(6), architecture.choices].all()
    assert strategy.best() == max(found, key=value)
    assert strategy.alphas.argmax(1).tolist() == list(strategy.best().choices)


def test_children_have_every_row_of_a_parent_and_the_elite_lives_on() -> None:
    strategy = Watched(mutation=0.0, keep=(), patience=30)
    searched(strategy, 40)
    assert len(strategy.seen) > 2
    for (_, parents, before), (_, children, after) in zip(strategy.seen, strategy.seen[1:4], strict=False):
        assert torch.equal(children[0], parents[before.index(max(before, key=value))])
        assert value(after[0]) == max(map(value, before))
        same = (children.unsqueeze(1) == parents).all(3)  # (child, parent, row)
        assert same.any(1).all()
    (_, parents, _), (_, children, _) = strategy.seen[:2]
    copies = (children.unsqueeze(1) == parents).all(3).all(2).any(1)
    assert copies.sum() < len(copies) / 2


def test_rows_mutate_as_often_as_said() -> None:
    strategy = Watched(population_size=200, mutation=0.1, keep=(), patience=30)
    strategy.start(SPACE)
    strategy.tell([(a, Evaluation({"accuracy": value(a)})) for a in strategy.ask(200)])
    parents = strategy.members
    children = strategy.cross_and_mutate(parents)
    new = ~(children.unsqueeze(1) == parents).all(3).any(1)
    assert abs(float(new.double().mean()) - 0.1) < 4 * (0.09 / new.numel()) ** 0.5


def test_only_winners_of_tournaments_are_parents() -> None:
    strategy = PEvoNAS(population_size=6, tournament_size=6)
    strategy.start(SPACE)
    assert strategy.draw_parents(6) == [0] * 6
    strategy = PEvoNAS(population_size=2000, tournament_size=2)
    strategy.start(SPACE)
    drawn = torch.tensor(strategy.draw_parents(3)).bincount()
    assert len(drawn) == 2  # the worst of three never wins against another
    assert abs(float(drawn[0]) / 2000 - 2 / 3) < 0.05


def test_it_begins_again_in_the_whole_space() -> None:
    strategy = Watched(population_size=10, tournament_size=3, patience=2)
    found = searched(strategy, 400)
    widths = [int(masks.sum()) for masks, _, _ in strategy.seen]
    again = [i for i in range(1, len(widths)) if widths[i] > widths[i - 1]]
    assert again
    for i in again:
        assert (widths[i - 1], widths[i]) == (12, 30)
    assert strategy.best() == max(found, key=value)
    # the best alphas are those of the best individual, although it may be of an earlier space
    assert strategy.alphas.argmax(1).tolist() == list(strategy.best().choices)


def test_a_search_gone_on_with_shrinks_and_begins_again_alike() -> None:
    def make() -> PEvoNAS:
        return PEvoNAS(population_size=6, tournament_size=2, patience=3)

    whole = searched(make(), 98)
    strategy = make()
    strategy.start(SPACE, seed=0)
    found: list[Architecture] = []
    shrunk = set()
    while len(found) < 98:
        found += (asked := strategy.ask(7))
        strategy.tell([(a, Evaluation({"accuracy": value(a)})) for a in asked])
        state = strategy.state_dict()
        shrunk.add(state["shrunk"])
        strategy = make()
        strategy.start(SPACE, seed=len(found))
        strategy.load_state_dict(state)
    assert shrunk == {0, 1, 2}
    assert found[:98] == whole


def test_a_chain_shrinks_between_its_links() -> None:
    space = SPACE
    for keep in (3, 2):
        strategy = PEvoNAS(keep=(), restarts=False, patience=3)
        searched(strategy, space=space, seed=keep)
        assert strategy.ask(1) == []
        space = space.restrict({"cell": shrink(strategy.alphas, keep, strategy.masks)})
        assert space.allowed["cell"].sum(1).tolist() == [keep] * 6
        space.check(strategy.best())


def test_only_architectures_are_asked_for_where_most_choices_are_none() -> None:
    space = NASBench101Space()
    strategy = PEvoNAS(population_size=6, keep=(2, 1), patience=2)
    strategy.start(space, seed=1)
    asked: list[Architecture] = []
    while len(asked) < 40:
        asked += (more := strategy.ask(6))
        strategy.tell([(a, Evaluation({"accuracy": float(sum(a.choices))})) for a in more])
    assert len({space.key(a) for a in asked}) == len(asked)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"population_size": 1}, "population_size is 1"),
        ({"elites": 0}, "elites is 0"),
        ({"elites": 20}, "elites is 20"),
        ({"tournament_size": 21}, "tournament_size is 21"),
        ({"mutation": 1.5}, "mutation is 1.5"),
        ({"patience": 0}, "patience is 0"),
        ({"generations": 0}, "generations is 0"),
        ({"keep": (3, 3)}, r"keep is \[3, 3\]"),
        ({"keep": (2, 0)}, r"keep is \[2, 0\]"),
    ],
)
def test_wrong_numbers_are_named(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        PEvoNAS(**wrong)


def test_there_are_no_best_alphas_of_nobody() -> None:
    strategy = PEvoNAS()
    strategy.start(SPACE)
    with pytest.raises(ConfigError, match="Nothing has been evaluated"):
        _ = strategy.alphas


def drift(version: int) -> Any:
    return lambda a: float(derived_seed(version, *a.choices) % 10**6)


def test_the_whole_population_is_scored_anew_where_scores_move() -> None:
    strategy = PEvoNAS(population_size=6, tournament_size=2, patience=3, keep=(3,), restarts=False, rescore=True)
    strategy.start(SPACE)
    with pytest.raises(ConfigError, match="of 5 has no room for 6 individuals"):
        strategy.ask(5)
    again = PEvoNAS(population_size=6, tournament_size=2, patience=3, keep=(3,), restarts=False, rescore=True)
    last: list[Architecture] = []
    for version in range(1000):
        asked = strategy.ask(6)
        assert not asked or set(asked) == set(strategy.generation)
        if not asked:
            break
        # among others an elite, the best by the scores of its generation
        assert not last or strategy.state_dict()["shrunk"] or max(last, key=drift(version - 1)) in asked
        strategy.tell([(a, Evaluation({"accuracy": drift(version)(a)})) for a in asked])
        best = max(asked, key=drift(version))
        assert strategy.fitness == {SPACE.key(a): drift(version)(a) for a in asked}
        assert strategy.best() == best
        assert strategy.alphas.argmax(1).tolist() == list(best.choices)
        last = asked
        again.start(SPACE, seed=version)
        again.load_state_dict(strategy.state_dict())
        strategy, again = again, strategy
    else:
        pytest.fail("the search did not end")
    assert version > 2 * 3
    # what the last generation found is known after its end
    assert strategy.alphas.argmax(1).tolist() == list(max(last, key=drift(version - 1)).choices)


def test_a_narrowed_space_allows_the_largest_alphas() -> None:
    alphas = torch.arange(30.0).reshape(6, 5)
    given = NASBench201Space(channels=4, allowed={"cell": [["none", "skip_connect", "nor_conv_3x3"]] * 6})
    allowed = narrowed(given, alphas, 2)
    assert allowed == {"cell": [["skip_connect", "nor_conv_3x3"]] * 6}
    masks = torch.zeros(6, 5, dtype=torch.bool)
    masks[:, :2] = True
    assert narrowed(given, alphas, 1, masks) == {"cell": [["skip_connect"]] * 6}
    for space in (NASBench101Space(), DARTSSpace()):
        with pytest.raises(ConfigError, match="cannot be narrowed to some operations"):
            narrowed(space, torch.rand(3, 3), 2)  # type: ignore[arg-type]
