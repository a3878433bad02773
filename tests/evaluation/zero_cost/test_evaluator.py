"""The evaluator of untrained networks, and the search that it makes quick."""

from pathlib import Path

import pytest
import torch

from lightning_nas.data import DigitsDataModule
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation import ZeroCost
from lightning_nas.evaluation.zero_cost import MultiplyAccumulates, Parameters, ShortestPath, SynFlow
from lightning_nas.spaces import DARTSSpace, NASBench101Space, NASBench201Space
from lightning_nas.strategies import QueryHistory, Screen

SPACE = NASBench201Space()
CELLS = [SPACE.sample(torch.Generator().manual_seed(i)) for i in range(5)]


def test_one_score_is_the_objective_and_two_are_a_sum_of_ranks() -> None:
    columns = [
        [e.objectives[score.name] for e in ZeroCost([score], channels=4).evaluate(CELLS)]
        for score in (SynFlow(), Parameters())
    ]
    both = ZeroCost([SynFlow(), Parameters()], channels=4).evaluate(CELLS)
    for place, evaluation in enumerate(both):
        # one for itself, one for each that is smaller, one half for each that is equal
        ranks = [0.5 + sum((v < of[place]) + 0.5 * (v == of[place]) for v in of) for of in columns]
        assert evaluation.objectives["zero_cost"] == sum(ranks)
        assert evaluation.features is not None
        assert evaluation.features[1].item() == columns[1][place]


def test_ranks_share_ties_and_put_what_passes_nothing_last() -> None:
    empty = SPACE.architecture([0] * 6)
    cells = [empty, CELLS[0], SPACE.largest()]
    found = [e.objectives["zero_cost"] for e in ZeroCost([SynFlow(), ShortestPath()], channels=4).evaluate(cells)]
    assert found[0] == 2.0
    ties = ZeroCost([Parameters(), MultiplyAccumulates()], channels=4)
    skips, pools = SPACE.architecture([1] * 6), SPACE.architecture([4] * 6)
    assert [e.objectives["zero_cost"] for e in ties.evaluate([skips, pools, SPACE.largest()])] == [3.0, 3.0, 6.0]


def test_ranks_are_among_all_that_was_scored_and_asking_again_costs_nothing() -> None:
    evaluator = ZeroCost([SynFlow(), Parameters()], channels=4)
    evaluator.evaluate(CELLS[:2])
    version = evaluator.version
    evaluator.evaluate(CELLS[:2])
    assert evaluator.version == version
    evaluator.evaluate(CELLS[2:])
    assert evaluator.version > version
    again = evaluator.evaluate(CELLS)
    whole = ZeroCost([SynFlow(), Parameters()], channels=4).evaluate(CELLS)
    assert [e.objectives for e in again] == [e.objectives for e in whole]


def test_a_search_that_goes_on_has_the_same_ranks() -> None:
    evaluator, other = (ZeroCost([SynFlow(), Parameters()], channels=4) for _ in range(2))
    evaluator.evaluate(CELLS[:3])
    other.load_state_dict(evaluator.state_dict())
    assert other.version == evaluator.version
    assert [e.objectives for e in other.evaluate(CELLS)] == [e.objectives for e in evaluator.evaluate(CELLS)]


def test_scores_are_taken_on_images_of_the_data() -> None:
    data = DigitsDataModule()
    data.setup("fit")
    evaluator = ZeroCost(data=data, images=10, channels=4)
    images, labels = evaluator.batch
    assert images.shape == (10, 1, 8, 8)
    assert len(labels) == 10
    first, second = evaluator.evaluate(CELLS[:2])
    assert first.objectives.keys() == {"zero_cost"}
    assert first.features is not None
    assert len(first.features) == 5
    other = ZeroCost(data=data, images=10, channels=4, seed=1)
    assert not torch.equal(other.batch[0], images)


def test_a_screen_looks_at_the_neighbours_of_the_best_and_ends_with_all_ranks_alike() -> None:
    evaluator, strategy = ZeroCost([Parameters(), ShortestPath()], channels=4), Screen(initial=20, parents=2, rounds=2)
    strategy.start(SPACE, "zero_cost", 0)
    history = QueryHistory(SPACE, evaluator, 1000, "zero_cost")
    asked = []
    while found := history.step(strategy, 15):
        asked.append([SPACE.key(a) for a, _ in found])
    known = {key for each in asked for key in each}
    assert SPACE.key(SPACE.largest()) in known
    assert all(len(set(each)) == len(each) for each in asked)
    best = strategy.best()
    order = list(dict.fromkeys(key for each in asked for key in each))
    assert order[0] == SPACE.key(SPACE.largest())
    near = {SPACE.key(n) for key in order for n in SPACE.neighbours(strategy.evaluated[key])}
    assert len(order) > 21
    assert near.issuperset(order[21:])
    again = evaluator.evaluate([strategy.evaluated[key] for key in sorted(known)])
    assert history.best[0] == best
    assert max(e.objectives["zero_cost"] for e in again) == history.best[1].objectives["zero_cost"]


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="images is 1"):
        ZeroCost(images=1)
    with pytest.raises(ConfigError, match="may be named once"):
        ZeroCost([SynFlow(), SynFlow()])
    with pytest.raises(ConfigError, match="parents is 0"):
        Screen(parents=0)


def test_networks_depend_on_every_choice() -> None:
    """With one cell, a network of the DARTS space has no normal cell, and all normal cells would score alike."""
    space = DARTSSpace()
    assert [each.least_cells for each in (SPACE, NASBench101Space(), space)] == [1, 1, 3]
    sizes = []
    for name in ("skip_connect", "sep_conv_3x3"):
        operation = space.operations.index(name)
        normal, reduce = [0, operation, 1, operation] * 4, [0, 3, 1, 3] * 4
        for choices in (normal + reduce, reduce + normal):
            (found,) = ZeroCost([Parameters()], channels=4).evaluate([space.architecture(choices)])
            sizes.append(found.objectives["parameters"])
    assert sizes[0] != sizes[2]  # the normal cells differ
    assert sizes[1] != sizes[3]
    with pytest.raises(ConfigError, match="cells is 2, but a network of DARTSSpace with fewer than 3 cells"):
        ZeroCost([Parameters()], cells=2).evaluate([space.largest()])


def test_a_screen_begins_with_the_results_of_other_searches(tmp_path: Path) -> None:
    path = CELLS[1].save(tmp_path / "architecture.json")
    strategy = Screen(initial=1, starts=[str(path)])
    strategy.start(SPACE, "zero_cost", 0)
    assert strategy.ask(10)[:2] == [SPACE.largest(), CELLS[1]]
    elsewhere = NASBench201Space(["skip_connect", "none"])
    with pytest.raises(ConfigError, match="cannot be a start of this search"):
        strategy.start(elsewhere, "zero_cost", 0)
