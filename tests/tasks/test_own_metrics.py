from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor
from torchmetrics import Metric, functional
from torchmetrics.classification import MulticlassAUROC

from lightning_nas.callbacks.monitor_check import MonitorCheck
from lightning_nas.errors import ConfigError
from lightning_nas.tasks.train import TrainTask
from tests.helpers import quiet_trainer
from tests.tasks.test_train import Stripes, make

GIVEN: dict[str, Any] = {
    "f1": {"class_path": "torchmetrics.F1Score", "init_args": {"average": "macro"}},
    "kappa": "torchmetrics.classification.MulticlassCohenKappa",
    "auroc": MulticlassAUROC(3),
    "seen": "tests.tasks.test_own_metrics.Seen",
}


class Seen(Metric):
    """A metric that knows nothing of classes: the number of images, if they come with probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("images", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        assert torch.allclose(probabilities.sum(1), torch.ones(len(labels)), atol=1e-6)
        self.images += len(labels)

    def compute(self) -> Tensor:
        return self.images


def test_metrics_are_those_of_all_images() -> None:
    task, trainer, data = make(metrics=GIVEN), quiet_trainer(max_epochs=3), Stripes()
    trainer.fit(task, datamodule=data)
    (tested,) = trainer.test(task, datamodule=data, verbose=False)
    with torch.no_grad():
        probabilities = torch.cat([task.eval()(x).softmax(1) for x, _ in data.loader()])
    labels = torch.cat([y for _, y in data.loader()])
    multi: dict[str, Any] = {"task": "multiclass", "num_classes": 3}
    expected = {
        "f1": functional.f1_score(probabilities, labels, average="macro", **multi),
        "kappa": functional.cohen_kappa(probabilities, labels, **multi),
        "auroc": functional.auroc(probabilities, labels, **multi),
        "seen": 24,
    }
    for name, value in expected.items():
        assert tested[f"test/{name}"] == pytest.approx(float(value), abs=1e-6), name
        assert trainer.logged_metrics.keys() >= {f"test/{name}"}
    assert {f"val/{name}" for name in GIVEN} < set(task.metrics_logged)


def test_metrics_can_be_monitored() -> None:
    stopper = EarlyStopping("val/f1", mode="max", patience=1, min_delta=2.0)
    trainer = quiet_trainer(max_epochs=9, callbacks=[MonitorCheck(), stopper])
    trainer.fit(make(metrics=GIVEN), datamodule=Stripes())
    assert trainer.current_epoch == 2
    trainer = quiet_trainer(max_epochs=1, callbacks=[MonitorCheck(), EarlyStopping("val/f2")])
    with pytest.raises(ConfigError, match=r"monitors 'val/f2', which nothing .*val/f1, val/kappa"):
        trainer.fit(make(metrics=GIVEN), datamodule=Stripes())
    assert "val/f1" in TrainTask.metrics_of({"metrics": GIVEN})
    assert TrainTask.metrics_of({}) == TrainTask.metrics_logged


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"f1": {"class_path": "torch.nn.Linear"}}, r"metrics.f1 is .*not a metric"),
        ({"f1": "torchmetrics.Nothing"}, r"metrics.f1 is 'torchmetrics.Nothing', which is not a metric"),
        ({"f1": "os.system"}, "not a metric that can be imported"),
        ({"f1": {"class_path": "torchmetrics.F1Score", "arguments": {}}}, "by its class_path"),
        ({"f1": 3}, r"metrics.f1 is 3. Name a subclass"),
        ({"f1": None}, r"metrics.f1 is None. Name a subclass"),
        ({"accuracy": "torchmetrics.F1Score"}, "the name 'accuracy'; names must .* not be one of loss, accuracy"),
        ({"a/b": "torchmetrics.F1Score"}, "the name 'a/b'"),
        ({True: "torchmetrics.F1Score"}, "the name True; names must"),  # YAML reads a key on or yes so
        ({"update": "torchmetrics.F1Score"}, "the name 'update', which is that of an attribute"),
        ({"prefix": "torchmetrics.F1Score"}, "the name 'prefix', which is that of an attribute"),
    ],
)
def test_what_is_no_metric_is_refused(given: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make(metrics=given)
    with pytest.raises(ConfigError, match=text):
        TrainTask.metrics_of({"metrics": given})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"class_path": "torchmetrics.F1Score", "init_args": {"beta": 1}}, "F1Score, refuses {'beta': 1}: "),
        ({"class_path": "torchmetrics.F1Score", "init_args": {"num_classes": 2}}, "cannot be computed from"),
        ("torchmetrics.MeanSquaredError", "cannot be computed from probabilities"),
        ("torchmetrics.ConfusionMatrix", r"computes a tensor of shape \(3, 3\); one number"),
        ({"class_path": "torchmetrics.Recall", "init_args": {"average": "none"}}, r"tensor of shape \(3,\)"),
    ],
)
def test_metrics_that_do_not_fit_are_refused_at_construction(given: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make(metrics={"own": given})
