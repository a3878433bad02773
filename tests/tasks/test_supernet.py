"""Single-path supernets: training, ranks, and searches that train on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lightning_nas.architecture import Architecture
from lightning_nas.callbacks.preemption import PreemptionCheckpoint
from lightning_nas.data.dummy import DummyDataModule
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.evaluation.supernet import SupernetEvaluator
from lightning_nas.files.artifacts import read_json
from lightning_nas.spaces.artifact import load_architecture
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.population import PopulationEvolution
from lightning_nas.strategies.shifting import Shifting
from lightning_nas.supernets.artifact import TrainedSupernet
from lightning_nas.supernets.sampling import FairPaths, UniformPaths
from lightning_nas.tasks.evolve import EvolveTask
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
    return SupernetTask(SPACE, sgd(lr), image_shape=SHAPE, output_dir="found", **options)


def fit(task: LightningModule, data: Any = None, epochs: int = 2, ckpt_path: Any = None, **options: Any) -> Trainer:
    trainer = quiet_trainer(max_epochs=epochs, **options)
    trainer.fit(task, datamodule=data or digits(), ckpt_path=ckpt_path)
    return trainer


def states_equal(first: Any, second: Any) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


class Seen(Callback):
    """Keeps the batches."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
        self.batches.append([each.clone() for each in batch])


@pytest.mark.parametrize("paths", [UniformPaths(2), FairPaths()], ids=lambda p: type(p).__name__)
def test_training_is_that_of_a_plain_loop(paths: Any) -> None:
    class Drawn:
        def __init__(self) -> None:
            self.drawn: list[list[Architecture]] = []

        def draw(self, *args: Any) -> list[Architecture]:
            self.drawn.append(paths.draw(*args))
            return self.drawn[-1]

    seen, sampler = Seen(), Drawn()
    # without momentum and decay, what no path uses stays by itself; tests/spaces/test_paths.py has the rest
    task = SupernetTask(
        SPACE,
        lambda p: torch.optim.SGD(p, 0.05),
        paths=sampler,  # type: ignore[arg-type]
        label_smoothing=0.1,
        image_shape=SHAPE,
        output_dir="found",
    )
    plain = SPACE.supernet(num_classes=10, image_shape=SHAPE)
    plain.load_state_dict(task.supernet.state_dict())
    fit(task, epochs=1, callbacks=[seen])
    optimizer = torch.optim.SGD(plain.parameters(), 0.05)
    for (images, labels), architectures in zip(seen.batches, sampler.drawn, strict=True):
        optimizer.zero_grad()
        losses = [F.cross_entropy(plain(images, SPACE.to_path(a)), labels, label_smoothing=0.1) for a in architectures]
        torch.stack(losses).mean().backward()
        optimizer.step()
    assert len(seen.batches) == 3
    for name, value in task.supernet.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-4, atol=1e-5)
    found = TrainedSupernet.load("found/supernet.safetensors")
    assert states_equal(found.network.state_dict(), task.supernet.state_dict())
    assert found.info["steps"] == 3


def test_unused_weights_stay_where_the_optimizer_has_momentum() -> None:
    narrow = SPACE.restrict({"cell": torch.tensor([[False, True, False, True, False]] * 6)})

    class Narrow(UniformPaths):
        def draw(self, space: Any, generator: torch.Generator) -> list[Architecture]:
            return (
                [narrow.sample(generator)]
                if int(torch.randint(9, (1,), generator=generator))
                else [space.sample(generator)]
            )

    task = made(paths=Narrow())
    before = {name: value.clone() for name, value in task.supernet.named_parameters()}
    fit(task, epochs=1)
    pointwise = [name for name in before if name.endswith("weight_1")]  # 1x1 convolutions, which no narrow path has
    assert pointwise
    moved = [name for name in pointwise if not torch.equal(before[name], dict(task.supernet.named_parameters())[name])]
    assert len(moved) < len(pointwise) or not moved


def test_a_resumed_training_ends_the_same() -> None:
    whole = made()
    fit(whole, epochs=4)
    keep = ModelCheckpoint("kept", filename="two", every_n_epochs=2, save_top_k=-1)
    fit(made(), epochs=2, callbacks=[keep], enable_checkpointing=True)
    (path,) = Path("kept").glob("*.ckpt")
    resumed = made()
    fit(
        resumed,
        epochs=4,
        ckpt_path=path,
        callbacks=[ModelCheckpoint("kept", every_n_epochs=2)],
        enable_checkpointing=True,
    )
    assert states_equal(resumed.supernet.state_dict(), whole.supernet.state_dict())


def test_validation_compares_ranks_with_the_truth() -> None:
    task = made(reference=Convolutions(), ranked=12)
    data = DigitsDataModule(batch_size=60, validation_fraction=0.2)
    trainer = fit(task, data, epochs=6, limit_val_batches=1.0)
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert {"val/accuracy", "val/kendall_tau", "val/kendall_tau_low", "val/local_kendall_tau"} <= set(values)
    assert 0.2 < values["val/accuracy"] <= 1
    again = made(reference=Convolutions(), ranked=12, supernet_path="found/supernet.safetensors")
    (found,) = quiet_trainer().validate(again, datamodule=digits(), verbose=False)
    assert found["val/accuracy"] == pytest.approx(values["val/accuracy"])
    assert found["val/kendall_tau"] == pytest.approx(values["val/kendall_tau"])


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="ranked is 1"):
        made(ranked=1)
    with pytest.raises(ConfigError, match="needs images"):
        fit(made(), DummyDataModule(2))


# -- searches ---------------------------------------------------------------------------------------------------------


def supernet() -> str:
    fit(made(), epochs=1)
    return "found/supernet.safetensors"


def shifted(path: str, data: Any = None, shifting: Any = None, **options: Any) -> EvolveTask:
    new = options.pop("new_classes", False)
    scores = SupernetEvaluator(path, data or digits(), images=60, calibration_images=32, new_classes=new)
    strategy = PopulationEvolution(parents=2, rescore=True)
    given: dict[str, Any] = {
        "budget": 18,
        "generation_size": 6,
        "objective": "loss",
        "output_dir": "shifted",
        **options,
    }
    shifting = shifting or Shifting(sgd(0.02), steps=2, batch_size=16)
    return EvolveTask(SPACE, strategy, scores, shifting=shifting, **given)


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
    scores = SupernetEvaluator("shifted/supernet.safetensors", digits(), images=60, calibration_images=32)
    assert scores.evaluate([best[0]])[0].objectives["loss"] == pytest.approx(best[1].objectives["loss"], rel=1e-4)


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
    scores = SupernetEvaluator(path, digits())
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


def test_the_order_of_a_generation_matters_only_without_accumulation() -> None:
    path = supernet()
    architectures = [SPACE.sample(torch.Generator().manual_seed(i)) for i in range(3)]

    def ends(accumulate: bool, backwards: bool) -> Any:
        scores = SupernetEvaluator(path, digits())
        shifting = Shifting(sgd(0.05), steps=1, accumulate=accumulate, batch_size=8)
        batches = {a: shifting._batch(scores, 0, i, 0) for i, a in enumerate(architectures)}
        order = architectures[::-1] if backwards else architectures
        shifting._batch = lambda scores, generation, place, step: batches[order[place]]  # type: ignore[method-assign]
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
        EvolveTask(SPACE, PopulationEvolution(), Convolutions(), shifting=Shifting(sgd(0.1)))
    other = EvolveTask(
        NASBench201Space(operations=("none", "nor_conv_3x3")),
        PopulationEvolution(),
        SupernetEvaluator(supernet(), digits()),
        shifting=Shifting(sgd(0.1)),
    )
    with pytest.raises(ConfigError, match="Use the space that the supernet was trained for"):
        fit(other, DummyDataModule(2), epochs=1)
    with pytest.raises(ConfigError, match="steps is 0"):
        Shifting(sgd(0.1), steps=0)
