from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_nas.cli.lightning import run
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.experts import Experts
from lightning_nas.distill.siamese import SiameseAugmentation
from lightning_nas.distill.trajectory import TrajectoryMatching
from lightning_nas.errors import CheckpointError, ConfigError, TrainingError
from lightning_nas.tasks.experts import ExpertsTask
from tests.helpers import quiet_trainer

BATCH = 480  # two batches an epoch, without those that do not fill one


@pytest.fixture(scope="module")
def digits() -> DigitsDataModule:
    return DigitsDataModule(batch_size=BATCH)


def make(folder: Path | str = "found", lr: float = 0.1, **options: Any) -> ExpertsTask:
    defaults: dict[str, Any] = {"experts": 2, "epochs_per_expert": 2, "width": 4, "depth": 2, "image_shape": (1, 8, 8)}
    return ExpertsTask(lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9), output_dir=str(folder), **defaults | options)


def fit(task: ExpertsTask, digits: DigitsDataModule, epochs: int = 4, **options: Any) -> Trainer:
    trainer = quiet_trainer(max_epochs=epochs, **{k: v for k, v in options.items() if k != "ckpt_path"})
    trainer.fit(task, datamodule=digits, ckpt_path=options.get("ckpt_path"))
    return trainer


def found(folder: Path | str = "found") -> Experts:
    return Experts.load(Path(folder) / "experts.safetensors")


def flat(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_experts_are_those_of_an_ordinary_training(digits: DigitsDataModule) -> None:
    task = make()
    batches: list[Any] = []

    class Seen(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
            batches.append(batch)

    fit(task, digits, callbacks=[Seen()])
    made = found()
    assert made.weights.shape[:2] == (2, 3)
    assert made.info["source"] == "DigitsDataModule"
    assert made.info["mean"] == digits.mean
    assert task.outputs["experts"] == [Path("found/experts.safetensors"), Path("found/experts.json")]
    assert not torch.equal(made.weights[0, 0], made.weights[1, 0])
    assert len(batches) == 8
    for expert, own in enumerate((batches[:4], batches[4:])):
        network = ConvNet((1, 8, 8), 10, 4, 2)
        torch.nn.utils.vector_to_parameters(made.weights[expert, 0].clone(), network.parameters())
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)  # a new one: it knows no momentum
        trajectory = [flat(network)]
        for step, (images, labels) in enumerate(own):
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
            if step % 2:
                trajectory.append(flat(network))
        torch.testing.assert_close(made.weights[expert], torch.stack(trajectory), rtol=0, atol=1e-6)


def test_first_weights_depend_on_the_seed_and_the_expert_alone(digits: DigitsDataModule) -> None:
    starts = []
    for seed, folder in ((0, "a"), (0, "b"), (1, "c")):
        torch.manual_seed(len(starts))
        fit(make(folder, seed=seed, epochs_per_expert=1), digits, epochs=2, limit_train_batches=1)
        starts.append(found(folder).weights[:, 0])
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_a_task_can_be_trained_again_and_a_stopped_run_keeps_what_is_finished(digits: DigitsDataModule) -> None:
    class Stop(Callback):
        """Ends a run, whose files were moved away meanwhile, in the middle of the second expert."""

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 2:
                Path("found").rename("moved")
                trainer.should_stop = True

    task = make()
    fit(task, digits, callbacks=[Stop()])
    assert torch.equal(found().weights, found("moved").weights)
    assert len(found().weights) == 1
    fit(task, digits)
    assert torch.equal(found().weights[:1], found("moved").weights)
    assert len(found().weights) == 2


class KilledError(Exception):
    """As by a signal."""


class Kill(ModelCheckpoint):
    """Keeps a checkpoint, and ends the process: after an epoch, or after the first batch of one."""

    def __init__(self, epoch: int, within: bool) -> None:
        super().__init__(dirpath="kept", filename="last", enable_version_counter=False)
        self.epoch = epoch
        self.within = within

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.within and trainer.current_epoch == self.epoch:
            trainer.save_checkpoint("kept/last.ckpt")
            raise KilledError

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.current_epoch == self.epoch:
            raise KilledError


@pytest.mark.parametrize(("epoch", "within"), [(0, False), (1, False), (2, False), (3, False), (0, True), (2, True)])
def test_a_run_gone_on_with_equals_an_uninterrupted_one(epoch: int, within: bool, digits: DigitsDataModule) -> None:
    def task(folder: str) -> ExpertsTask:
        return make(folder, augmentation=SiameseAugmentation(saturation=0))

    fit(task("whole"), digits)
    with pytest.raises(KilledError):
        fit(task("parts"), digits, callbacks=[Kill(epoch, within)], enable_checkpointing=True)
    # those that are finished can be used already
    finished = (epoch + (not within)) // 2
    assert Path("parts/experts.safetensors").is_file() == (finished > 0)
    if finished:
        assert torch.equal(found("parts").weights, found("whole").weights[:finished])
    torch.manual_seed(99)
    Path("kept/last.ckpt").rename("killed.ckpt")
    for folder in ("parts", "elsewhere"):  # a run's own folder is a new one
        keeper = [Kill(-1, False)]
        fit(task(folder), digits, callbacks=keeper, enable_checkpointing=True, ckpt_path="killed.ckpt")
        assert torch.equal(found(folder).weights, found("whole").weights)
        assert found(folder).info == found("whole").info


def test_experts_are_added_by_going_on_with_more(digits: DigitsDataModule) -> None:
    trainer = fit(make("two"), digits)
    trainer.save_checkpoint("two.ckpt")
    fit(make("three", experts=3), digits, epochs=6, ckpt_path="two.ckpt")
    fit(make("whole", experts=3), digits, epochs=6)
    assert torch.equal(found("three").weights, found("whole").weights)


def test_checkpoints_of_other_experts_are_refused(digits: DigitsDataModule) -> None:
    fit(make(), digits).save_checkpoint("two.ckpt")
    for options, match in (
        ({"experts": 1, "epochs_per_expert": 4}, "has 2 experts of 2 epochs.*experts is 1 and epochs_per_expert 4"),
        ({"experts": 4, "epochs_per_expert": 1}, "epochs_per_expert 1"),
        ({"width": 5}, "another network"),
    ):
        with pytest.raises(CheckpointError, match=match):
            fit(make(**options), digits, ckpt_path="two.ckpt")
    with pytest.raises(CheckpointError, match="has 2 experts"):
        fit(make(experts=1), digits, epochs=2, ckpt_path="two.ckpt")


def test_the_number_of_epochs_must_be_that_of_all_experts(digits: DigitsDataModule) -> None:
    for epochs in (-1, 3, 5):
        with pytest.raises(ConfigError, match=f"max_epochs is {epochs}; 2 experts of 2 epochs need 4"):
            fit(make(), digits, epochs=epochs)


def test_impossible_settings_are_refused() -> None:
    for name in ("experts", "epochs_per_expert", "width", "depth"):
        with pytest.raises(ConfigError, match=f"{name} is 0"):
            make(**{name: 0})
    # the published number at the published width
    with pytest.raises(ConfigError, match="6528204000 bytes"):
        make(experts=100, epochs_per_expert=50, width=128, depth=3, image_shape=(3, 32, 32))


def test_diverging_experts_are_not_written(digits: DigitsDataModule) -> None:
    with pytest.raises(TrainingError, match="train/loss"):
        fit(make(lr=1e30), digits)
    assert not Path("found").exists()


def test_augmentation_changes_the_training_and_validation_is_measured() -> None:
    trajectories = []
    data = DigitsDataModule(batch_size=200, validation_fraction=0.3)
    for augmentation in (None, SiameseAugmentation(saturation=0)):
        trainer = fit(make(experts=1, augmentation=augmentation), data, epochs=2)
        trajectories.append(found().weights[0])
    assert torch.equal(trajectories[0][0], trajectories[1][0])
    assert not torch.equal(trajectories[0][1], trajectories[1][1])
    network = ConvNet((1, 8, 8), 10, 4, 2)
    torch.nn.utils.vector_to_parameters(trajectories[1][-1].clone(), network.parameters())
    images, labels = (torch.cat(parts) for parts in zip(*map(data.prepare, data.val_dataloader()), strict=True))
    logits = network(images)
    metrics = trainer.callback_metrics
    assert float(metrics["val/loss"]) == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert float(metrics["val/accuracy"]) == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert {"train/loss", "train/accuracy"} <= metrics.keys()


def test_shipped_configurations_run_one_after_the_other(tmp_path: Path, configs: Path) -> None:
    quiet = [
        *("--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false"),
        *("--trainer.enable_model_summary=false", "--trainer.logger=false", "--trainer.enable_checkpointing=false"),
    ]
    made = tmp_path / "experts.safetensors"
    run(
        [
            *("fit", "--config", str(configs / "distill" / "experts.yaml"), *quiet),
            *("--data=lightning_nas.data.images.DigitsDataModule", "--data.batch_size=480"),
            *("--model.experts=1", "--model.epochs_per_expert=3", "--trainer.max_epochs=3", "--model.width=4"),
            *("--model.depth=2", f"--model.output_dir={tmp_path}"),
        ]
    )
    assert Experts.load(made).weights.shape[:2] == (1, 4)
    matcher = "--model.init_args.matcher.init_args"
    cli = run(
        [
            *("fit", "--config", str(configs / "distill" / "trajectory_matching.yaml"), *quiet),
            *("--data.data=lightning_nas.data.images.DigitsDataModule", "--data.steps_per_epoch=2"),
            *(f"{matcher}.experts_path={made}", f"{matcher}.student_steps=2", f"{matcher}.max_start_epoch=1"),
            *("--model.scheme.init_args.images_per_class=1", "--trainer.max_epochs=1"),
            f"--model.output_dir={tmp_path}",
        ]
    )
    assert isinstance(cli.model.matcher, TrajectoryMatching)
    assert (tmp_path / "proxy.safetensors").is_file()
