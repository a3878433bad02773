"""Searches whose supernet changes: operations are removed, or the space is replaced."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lightning_nas.differentiable.discretization.skip_cap import SkipCap
from lightning_nas.differentiable.normalization.edge_softmax import EdgeSoftmax
from lightning_nas.differentiable.normalization.joint_softmax import JointSoftmax
from lightning_nas.differentiable.regularization.beta_decay import BetaDecay
from lightning_nas.differentiable.regularization.edge_variance import EdgeVariance
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from tests.helpers import FixedHalves, quiet_trainer
from tests.tasks.test_bilevel import fit, make

SPACES = [DARTSSpace(nodes=2, channels=4, cells=3), NASBench201Space(channels=4, cells_per_stage=1)]


def masks(space: Any, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.rand(mask.shape, generator=generator) < 0.5 for name, mask in space.allowed.items()}
    for mask in found.values():
        mask[:, 3] = True
    return found


class Prune(Callback):
    """Removes operations after the first epoch."""

    def __init__(self, allowed: dict[str, Tensor]) -> None:
        self.allowed = allowed

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Remove them."""
        if trainer.current_epoch == 0:
            pl_module.model.restrict(self.allowed)


@pytest.mark.parametrize("space", SPACES, ids=["darts", "nasbench201"])
def test_restricted_in_the_middle_of_a_search(tmp_path: Path, space: Any) -> None:
    """What is left, alphas and optimizers included, goes on as if the other factors had become zero."""
    allowed = masks(space)

    task = make(tmp_path, space=space)
    callback = Prune(allowed)
    quiet_trainer(max_epochs=2, precision="64-true", callbacks=[callback]).fit(task, datamodule=FixedHalves())
    state = task.trainer.optimizers[0].state_dict()["state"]
    parameters = list(task.model.supernet.parameters())
    assert len(state) == len(parameters)
    assert all(state[i]["momentum_buffer"].shape == p.shape for i, p in enumerate(parameters))
    assert sum(p.numel() for p in parameters) < sum(
        p.numel() for p in make(tmp_path, space=space).model.supernet.parameters()
    )
    factors = task.model.mixtures()
    for name, mask in allowed.items():
        assert (factors[name].operations[~mask] == 0).all()
        torch.testing.assert_close(factors[name].operations.sum(1), torch.ones(len(mask), dtype=torch.float64))
    space.restrict(allowed).check(task.model.discretize())


@pytest.mark.slow
def test_restricted_search_resumes(tmp_path: Path) -> None:
    """A run that is resumed after operations were removed ends like one without the interruption."""
    space = DARTSSpace(nodes=2, channels=4, cells=3)
    allowed = masks(space)
    data = FixedHalves(dtype=torch.float32)

    def trainer(epochs: int) -> Trainer:
        return quiet_trainer(max_epochs=epochs, callbacks=[Prune(allowed)])

    whole, half, rest = (make(tmp_path, space=space, selection_images=0) for _ in range(3))
    trainer(4).fit(whole, datamodule=data)
    first = trainer(2)
    first.fit(half, datamodule=data)
    first.save_checkpoint(tmp_path / "half.ckpt")
    trainer(4).fit(rest, datamodule=data, ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name
    for name, mask in allowed.items():
        assert torch.equal(rest.model.space.allowed[name], mask)


@pytest.mark.slow
def test_an_edge_without_operations_takes_no_share(tmp_path: Path) -> None:

    allowed = {name: torch.ones(5, 8, dtype=torch.bool) for name in ("normal", "reduce")}
    allowed["normal"][2] = False
    for normalization in (None, EdgeSoftmax(), JointSoftmax()):
        regularizers = [BetaDecay(1.0), EdgeVariance(1.0)]
        task = make(tmp_path, normalization=normalization, regularizers=regularizers)
        task.model.restrict(allowed)
        mixture = task.model.mixtures()["normal"]
        assert (mixture.operations[2] == 0).all()
        if normalization is not None:
            torch.testing.assert_close(mixture.operations[2:].sum(), torch.tensor(1.0))
        penalty = torch.stack([r.penalty(task.model.masked_alphas(-torch.inf), 0.5) for r in regularizers]).sum()
        (mixture.operations.square().sum() + penalty).backward()
        assert torch.isfinite(penalty)
        assert torch.isfinite(task.model.alphas["normal"].grad).all()
        assert (task.model.alphas["normal"].grad[2] == 0).all()
        fit(task, FixedHalves())


def test_a_search_is_rebuilt_in_cells_of_the_same_kind_only(tmp_path: Path) -> None:
    task = make(tmp_path, discretizer=SkipCap())
    before = {name: value.clone() for name, value in task.state_dict().items()}
    with pytest.raises(ConfigError, match="would mean something else"):
        task.model.rebuild(DARTSSpace(nodes=3, channels=2, cells=3), 0)
    few = [["none", "skip_connect"]] * 5
    with pytest.raises(ConfigError, match="at least 4"):
        task.model.rebuild(DARTSSpace(nodes=2, channels=2, cells=3, allowed={"normal": few}), 0)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    task.model.rebuild(task.model.space, 1)
    changed = [name for name, value in task.state_dict().items() if not torch.equal(value, before[name])]
    assert {"model.alphas.normal", "model.supernet.stem.0.weight"} <= set(changed)
