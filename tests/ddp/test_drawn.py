"""Searches that draw operations, and searches in phases, in two processes."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_nas.callbacks.operation_stopping import OperationStopping
from lightning_nas.callbacks.p_darts import PDARTSPhases
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.differentiable.hypergradient.one_level import OneLevel
from lightning_nas.differentiable.relaxation.dirichlet import Dirichlet
from lightning_nas.differentiable.relaxation.gumbel_softmax import GumbelSoftmax, HardGumbelSoftmax
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from tests.ddp.test_equality import Frozen, Keep, bilevel, difference, fit, images, search

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or torch.cuda.is_available(), reason="processes are forked, which must come before CUDA"
)


def nasbench201(folder: Path, batch_size: int) -> Any:
    space = NASBench201Space(channels=2, cells_per_stage=1)
    task = search(FirstOrder(), space, relaxation=HardGumbelSoftmax())
    return task, HalvesDataModule(images(folder, 1), batch_size=batch_size)


@pytest.mark.parametrize(
    "make",
    [
        bilevel(FirstOrder, relaxation=GumbelSoftmax()),
        bilevel(FirstOrder, relaxation=Dirichlet()),
        bilevel(FirstOrder, relaxation=HardGumbelSoftmax()),
        bilevel(OneLevel, relaxation=HardGumbelSoftmax()),
        nasbench201,
    ],
    ids=["soft", "Dirichlet", "hard", "hard, one level", "hard, NAS-Bench-201"],
)
def test_two_processes_draw_the_same_and_are_one_with_their_global_batch(make: Any, tmp_path: Path) -> None:
    for world in (1, 2):
        fit(make, tmp_path, world, [Frozen(), Keep()])
    one, first, second = (torch.load(f"world{w}_rank{r}.pt") for w, r in ((1, 0), (2, 0), (2, 1)))
    torch.manual_seed(11)
    start = {n: t.double() for n, t in make(tmp_path, 4)[0].state_dict().items()}
    assert difference(first, second) == 0
    assert difference(one, first) < 1e-9
    assert difference(one, start) > 1e-3, "nothing was trained"


def test_two_processes_stop_the_operations_of_one_with_their_global_batch(tmp_path: Path) -> None:
    for world in (1, 2):
        fit(bilevel(FirstOrder), tmp_path, world, [Frozen(), OperationStopping(0.1, steps=2), Keep()])
    one, first, second = (torch.load(f"world{w}_rank{r}.pt") for w, r in ((1, 0), (2, 0), (2, 1)))
    assert difference(first, second) == 0
    assert difference(one, first) < 1e-9
    fit(bilevel(FirstOrder), tmp_path, 1, [Frozen(), Keep()])
    assert difference(one, torch.load("world1_rank0.pt")) > 1e-5, "nothing has stopped"


def test_phases_are_refused_in_two_processes(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="cannot change while 2 processes"):
        fit(bilevel(FirstOrder), tmp_path, 2, [PDARTSPhases(cells=(3, 4), kept=(3,), skip_dropout=(0.0, 0.0))])
