"""Look-ups as queries: counted once a network, within a budget, and never of test accuracies by accident."""

import numpy as np
import pytest

from lightning_nas.errors import BudgetError, ConfigError
from lightning_nas.evaluation.table import TableLookup
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tables.nasbench201 import NASBench201Table
from lightning_nas.tables.synthetic import write_nasbench201


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> NASBench201Table:
    return NASBench201Table(str(write_nasbench201(tmp_path_factory.mktemp("tables") / "made_up.npz", seed=3)))


CELLS = [NASBench201Space().architecture([i, 3, 3, 1, 2, 0]) for i in range(5)]


def test_a_network_is_one_query_in_whatever_form(table: NASBench201Table) -> None:
    lookup = TableLookup(table, cost_columns=["cifar10_params"])
    first = lookup.evaluate([*CELLS[:2], CELLS[0]])
    assert first[0] == first[2] != first[1]
    assert first[0].objectives["accuracy"] == pytest.approx(table.lookup(CELLS[0], "cifar10_val_200") / 100)
    assert first[0].cost == {"cifar10_params": table.lookup(CELLS[0], "cifar10_params")}
    same = NASBench201Space(("nor_conv_3x3", "none", "skip_connect", "nor_conv_1x1")).architecture([1, 0, 0, 2, 3, 1])
    assert lookup.evaluate([same]) == first[:1]
    assert len(lookup.queried) == 2
    assert lookup.costs(CELLS[4]) == {"cifar10_params": table.lookup(CELLS[4], "cifar10_params")}
    assert len(lookup.queried) == 2  # costs are known without a query


def test_a_budget_ends(table: NASBench201Table) -> None:
    lookup = TableLookup(table, budget=3)
    lookup.evaluate(CELLS[:2])
    with pytest.raises(BudgetError, match="2 architectures are new, but only 1 of 3 queries are left"):
        lookup.evaluate(CELLS[1:4])
    assert len(lookup.queried) == 2
    again = TableLookup(table, budget=3)
    again.load_state_dict(lookup.state_dict())
    again.evaluate(CELLS[:3])
    again.evaluate(CELLS[:3])
    with pytest.raises(BudgetError, match="0 of 3 queries are left"):
        again.evaluate(CELLS[3:])
    with pytest.raises(ConfigError, match="budget is 0"):
        TableLookup(table, budget=0)


def test_one_trial_is_always_the_same(table: NASBench201Table) -> None:
    found = {seed: TableLookup(table, one_trial=True, seed=seed).evaluate(CELLS) for seed in range(4)}
    for seed, evaluations in found.items():
        assert TableLookup(table, one_trial=True, seed=seed).evaluate(CELLS[::-1]) == evaluations[::-1]
        for cell, evaluation in zip(CELLS, evaluations, strict=True):
            trials = [table.lookup(cell, "cifar10_val_200", trial) / 100 for trial in range(3)]
            assert evaluation.objectives["accuracy"] in trials
    assert len({e.objectives["accuracy"] for evaluations in found.values() for e in evaluations}) > 5
    with pytest.raises(ConfigError, match="has no trials"):
        TableLookup(table, column="cifar10_params", one_trial=True).evaluate(CELLS)


def test_one_trial_is_one_that_is_known(table: NASBench201Table) -> None:
    with np.load(table.path) as file:
        arrays = dict(file)
    arrays["cifar10_val_200"][:, [0, 2]] = np.nan
    np.savez("some.npz", **arrays)
    some = NASBench201Table("some.npz")
    for seed in range(4):
        for cell, found in zip(CELLS, TableLookup(some, one_trial=True, seed=seed).evaluate(CELLS), strict=True):
            assert found.objectives["accuracy"] == table.lookup(cell, "cifar10_val_200", 1) / 100


def test_test_accuracies_must_be_asked_for(table: NASBench201Table) -> None:
    with pytest.raises(ConfigError, match=r"test images, which a search must not see.*set objective to test"):
        TableLookup(table, column="cifar10_test_200")
    (found,) = TableLookup(table, column="cifar10_test_200", objective="test").evaluate(CELLS[:1])
    assert found.objectives["accuracy"] == pytest.approx(table.lookup(CELLS[0], "cifar10_test_200") / 100)
