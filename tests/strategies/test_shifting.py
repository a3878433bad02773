"""Supernet Shifting: searches that go on training their supernet."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lightning_nas.callbacks.preemption import PreemptionCheckpoint
from lightning_nas.data.dummy import DummyDataModule
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.data.sets import Batch, ImageSet
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.evaluation.supernet import SupernetEvaluator
from lightning_nas.files.artifacts import read_json
from lightning_nas.spaces.artifact import load_architecture
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.population import PopulationEvolution
from lightning_nas.strategies.shifting import Shifting
from lightning_nas.supernets.artifact import TrainedSupernet
from lightning_nas.tasks.evolve import EvolveTask
from tests.supernets.fake import SPACE, Convolutions, digits, fit, made, sgd, states_equal


def supernet() -> str:
    fit(made(), epochs=1)
    return "found/supernet.safetensors"


def shifted(path: str, data: Any = None, shifting: Any = None, **options: Any) -> EvolveTask:
    new = options.pop("new_classes", False)
    scores = SupernetEvaluator(path, data=data or digits(), images=60, calibration_images=32, new_classes=new)
    strategy = PopulationEvolution(parents=2, rescore=True)
    given: dict[str, Any] = {
        "budget": 18,
        "generation_size": 6,
        "objective": "loss",
        "output_dir": "shifted",
        **options,
    }
    shifting = shifting or Shifting(sgd(0.02), steps=2, batch_size=16)
    return EvolveTask(SPACE, strategy=strategy, evaluator=scores, shifting=shifting, **given)


@pytest.mark.slow
def test_every_generation_is_trained_then_scored() -> None:
    path = supernet()
    task = shifted(path, reference=Convolutions())
    trainer = fit(task, DummyDataModule(10), epochs=1)
    assert (len(task.history.results), task.scores.version) == (18, 3)
    assert {"truth/kendall_tau", "diversity", "mean/loss", "best/loss", "train/loss"} <= set(trainer.callback_metrics)
    # the best is that of the last generation, by the weights that are written
    last = task.history.results[12:]
    best = min(last, key=lambda result: result[1].objectives["loss"])
    assert load_architecture("shifted/architecture.json") == best[0]
    assert read_json(Path("shifted/history.json"), repair="")["queries"] == 18
    after = TrainedSupernet.load("shifted/supernet.safetensors")
    assert not states_equal(after.network.state_dict(), TrainedSupernet.load(path).network.state_dict())
    scores = SupernetEvaluator("shifted/supernet.safetensors", data=digits(), images=60, calibration_images=32)
    assert scores.evaluate([best[0]])[0].objectives["loss"] == pytest.approx(best[1].objectives["loss"], rel=1e-4)


@pytest.mark.slow
def test_a_resumed_search_ends_the_same() -> None:
    path = supernet()
    whole = shifted(path)
    fit(whole, DummyDataModule(10), epochs=1)
    expected = {name: value.clone() for name, value in whole.supernet.state_dict().items()}  # type: ignore[union-attr]
    keep: Any = [ModelCheckpoint("kept", "last", enable_version_counter=False), PreemptionCheckpoint(1)]

    class Stop(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            if batch_idx == 2:
                raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError, match="the power is gone"):
        fit(shifted(path), DummyDataModule(10), epochs=1, callbacks=[*keep, Stop()], enable_checkpointing=True)
    (middle,) = Path("kept").glob("*.ckpt")
    resumed = shifted(path)
    fit(resumed, DummyDataModule(10), epochs=1, ckpt_path=middle, callbacks=keep, enable_checkpointing=True)
    assert [a for a, _ in resumed.history.results] == [a for a, _ in whole.history.results]
    assert states_equal(resumed.supernet.state_dict(), expected)  # type: ignore[union-attr]


def test_a_generation_makes_one_update_or_one_a_batch() -> None:
    path = supernet()
    scores = SupernetEvaluator(path, data=digits())
    architectures = [SPACE.sample(torch.Generator().manual_seed(i)) for i in range(3)]

    class Counting(torch.optim.SGD):
        steps = 0

        def step(self, closure: Any = None) -> Any:
            type(self).steps += 1
            return super().step(closure)

    for accumulate, expected in ((True, 4), (False, 12)):
        Counting.steps = 0
        shifting = Shifting(lambda p: Counting(p, 0.01), steps=4, accumulate=accumulate, batch_size=8)
        shifting.train(scores, shifting.optimizer(scores), architectures, 0)
        assert Counting.steps == expected


class FirstImages(ImageSet):
    """Gives the first images, whichever are asked for."""

    def __getitems__(self, indices: list[int]) -> Batch:
        return super().__getitems__(list(range(len(indices))))


class SameBatch(DigitsDataModule):
    """Every batch has the same images."""

    def load_train(self) -> Any:
        whole = super().load_train()
        return FirstImages(whole.images, whole.labels, whole.class_names)


def test_the_order_of_a_generation_matters_only_without_accumulation() -> None:
    path = supernet()
    architectures = [SPACE.sample(torch.Generator().manual_seed(i)) for i in range(3)]

    def ends(accumulate: bool, backwards: bool) -> Any:
        scores = SupernetEvaluator(path, data=SameBatch(batch_size=300, validation_fraction=0.2))
        shifting = Shifting(sgd(0.05), steps=1, accumulate=accumulate, batch_size=8)
        order = architectures[::-1] if backwards else architectures
        shifting.train(scores, shifting.optimizer(scores), order, 0)
        return scores.loaded.network.classifier.weight.detach()

    torch.testing.assert_close(ends(True, False), ends(True, True), rtol=1e-4, atol=1e-6)
    assert (ends(False, False) - ends(False, True)).abs().max() > 1e-5


def test_a_frozen_body_stays() -> None:
    path = supernet()
    task = shifted(path, shifting=Shifting(sgd(0.02), steps=2, batch_size=16, frozen_body=True))
    fit(task, DummyDataModule(10), epochs=1)
    before, after = (TrainedSupernet.load(file) for file in (path, "shifted/supernet.safetensors"))
    for name, value in before.network.named_parameters():
        assert torch.equal(value, dict(after.network.named_parameters())[name]) == (name not in before.classifier())


class Halved(DigitsDataModule):
    """Digits of two classes."""

    def load_train(self) -> Any:
        whole = super().load_train()
        chosen = whole.select((whole.labels < 2).nonzero().flatten())
        chosen.class_names = whole.class_names[:2]
        return chosen


def test_a_supernet_moves_to_other_classes() -> None:
    path = supernet()
    data = Halved(batch_size=32, validation_fraction=0.2)
    with pytest.raises(DataError, match="set new_classes to true"):
        fit(shifted(path, data), DummyDataModule(10), epochs=1)
    task = shifted(path, data, new_classes=True, objective="accuracy")
    fit(task, DummyDataModule(10), epochs=1)
    assert TrainedSupernet.load("shifted/supernet.safetensors").num_classes == 2
    assert task.history.best[1].objectives["accuracy"] > 0.8


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ConfigError, match="the innermost evaluator is Convolutions"):
        EvolveTask(SPACE, strategy=PopulationEvolution(), evaluator=Convolutions(), shifting=Shifting(sgd(0.1)))
    other = EvolveTask(
        NASBench201Space(operations=("none", "nor_conv_3x3")),
        strategy=PopulationEvolution(),
        evaluator=SupernetEvaluator(supernet(), data=digits()),
        shifting=Shifting(sgd(0.1)),
    )
    with pytest.raises(ConfigError, match="Use the space that the supernet was trained in"):
        fit(other, DummyDataModule(2), epochs=1)
    with pytest.raises(ConfigError, match="steps is 0"):
        Shifting(sgd(0.1), steps=0)
