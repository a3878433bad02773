"""Single-path supernets: training, ranks, and searches that train on."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint

from lightning_nas.architecture import Architecture
from lightning_nas.data.dummy import DummyDataModule
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.errors import ConfigError
from lightning_nas.supernets.artifact import TrainedSupernet
from lightning_nas.supernets.sampling import FairPaths, UniformPaths
from lightning_nas.tasks.supernet import SupernetTask
from tests.helpers import quiet_trainer
from tests.supernets.fake import SHAPE, SPACE, Convolutions, digits, fit, made, states_equal


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
        optimizer=lambda p: torch.optim.SGD(p, 0.05),
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


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_a_resumed_training_ends_the_same(precision: Any) -> None:
    whole = made()
    fit(whole, epochs=4, precision=precision)
    keep = ModelCheckpoint("kept", filename="two", every_n_epochs=2, save_top_k=-1)
    fit(made(), epochs=2, callbacks=[keep], enable_checkpointing=True, precision=precision)
    (path,) = Path("kept").glob("*.ckpt")
    resumed = made()
    fit(
        resumed,
        epochs=4,
        precision=precision,
        ckpt_path=path,
        callbacks=[ModelCheckpoint("kept", every_n_epochs=2)],
        enable_checkpointing=True,
    )
    assert states_equal(resumed.supernet.state_dict(), whole.supernet.state_dict())


@pytest.mark.slow
def test_validation_compares_ranks_with_the_reference() -> None:
    task = made(reference=Convolutions(), ranked=12)
    data = DigitsDataModule(batch_size=60, validation_fraction=0.2)
    once = {"check_val_every_n_epoch": 6, "num_sanity_val_steps": 0}
    trainer = fit(task, data, epochs=6, **once)
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert {"val/accuracy", "val/kendall_tau", "val/kendall_tau_low", "val/local_kendall_tau"} <= set(values)
    assert 0.2 < values["val/accuracy"] <= 1
    again = made(reference=Convolutions(), ranked=12, supernet_path="found/supernet.safetensors")
    (found,) = quiet_trainer().validate(again, datamodule=digits(), verbose=False)
    assert found["val/accuracy"] == pytest.approx(values["val/accuracy"])
    assert found["val/kendall_tau"] == pytest.approx(values["val/kendall_tau"])


def test_averaged_weights_are_ranked_and_written() -> None:
    """An average that forgets nothing keeps the weights of the first step, whatever the later ones do."""
    first = made(ranked=8)
    fit(first, digits(), max_steps=1, limit_val_batches=0)
    task = made(ranked=8)
    trainer = fit(task, digits(), epochs=1, callbacks=[EMAWeightAveraging(decay=1.0)], num_sanity_val_steps=0)
    written = TrainedSupernet.load("found/supernet.safetensors").network.state_dict()
    assert states_equal(written, first.supernet.state_dict())
    (found,) = quiet_trainer().validate(first, datamodule=digits(), verbose=False)
    assert float(trainer.callback_metrics["val/accuracy"]) == pytest.approx(found["val/accuracy"])


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="ranked is 1"):
        made(ranked=1)
    with pytest.raises(ConfigError, match="needs a data module of images"):
        fit(made(), DummyDataModule(2))
