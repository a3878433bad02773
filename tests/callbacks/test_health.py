"""The health monitor against exact derivatives and formulas."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from lightning_nas.callbacks import health
from lightning_nas.callbacks.health import HealthMonitor, alpha_eigenvalue, gap, sharpness, smallest_alpha_eigenvalue
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.errors import ConfigError
from lightning_nas.report.curves import read_curves
from lightning_nas.report.panels import health_rows
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.supernet import Mixture
from lightning_nas.tasks.bilevel import BilevelTask
from tests.helpers import FixedHalves, quiet_trainer

OPERATIONS = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")
DARTS = DARTSSpace(nodes=2, operations=OPERATIONS, channels=4, cells=3)
NASBENCH201 = NASBench201Space(channels=4, cells_per_stage=1)


def make(space: Any = DARTS, **options: Any) -> BilevelTask:
    torch.manual_seed(7)
    defaults: dict[str, Any] = {
        "weight_optimizer": lambda p: torch.optim.SGD(p, lr=0.025, momentum=0.9),
        "alpha_optimizer": lambda p: torch.optim.Adam(p, lr=0.1),
        "output_dir": "out",
        "selection_images": 0,
        "num_classes": 3,
        "image_shape": (3, 8, 8),
    }
    return BilevelTask(space, hypergradient=FirstOrder(), discretizer=SoftmaxScore(), **{**defaults, **options})


def fit(task: BilevelTask, *callbacks: Callback, epochs: int = 3, ckpt_path: Path | None = None, **options: Any) -> Any:
    trainer = quiet_trainer(max_epochs=epochs, precision="64-true", callbacks=list(callbacks), **options)
    trainer.fit(task, datamodule=FixedHalves(batches=2), ckpt_path=ckpt_path)
    return trainer


def loss_at(task: BilevelTask, flat: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    parts = flat.split([a.numel() for a in task.model.alpha_list])
    mixtures = {
        name: Mixture(part.view_as(alpha).softmax(1), torch.ones(len(alpha), dtype=torch.float64))
        for (name, alpha), part in zip(task.model.alphas.items(), parts, strict=True)
    }
    state = {name: b.clone() for name, b in task.model.supernet.named_buffers()}
    return F.cross_entropy(torch.func.functional_call(task.model.supernet, state, (images, mixtures)), labels)


@pytest.mark.slow
@pytest.mark.parametrize("space", [DARTS, NASBENCH201], ids=["darts", "nasbench201"])
def test_the_eigenvalue_is_that_of_the_whole_hessian(space: Any) -> None:
    task = make(space, alpha_scale=1.0).double()
    images, labels = FixedHalves(batches=2).sets["search"][:]
    flat = torch.cat([a.detach().flatten() for a in task.model.alpha_list])
    hessian: Any = torch.autograd.functional.hessian(lambda a: loss_at(task, a, images, labels), flat)
    truth = torch.linalg.eigvalsh(hessian)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    task.model.supernet.eval()
    assert truth[-1] > 1e-3
    assert alpha_eigenvalue(task.model, images, labels, 1e-12) == pytest.approx(float(truth[-1]), rel=1e-9)
    assert alpha_eigenvalue(task.model, images, labels) == pytest.approx(float(truth[-1]), rel=0.01)
    assert smallest_alpha_eigenvalue(task.model, images, labels, 1e-12) == pytest.approx(float(truth[0]), rel=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert not any(part.training for part in task.model.supernet.modules())


def test_the_sharpness_is_the_rise_of_the_loss_near_the_weights() -> None:
    task = make(NASBENCH201).double()
    images, labels = FixedHalves(batches=2).sets["search"][:]
    before = {name: value.clone() for name, value in task.state_dict().items()}
    found = sharpness(task.model, images, labels, 0.3)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    weights = {name: weight.detach() for name, weight in task.model.supernet.named_parameters()}
    norm = torch.cat([weight.flatten() for weight in weights.values()]).norm()
    generator, rises = torch.Generator().manual_seed(0), []
    for _ in range(4):
        drawn = {n: torch.randn(w.shape, generator=generator, dtype=torch.float64) for n, w in weights.items()}
        scale = 0.3 * norm / torch.cat([d.flatten() for d in drawn.values()]).norm()
        losses = []
        for share in (0.0, 1.0):
            state = {n: w + share * scale * drawn[n] for n, w in weights.items()}
            state |= {n: b.clone() for n, b in task.model.supernet.named_buffers()}
            with torch.no_grad():
                logits: Any = torch.func.functional_call(
                    task.model.supernet.train(), state, (images, task.model.mixtures())
                )
            losses.append(float(F.cross_entropy(logits, labels)))
        rises.append(losses[1] - losses[0])
    assert found == pytest.approx(sum(rises) / 4, rel=1e-9)


def test_alphas_that_count_for_nothing_have_no_curvature() -> None:
    space = DARTS.restrict({name: torch.tensor([[False] * 3 + [True]] * 5) for name in ("normal", "reduce")})
    images, labels = FixedHalves(batches=2).sets["search"][:]
    assert alpha_eigenvalue(make(space).double().model, images, labels) == 0


def test_the_gap_is_between_mixtures_and_one_hot_factors() -> None:
    task = make(alpha_scale=1.0).double()
    images, labels = FixedHalves(batches=2).sets["search"][:]
    found = task.model.discretize()
    values = gap(task.model, found, images, labels)
    one_hot = {}
    for name, pairs in DARTS.chosen(found).items():
        one_hot[name] = torch.zeros(5, 4, dtype=torch.float64)
        one_hot[name][tuple(torch.tensor(pairs).t())] = 1
    both = []
    for factors in ({name: a.detach().softmax(1) for name, a in task.model.alphas.items()}, one_hot):
        mixtures = {name: Mixture(f, torch.ones(5, dtype=torch.float64)) for name, f in factors.items()}
        with torch.no_grad():
            both.append(task.model.supernet.train()(images, mixtures))
    losses = [float(F.cross_entropy(logits, labels)) for logits in both]
    accuracies = [float((logits.argmax(1) == labels).double().mean()) for logits in both]
    assert values["gap_loss"] == pytest.approx(losses[1] - losses[0], abs=1e-12)
    assert values["gap_accuracy"] == pytest.approx(accuracies[0] - accuracies[1], abs=1e-12)
    assert abs(values["gap_loss"]) > 1e-3


class Set(Callback):
    """Sets the alphas after every epoch."""

    def __init__(self, best: list[int], strength: float) -> None:
        self.best, self.strength = best, strength

    def on_train_epoch_end(self, trainer: Any, pl_module: LightningModule) -> None:
        """Before the monitor, which comes later in the list."""
        with torch.no_grad():
            for alpha in pl_module.model.alphas.values():  # type: ignore[operator, union-attr]
                alpha.zero_()
                for edge, operation in enumerate(self.best):
                    alpha[edge, operation] = self.strength


def test_shares_and_entropies_are_those_of_the_alphas() -> None:
    """Edges 0 and 1 make node 0, edges 2 to 4 node 1, which keeps its two strongest; the first of equals."""
    trainer = fit(make(), Set([2, 1, 2, 3, 3], 2.0), HealthMonitor(images=0), epochs=2)
    values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("health/")}
    shares = torch.tensor([math.e**2, 1, 1, 1]).double()
    shares /= shares.sum()
    entropy = float(-(shares * shares.log()).sum() / math.log(4))
    assert values.keys() == {
        "health/unchanged_epochs",
        *(f"health/{kind}_{c}" for kind in ("parameter_free", "skip", "entropy") for c in ("normal", "reduce")),
    }
    for cell in ("normal", "reduce"):
        assert values[f"health/parameter_free_{cell}"] == 0.75
        assert values[f"health/skip_{cell}"] == 0.5
        assert values[f"health/entropy_{cell}"] == pytest.approx(entropy)
    assert values["health/unchanged_epochs"] == 1


@pytest.mark.parametrize("space", [DARTS, NASBENCH201], ids=["darts", "nasbench201"])
def test_a_run_with_the_monitor_ends_like_one_without(space: Any) -> None:
    ends = []
    for callbacks in ([], [HealthMonitor(skip_limit=1.0)]):
        task = make(space)
        fit(task, *callbacks, epochs=2)
        ends.append((task.state_dict(), task.found, torch.get_rng_state()))
    assert all(torch.equal(value, ends[1][0][name]) for name, value in ends[0][0].items())
    assert ends[0][1] == ends[1][1]
    assert torch.equal(ends[0][2], ends[1][2])


@pytest.mark.slow
def test_a_resumed_monitor_knows_what_it_saw_and_the_curves_go_on(tmp_path: Path) -> None:
    def run(name: str, epochs: int, ckpt_path: Path | None = None) -> HealthMonitor:
        monitor = HealthMonitor(skip_limit=1.0, entropy_limit=0.0, entropy_epochs=1)
        keep = ModelCheckpoint(tmp_path / name, save_top_k=-1, filename="{epoch}")
        logger = CSVLogger(tmp_path, name, "")
        options: dict[str, Any] = {"logger": logger, "enable_checkpointing": True, "log_every_n_steps": 1}
        fit(make().double(), keep, monitor, epochs=epochs, ckpt_path=ckpt_path, **options)
        return monitor

    with pytest.warns(UserWarning, match="are still equal"):
        whole = run("whole", 3)
    assert len(whole.eigenvalues) == 3
    assert whole.warned == ["entropy_normal", "entropy_reduce"]
    after = run("after", 3, tmp_path / "whole" / "epoch=1.ckpt")  # a second warning would be an error
    assert after.state_dict() == whole.state_dict()
    curves = read_curves(tmp_path / "whole")
    assert [p.epoch for p in curves["health/eigenvalue"]] == [0, 1, 2]
    assert [p.value for p in curves["health/eigenvalue"]] == pytest.approx(whole.eigenvalues)
    again = read_curves(tmp_path / "after")
    assert again["health/gap_loss"] == curves["health/gap_loss"][2:]
    shown = {name: values for name, *values in health_rows(curves)}
    assert shown["eigenvalue"][:2] == pytest.approx([whole.eigenvalues[0], whole.eigenvalues[2]])
    assert shown.keys() == {name.removeprefix("health/") for name in curves if name.startswith("health/")}


@pytest.mark.parametrize("stop", [False, True])
def test_too_many_skip_connections_are_said_once_and_end_the_search(stop: bool) -> None:
    monitor = HealthMonitor(every_n_epochs=2, images=0, stop=stop)
    with pytest.warns(UserWarning, match="75% of the operations that the .* cell") as said:
        trainer = fit(make(), Set([2, 1, 2, 2, 3], 2.0), monitor, epochs=4)
    assert len([w for w in said if "skip" in str(w.message)]) == 2  # both cells
    assert trainer.current_epoch == (2 if stop else 4)


@pytest.mark.parametrize(("smallest", "said"), [(-3.0, 1), (-1.0, 0)])
def test_a_negative_eigenvalue_of_larger_size_is_said_once(
    smallest: float, said: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "alpha_eigenvalue", lambda *arguments: 2.0)
    given: list[Any] = []
    monkeypatch.setattr(health, "smallest_alpha_eigenvalue", lambda *_, largest: given.append(largest) or smallest)
    with caplog.at_level("INFO"):
        monitor = HealthMonitor(images=4, skip_limit=1.0)
        trainer = fit(make(), monitor, epochs=2)
        after = HealthMonitor(images=4, skip_limit=1.0)
        after.load_state_dict(monitor.state_dict())
        fit(make(), after, epochs=1)
    assert len([r for r in caplog.records if "with the largest size is negative, -3" in r.getMessage()]) == said
    assert given == [2.0] * 3, "it is not measured twice"
    assert trainer.callback_metrics["health/smallest_eigenvalue"] == smallest


class Turn(Callback):
    """Makes all edges prefer the next operation after every epoch, and records the architecture."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Before the monitor, which comes later in the list."""
        with torch.no_grad():
            for alpha in pl_module.model.alphas.values():
                alpha.zero_()
                alpha[:, 1 + trainer.current_epoch % 3] = 2.0
        self.seen.append(pl_module.model.discretize())


@pytest.mark.parametrize(("later", "collapsed"), [(1.3, False), (1.4, True)])
def test_eigenvalues_are_compared_across_a_window(
    later: float, collapsed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means of two: 1 after two epochs, then 1.3 or 1.4, of which 0.75 is 0.975 or 1.05."""
    values = iter([0.5, 1.5, later - 0.5, later + 0.5, 0.0])
    monkeypatch.setattr(health, "alpha_eigenvalue", lambda *arguments: next(values))
    monkeypatch.setattr(health, "smallest_alpha_eigenvalue", lambda *_, largest: 0.0)
    monitor, turn = HealthMonitor(window=2, stop=True, images=4, skip_limit=1.0), Turn()
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    task, callbacks = make(selection_images=4), (turn, monitor, keep)
    if collapsed:
        with pytest.warns(UserWarning, match=r"has grown from 1 to 1\.4"):
            trainer = fit(task, *callbacks, epochs=5, enable_checkpointing=True)
    else:
        trainer = fit(task, *callbacks, epochs=5, enable_checkpointing=True)
    assert trainer.current_epoch == (4 if collapsed else 5)
    # the middle of the earlier window, from before the rise, and otherwise the last one
    found, made = turn.seen[1 if collapsed else -1], task.provenance()
    assert len({each.choices for each in turn.seen}) > 2
    assert task.found == found
    assert made["text"] == task.model.space.text(found)
    assert made.get("architecture_epoch") == (1 if collapsed else None)
    assert (made["selection_errors"] is None) == collapsed
    again, kept = make(), tmp_path / f"epoch={trainer.current_epoch - 1}.ckpt"
    monitor, keep = HealthMonitor(window=2, stop=True, images=4, skip_limit=1.0), ModelCheckpoint(tmp_path, "{epoch}")
    fit(again, monitor, keep, epochs=trainer.current_epoch, ckpt_path=kept, enable_checkpointing=True)
    assert again.found == found


@pytest.mark.parametrize(("window", "epoch"), [(1, 0), (2, 1), (5, 2)])
def test_the_architecture_in_the_middle_of_the_earlier_window_is_returned(
    window: int, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([1.0] * window + [2.0] * window)
    monkeypatch.setattr(health, "alpha_eigenvalue", lambda *arguments: next(values))
    monkeypatch.setattr(health, "smallest_alpha_eigenvalue", lambda *_, largest: 0.0)
    monitor = HealthMonitor(window=window, stop=True, images=4, skip_limit=1.0)
    task = make()
    with pytest.warns(UserWarning, match="has grown from 1 to 2"):
        trainer = fit(task, monitor, epochs=20)
    assert trainer.current_epoch == 2 * window
    assert task.returned is not None
    assert task.returned[0] == epoch


def test_what_cannot_be_measured_is_refused() -> None:
    for name, value in (("every_n_epochs", 0), ("images", -1), ("tolerance", 0.0), ("growth", 1.1), ("window", 0)):
        with pytest.raises(ConfigError, match=f"{name} is {value}"):
            HealthMonitor(**{name: value})  # type: ignore[arg-type]
    monitor = HealthMonitor()
    with pytest.raises(ConfigError, match="HealthMonitor measures on fixed images of the search half"):
        monitor.on_fit_start(quiet_trainer(max_epochs=1), make())
    trainer = quiet_trainer(max_epochs=1)
    trainer.datamodule = FixedHalves()  # type: ignore[attr-defined]
    monitor.on_fit_start(trainer, make())
    with pytest.raises(ConfigError, match="eigenvalue: false"):
        monitor.on_fit_start(trainer, make(checkpoint_cells=True))
    HealthMonitor(eigenvalue=False).on_fit_start(trainer, make(checkpoint_cells=True))
    with pytest.raises(ConfigError, match="LightningModule does not have"):
        monitor.on_fit_start(quiet_trainer(max_epochs=1), LightningModule())
