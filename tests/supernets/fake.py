"""A small supernet of digits, and what tests of it share."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_nas.architecture import Architecture
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tasks.supernet import SupernetTask
from tests.helpers import quiet_trainer

SPACE = NASBench201Space(channels=4, cells_per_stage=1)
SHAPE = (1, 8, 8)


class Convolutions(Evaluator):
    """Knows that convolutions are good."""

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        return [Evaluation({"accuracy": sum(a.choices.count(c) for c in (2, 3)) / 6}) for a in architectures]


def digits(**options: Any) -> DigitsDataModule:
    return DigitsDataModule(batch_size=300, validation_fraction=0.2, **options)


def sgd(lr: float) -> Any:
    return lambda p: torch.optim.SGD(p, lr, momentum=0.9, weight_decay=0.01)


def made(lr: float = 0.05, **options: Any) -> SupernetTask:
    return SupernetTask(SPACE, optimizer=sgd(lr), image_shape=SHAPE, output_dir="found", **options)


def fit(task: LightningModule, data: Any = None, epochs: int = 2, ckpt_path: Any = None, **options: Any) -> Trainer:
    trainer = quiet_trainer(max_epochs=epochs, **options)
    trainer.fit(task, datamodule=data or digits(), ckpt_path=ckpt_path)
    return trainer


def states_equal(first: Any, second: Any) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())
