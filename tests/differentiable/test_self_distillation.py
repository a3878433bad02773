"""Self-distillation against its formula, and resumed runs."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_nas.callbacks.step_seed import StepSeed
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.differentiable.hypergradient.second_order import SecondOrder
from lightning_nas.differentiable.regularization.base import WeightStep
from lightning_nas.differentiable.regularization.self_distillation import SelfDistillation
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.tasks.bilevel import BilevelTask
from tests.helpers import FixedHalves, quiet_trainer


def step(images: Tensor, logits: Tensor, model: Any) -> WeightStep:
    return WeightStep(images, logits, model, model.mixtures(), torch.sum, torch.clone, 0.5)


def make(folder: Path, **options: Any) -> BilevelTask:
    torch.manual_seed(7)
    defaults: dict[str, Any] = {
        "space": DARTSSpace(nodes=2, channels=2, cells=3),
        "hypergradient": FirstOrder(),
        "discretizer": SoftmaxScore(),
        "weight_optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "alpha_optimizer": lambda p: torch.optim.Adam(p, lr=0.1),
        "output_dir": str(folder),
        "num_classes": 3,
        "image_shape": (3, 8, 8),
        "selection_images": 0,
    }
    return BilevelTask(**{**defaults, **options})


def fit(task: BilevelTask, *callbacks: Any, epochs: int = 4, path: Path | None = None, **options: Any) -> BilevelTask:
    trainer = quiet_trainer(max_epochs=epochs, callbacks=[StepSeed(), *callbacks], **options)
    trainer.fit(task, datamodule=FixedHalves(batches=2, dtype=torch.float32), ckpt_path=path)
    return task


def state(task: BilevelTask) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in task.state_dict().items()}


def test_the_term_is_that_of_the_formula(tmp_path: Path) -> None:
    distillation = SelfDistillation(weight=0.7, teachers=2, temperature=2.0)
    task = fit(make(tmp_path, regularizers=[distillation]), epochs=3)
    assert len(distillation.held) == 2
    x = torch.randn(5, 3, 8, 8)
    before = state(task)
    teachers = []
    for teacher in distillation.held:
        network = copy.deepcopy(task.model.supernet).train()
        network.load_state_dict(teacher["state"], strict=False)
        mixtures = {name: type(task.model.mixtures()[name])(*parts) for name, parts in teacher["mixtures"].items()}
        teachers.append(network(x, mixtures).detach())
    assert not torch.equal(teachers[0], teachers[1])
    vote = torch.stack([(logits / 2).softmax(1) for logits in teachers]).mean(0)
    logits = torch.randn(5, 3, requires_grad=True)
    own = (logits / 2).softmax(1)
    expected = 0.7 * 4 * (vote * (vote.log() - own.log())).sum(1).mean()
    found = distillation.weight_penalty(step(x, logits, task.model))
    assert found is not None
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(gradient, 0.7 * 2 * (own - vote).detach() / 5)
    after = state(task)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_term_moves_weights_and_only_after_the_first_epoch(tmp_path: Path) -> None:
    plain = state(fit(make(tmp_path)))
    zero = state(fit(make(tmp_path, regularizers=[SelfDistillation(weight=0.0)])))
    assert all(torch.equal(value, zero[name]) for name, value in plain.items())
    one = [state(fit(make(tmp_path, regularizers=r), epochs=1)) for r in ([], [SelfDistillation(weight=5.0)])]
    assert all(torch.equal(value, one[1][name]) for name, value in one[0].items())
    moved = state(fit(make(tmp_path, regularizers=[SelfDistillation(weight=5.0)])))
    assert not torch.equal(moved["model.supernet.classifier.weight"], plain["model.supernet.classifier.weight"])


def test_a_resumed_search_has_its_teachers(tmp_path: Path) -> None:
    ends = []
    for path in (None, tmp_path / "epoch=1.ckpt"):
        keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, enable_version_counter=False)
        task = make(tmp_path, regularizers=[SelfDistillation(weight=5.0, teachers=2)])
        ends.append(state(fit(task, keep, path=path, enable_checkpointing=True)))
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_teachers_of_another_supernet_are_dropped(tmp_path: Path) -> None:
    distillation = SelfDistillation()
    task = fit(make(tmp_path, regularizers=[distillation]), epochs=1)
    assert distillation.held
    kept = {name: torch.ones_like(mask) for name, mask in task.model.space.allowed.items()}
    kept["normal"][0, 1] = False
    task.model.restrict(kept)
    assert not distillation.held
    with pytest.raises(ConfigError, match="no teacher before the end of the first epoch"):
        distillation.vote(step(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3), task.model))


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="teachers is 0"):
        SelfDistillation(teachers=0)
    with pytest.raises(ConfigError, match="SecondOrder unrolls a step of the weights without"):
        make(tmp_path, hypergradient=SecondOrder(), regularizers=[SelfDistillation()])
    with pytest.raises(ConfigError, match="compile: True"):
        make(tmp_path, compile=True, regularizers=[SelfDistillation()])
