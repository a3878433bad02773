"""Paths of a supernet, and weights that stay where no path went."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.table import TableLookup
from lightning_nas.metrics.cost import parameters
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.supernets.sampling import CostWindow, FairPaths, SandwichPaths, UniformPaths
from lightning_nas.tables.nasbench201 import NASBench201Table
from lightning_nas.tables.synthetic import write_nasbench201

NO_NONE = ["skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
SMALL: list[Any] = [
    NASBench201Space(channels=2, cells_per_stage=1),
    DARTSSpace(nodes=2, channels=2, cells=3, operations=("none", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")),
]


def test_fair_paths_have_every_operation_once() -> None:
    space = NASBench201Space(allowed={"cell": [NO_NONE] * 6})
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        drawn = FairPaths().draw(space, generator)
        assert len(drawn) == 4
        assert all(sorted(column) == [1, 2, 3, 4] for column in zip(*(a.choices for a in drawn), strict=True))
    uneven = NASBench201Space(allowed={"cell": [NO_NONE] * 5 + [NO_NONE[:2]]})
    with pytest.raises(ConfigError, match=r"Choices have \[2, 4\] values"):
        FairPaths().draw(uneven, generator)
    with pytest.raises(ConfigError, match="Use UniformPaths"):
        FairPaths().draw(DARTSSpace(), generator)


def test_uniform_paths_are_draws_of_the_space() -> None:
    space = NASBench201Space()
    drawn = UniformPaths(3).draw(space, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    assert drawn == [space.sample(generator) for _ in range(3)]
    with pytest.raises(ConfigError, match="paths is 0"):
        UniformPaths(0)


def test_a_sandwich_has_the_largest_a_small_one_and_others() -> None:
    space = NASBench201Space(allowed={"cell": [NO_NONE] * 6})
    largest, small, *others = SandwichPaths(draws=9).draw(space, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    drawn = [space.sample(generator) for _ in range(9)]
    assert largest == space.largest()
    assert small in drawn
    assert space.parameter_count(small) == min(map(space.parameter_count, drawn))
    assert others == [space.sample(generator) for _ in range(2)]
    assert len(SandwichPaths(FairPaths(), others=1).draw(space, generator)) == 2 + 4
    with pytest.raises(ConfigError, match="draws is 0"):
        SandwichPaths(draws=0)
    with pytest.raises(ConfigError, match="others is -1"):
        SandwichPaths(others=-1)


@pytest.mark.slow
def test_costs_are_drawn_alike() -> None:
    space = NASBench201Space()
    sizes = {"channels": 4, "cells": 3, "image_shape": (3, 8, 8)}
    sampler = CostWindow((0, 20_000), windows=2, network_arguments=sizes)
    generator = torch.Generator().manual_seed(0)
    costs = []
    for _ in range(24):
        (drawn,) = sampler.draw(space, generator)
        costs.append(parameters(space.network(drawn, num_classes=10, **sizes)))
    assert max(costs) <= 20_000
    assert 6 < sum(cost > 10_000 for cost in costs) < 18
    with pytest.raises(ConfigError, match="two ascending numbers"):
        CostWindow((2, 1))
    with pytest.raises(ConfigError, match="Set cost_source to something"):
        CostWindow((1, 2), cost="macs")


@pytest.mark.slow
def test_costs_come_from_a_table(tmp_path: Path) -> None:
    table = NASBench201Table(str(write_nasbench201(tmp_path / "t.npz", seed=0)))
    known = TableLookup(table, cost_columns=["cifar10_params"])
    space = NASBench201Space()
    highest = float(table.column("cifar10_params").max())
    sampler = CostWindow((0, highest), windows=4, cost_source=known, cost="cifar10_params")
    generator = torch.Generator().manual_seed(0)
    drawn = [sampler.draw(space, generator)[0] for _ in range(100)]
    params = table.column("cifar10_params")[table.rows(drawn)]
    assert 12 < (params > 0.75 * highest).sum() < 38  # a quarter, as in every window
    assert (table.column("cifar10_params") > 0.75 * highest).mean() < 0.01
    assert known.queried == {}
    with pytest.raises(ConfigError, match="cost is 'macs'; TableLookup knows"):
        CostWindow((1, 2), cost_source=known, cost="macs").draw(space, generator)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("space", SMALL, ids=lambda s: type(s).__name__)
def test_paths_are_computed_on_the_gpu(space: Any) -> None:
    supernet = space.supernet(num_classes=3, image_shape=(3, 8, 8)).eval()
    path = space.to_path(space.sample(torch.Generator().manual_seed(0)))
    images = torch.randn(2, 3, 8, 8)
    here = supernet(images, path)
    torch.testing.assert_close(supernet.cuda()(images.cuda(), path).cpu(), here, rtol=1e-3, atol=1e-3)
