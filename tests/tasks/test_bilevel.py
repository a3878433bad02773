"""The bi-level task against loops written out by hand."""

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision, Precision
from torch import Tensor

from lightning_nas.data.images import DigitsDataModule
from lightning_nas.differentiable.attention.channel import ChannelAttention
from lightning_nas.differentiable.discretization.joint_score import JointScore
from lightning_nas.differentiable.discretization.product_score import ProductScore
from lightning_nas.differentiable.discretization.sigmoid_score import SigmoidScore
from lightning_nas.differentiable.discretization.skip_cap import SkipCap
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.hypergradient.exact_second_order import ExactSecondOrder
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.differentiable.hypergradient.one_level import OneLevel
from lightning_nas.differentiable.hypergradient.second_order import SecondOrder
from lightning_nas.differentiable.normalization.edge_softmax import EdgeSoftmax
from lightning_nas.differentiable.normalization.joint_softmax import JointSoftmax
from lightning_nas.differentiable.regularization.beta_decay import BetaDecay
from lightning_nas.differentiable.regularization.edge_variance import EdgeVariance
from lightning_nas.differentiable.relaxation.gumbel_softmax import GumbelSoftmax
from lightning_nas.errors import CheckpointError, ConfigError
from lightning_nas.files.artifacts import read_tensors
from lightning_nas.spaces.artifact import load_architecture
from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.supernet import Mixture
from lightning_nas.tasks.bilevel import BilevelTask
from tests.helpers import FixedHalves, quiet_trainer

WEIGHT = {"lr": 0.025, "momentum": 0.9, "weight_decay": 3e-4}
ALPHA: dict[str, Any] = {"lr": 3e-4, "betas": (0.5, 0.999), "weight_decay": 1e-3}
CLIP = 0.5  # small enough to act


def make(tmp_path: Path, **options: Any) -> BilevelTask:
    torch.manual_seed(7)
    defaults: dict[str, Any] = {
        "space": DARTSSpace(nodes=2, channels=4, cells=3),
        "hypergradient": FirstOrder(),
        "discretizer": SoftmaxScore(),
        "weight_optimizer": lambda p: torch.optim.SGD(p, **WEIGHT),
        "alpha_optimizer": lambda p: torch.optim.Adam(p, **ALPHA),
        "weight_clip_norm": CLIP,
        "output_dir": str(tmp_path),
        "num_classes": 3,
        "image_shape": (3, 8, 8),
        "selection_images": 8,
    }
    return BilevelTask(**{**defaults, **options})


def fit(task: BilevelTask, data: FixedHalves, epochs: int = 1) -> BilevelTask:
    quiet_trainer(max_epochs=epochs, precision="64-true").fit(task, datamodule=data)
    return task


def loss_of(supernet: torch.nn.Module, alphas: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    mixtures = {n: Mixture(a.softmax(-1), torch.ones(len(a), dtype=a.dtype)) for n, a in alphas.items()}
    return F.cross_entropy(supernet(batch[0], mixtures), batch[1])


def test_a_batch_is_that_of_darts(tmp_path: Path) -> None:
    """As published: the alphas' step on the search batch, then the weights' step on the train batch."""
    data = FixedHalves(batches=3)
    task = make(tmp_path)
    supernet = copy.deepcopy(task.model.supernet).double()
    alphas = {n: a.detach().double().clone().requires_grad_() for n, a in task.model.alphas.items()}
    weight_optimizer = torch.optim.SGD(supernet.parameters(), **WEIGHT)
    alpha_optimizer = torch.optim.Adam(alphas.values(), **ALPHA)
    for batch in data.batches():
        alpha_optimizer.zero_grad()
        loss_of(supernet, alphas, batch["search"]).backward()
        alpha_optimizer.step()
        weight_optimizer.zero_grad()
        loss_of(supernet, alphas, batch["train"]).backward()
        assert torch.nn.utils.clip_grad_norm_(supernet.parameters(), CLIP) > CLIP
        weight_optimizer.step()
    fit(task, data)
    for name, alpha in alphas.items():
        torch.testing.assert_close(task.model.alphas[name].detach(), alpha.detach(), rtol=0, atol=1e-9)
    truth = supernet.state_dict()
    assert truth.keys() == task.model.supernet.state_dict().keys()
    for name, value in task.model.supernet.state_dict().items():
        torch.testing.assert_close(value, truth[name], rtol=0, atol=1e-9, msg=name)


def test_loss_and_accuracy_of_both_halves_are_logged(tmp_path: Path) -> None:
    """Of the supernet as it is at the alphas' step, and after it at the weights' step."""
    data = FixedHalves(batches=1, batch_size=12)
    task = make(tmp_path, alpha_optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    supernet = copy.deepcopy(task.model.supernet).double()
    mixtures = {
        n: Mixture(a.detach().double().softmax(-1), torch.ones(len(a), dtype=torch.float64))
        for n, a in task.model.alphas.items()
    }
    logged = fit(task, data).trainer.callback_metrics
    (batch,) = data.batches()
    for half in ("search", "train"):
        images, labels = batch[half]
        logits = supernet(images, mixtures).detach()
        assert float(logged[f"{half}/loss"]) == pytest.approx(float(F.cross_entropy(logits, labels)), abs=1e-6)
        accuracy = float((logits.argmax(1) == labels).double().mean())
        assert float(logged[f"{half}/accuracy"]) == pytest.approx(accuracy, abs=1e-6)


def test_the_second_order_step_of_the_task_is_the_derivative_through_its_own_optimizer(tmp_path: Path) -> None:
    """Over two batches, so that momentum counts: the alphas' gradient by autograd through the step on a copy."""
    data = FixedHalves(batches=2)
    seen: list[tuple[Tensor, ...]] = []

    class Recorded(ExactSecondOrder):
        def gradient(self, problem: Any, train: Any, search: Any) -> tuple[Tensor, ...]:
            seen.append(super().gradient(problem, train, search))
            return seen[-1]

    task = make(tmp_path, hypergradient=Recorded())
    supernet = copy.deepcopy(task.model.supernet).double()
    alphas = {n: a.detach().double().clone().requires_grad_() for n, a in task.model.alphas.items()}
    alpha_optimizer = torch.optim.Adam(alphas.values(), **ALPHA)
    momentum = {n: torch.zeros_like(w) for n, w in supernet.named_parameters()}
    names = list(momentum)
    fit(task, data)

    def functional(weights: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        mixtures = {n: Mixture(a.softmax(-1), torch.ones(len(a), dtype=a.dtype)) for n, a in alphas.items()}
        buffers = {n: b.clone() for n, b in supernet.named_buffers()}
        logits = torch.func.functional_call(supernet, {**weights, **buffers}, (batch[0], mixtures))
        return F.cross_entropy(logits, batch[1])

    for i, batch in enumerate(data.batches()):
        weights = {n: w.detach().requires_grad_() for n, w in supernet.named_parameters()}
        g = torch.autograd.grad(functional(weights, batch["train"]), list(weights.values()), create_graph=True)
        moved = {
            n: w - WEIGHT["lr"] * (WEIGHT["momentum"] * momentum[n] + d + WEIGHT["weight_decay"] * w)
            for (n, w), d in zip(weights.items(), g, strict=True)
        }
        truth = torch.autograd.grad(functional(moved, batch["search"]), list(alphas.values()))
        for mine, expected in zip(seen[i], truth, strict=True):
            torch.testing.assert_close(mine, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))
        for alpha, gradient in zip(alphas.values(), truth, strict=True):
            alpha.grad = gradient
        alpha_optimizer.step()
        g = torch.autograd.grad(functional(weights, batch["train"]), list(weights.values()))
        scale = min(1.0, CLIP / (float(torch.stack([d.norm() for d in g]).norm()) + 1e-6))
        for n, w, d in zip(names, supernet.parameters(), g, strict=True):
            momentum[n] = WEIGHT["momentum"] * momentum[n] + scale * d + WEIGHT["weight_decay"] * w.detach()
            w.data -= WEIGHT["lr"] * momentum[n]


def test_virtual_passes_leave_batch_norm_alone(tmp_path: Path) -> None:
    """Second order sees the train batch at other weights several times; the statistics count the weights' own pass."""
    data = FixedHalves(batches=2)
    counts = {}
    for hypergradient in (FirstOrder(), SecondOrder(), ExactSecondOrder()):
        task = fit(make(tmp_path, hypergradient=hypergradient), data)
        buffers = [b for n, b in task.model.supernet.named_buffers() if n.endswith("num_batches_tracked")]
        counts[type(hypergradient).__name__] = {int(b) for b in buffers}
    assert counts == {"FirstOrder": {4}, "SecondOrder": {2}, "ExactSecondOrder": {2}}


def test_one_level_moves_both_by_one_gradient_on_both_halves(tmp_path: Path) -> None:
    data = FixedHalves(batches=1)
    task = make(tmp_path, hypergradient=OneLevel())
    supernet = copy.deepcopy(task.model.supernet).double()
    alphas = {n: a.detach().double().clone().requires_grad_() for n, a in task.model.alphas.items()}
    optimizers = [torch.optim.SGD(supernet.parameters(), **WEIGHT), torch.optim.Adam(alphas.values(), **ALPHA)]
    batch = data.batches()[0]
    union = tuple(torch.cat([batch["train"][i], batch["search"][i]]) for i in range(2))
    loss_of(supernet, alphas, union).backward()  # type: ignore[arg-type]
    torch.nn.utils.clip_grad_norm_(supernet.parameters(), CLIP)
    for optimizer in optimizers:
        optimizer.step()
    fit(task, data)
    for name, alpha in alphas.items():
        torch.testing.assert_close(task.model.alphas[name].detach(), alpha.detach(), rtol=0, atol=1e-9)
    for (name, mine), truth in zip(task.model.supernet.named_parameters(), supernet.parameters(), strict=True):
        torch.testing.assert_close(mine, truth, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalization": EdgeSoftmax(), "discretizer": ProductScore(), "attention": ChannelAttention()},
        {"attention": ChannelAttention(), "space": DARTSSpace(nodes=2, channels=4, cells=3, partial_channels=2)},
    ],
)
def test_parameters_are_weights_or_alphas_and_each_is_optimized_once(tmp_path: Path, options: dict[str, Any]) -> None:
    task = make(tmp_path, **options)
    (weights, alphas), _ = task.configure_optimizers()
    by_weights = [id(p) for group in weights.param_groups for p in group["params"]]
    by_alphas = [id(p) for group in alphas.param_groups for p in group["params"]]
    assert not set(by_weights) & set(by_alphas)
    assert sorted(by_weights + by_alphas) == sorted(id(p) for p in task.parameters())
    assert by_alphas == [id(a) for a in task.model.alpha_list]


@pytest.mark.parametrize("attention", [None, ChannelAttention()])
@pytest.mark.parametrize(
    ("normalization", "discretizer"),
    [(None, SoftmaxScore()), (EdgeSoftmax(), ProductScore()), (JointSoftmax(), JointScore())],
)
def test_components_go_together_and_all_alphas_learn(
    tmp_path: Path, attention: Attention | None, normalization: Any, discretizer: Any
) -> None:
    space = DARTSSpace(nodes=2, channels=4, cells=3, partial_channels=2)
    regularizers = [BetaDecay(), EdgeVariance()]
    task = make(
        tmp_path,
        space=space,
        attention=attention,
        normalization=normalization,
        discretizer=discretizer,
        regularizers=regularizers,
        alpha_optimizer=lambda p: torch.optim.Adam(p, lr=0.05),
    )
    before = [a.detach().double().clone() for a in task.model.alpha_list]
    fit(task, FixedHalves(batches=2), epochs=2)
    assert all(not torch.equal(a, b) for a, b in zip(task.model.alpha_list, before, strict=True))
    found = load_architecture(tmp_path / "architecture.json")
    assert found == task.model.discretize()
    assert "none" not in space.text(found)


def test_alphas_stand_still_while_they_warm_up_and_the_penalty_grows_with_the_steps(tmp_path: Path) -> None:
    seen = []

    class Recorded(BetaDecay):
        def penalty(self, alphas: Any, progress: float) -> Tensor:
            seen.append(progress)
            return super().penalty(alphas, progress)

    task = make(tmp_path, warmup_epochs=2, regularizers=[Recorded()])
    before = [a.detach().double().clone() for a in task.model.alpha_list]
    fit(task, FixedHalves(batches=2), epochs=2)
    assert all(torch.equal(a, b) for a, b in zip(task.model.alpha_list, before, strict=True))
    assert seen == []
    fit(make(tmp_path, warmup_epochs=2, regularizers=[Recorded()]), FixedHalves(batches=1), epochs=4)
    assert seen == [2 / 3, 1.0]


def test_schedulers_step_every_epoch(tmp_path: Path) -> None:
    rates = []

    class Recorded(BilevelTask):
        def on_train_epoch_start(self) -> None:
            rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    torch.manual_seed(0)
    task = Recorded(
        DARTSSpace(nodes=1, channels=2, cells=2),
        hypergradient=FirstOrder(),
        discretizer=SoftmaxScore(),
        weight_optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        alpha_optimizer=lambda p: torch.optim.Adam(p),
        weight_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
        num_classes=3,
        image_shape=(3, 8, 8),
        output_dir=str(tmp_path),
        selection_images=0,
    )
    fit(task, FixedHalves(batches=1), epochs=3)
    assert rates == [1.0, 0.5, 0.25]


def test_artifacts_of_a_search(tmp_path: Path) -> None:
    task = fit(make(tmp_path), FixedHalves(batches=2), epochs=3)
    content = json.loads((tmp_path / "architecture.json").read_text())
    assert content["provenance"]["text"] == task.model.space.text(task.model.discretize())
    errors = content["provenance"]["selection_errors"]
    assert errors["edges"]["count"] == 2  # one node with three inputs in each of two cells
    assert errors["operations"]["count"] == 8
    assert errors["operations"]["decided"] + errors["operations"]["undecided"] == 8
    assert errors["operations"]["images"] == 8  # all that the test asks for
    assert {each["images"] for each in errors["details"]} == {8}
    history = read_tensors(tmp_path / "alphas.safetensors", repair="")
    assert {n: h.shape for n, h in history.items()} == {"normal": (3, 5, 8), "reduce": (3, 5, 8)}
    torch.testing.assert_close(history["normal"][-1], task.model.mixtures()["normal"].operations.detach())


def test_measuring_selection_errors_changes_nothing(tmp_path: Path) -> None:
    task = fit(make(tmp_path, selection_images=0), FixedHalves(batches=1))
    before = {n: v.clone() for n, v in task.state_dict().items()}
    images, labels = FixedHalves().fixed_batch("search", 8, 0)
    task.model.selection_errors(images, labels)
    for name, value in task.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    "options",
    [
        {"discretizer": ProductScore()},
        {"discretizer": ProductScore(), "normalization": JointSoftmax()},
    ],
)
def test_components_that_do_not_go_together_are_refused_at_construction(tmp_path: Path, options: Any) -> None:
    with pytest.raises(ConfigError, match="EdgeSoftmax"):
        make(tmp_path, **options)


@pytest.mark.parametrize("hypergradient", [SecondOrder(), ExactSecondOrder()])
def test_second_order_without_sgd_is_refused_before_training(tmp_path: Path, hypergradient: Any) -> None:
    task = make(tmp_path, hypergradient=hypergradient, weight_optimizer=lambda p: torch.optim.AdamW(p))
    with pytest.raises(ConfigError, match="AdamW"):
        fit(task, FixedHalves(batches=1))


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("hypergradient", [FirstOrder(), SecondOrder(), OneLevel()])
def test_a_gradient_scaler_changes_neither_weights_nor_alphas(tmp_path: Path, hypergradient: Any, fused: bool) -> None:
    """Clipping and both optimizers see unscaled gradients; in full precision, a scaled run is the plain one."""
    found = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)):
        task = make(
            tmp_path,
            hypergradient=hypergradient,
            weight_optimizer=lambda p: torch.optim.SGD(p, **WEIGHT, fused=fused),
            alpha_optimizer=lambda p: torch.optim.Adam(p, **ALPHA, fused=fused),
        )
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        # half precision itself would hide a wrong scale in its rounding
        plugin.forward_context = contextlib.nullcontext  # type: ignore[method-assign, assignment]
        if scaler is None:
            plugin = Precision()
        data = FixedHalves(batches=3, dtype=torch.float32)
        quiet_trainer(max_epochs=2, plugins=[plugin]).fit(task, datamodule=data)
        found.append({name: value.clone() for name, value in task.state_dict().items()})
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=2e-5, msg=name)


def test_half_precision_follows_full_precision(tmp_path: Path) -> None:
    ends = []
    for precision in ("32-true", "bf16-mixed"):
        task = make(tmp_path)
        quiet_trainer(max_epochs=2, precision=precision).fit(task, datamodule=FixedHalves(dtype=torch.float32))
        assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in task.parameters())
        ends.append(torch.cat([p.detach().flatten() for p in task.model.alpha_list]))
    start = torch.cat([p.detach().flatten() for p in make(tmp_path).model.alpha_list])
    moved, difference = (ends[0] - start).norm(), (ends[1] - ends[0]).norm()
    assert 0 < difference < 0.5 * moved  # Adam's steps have the same length, and mostly the same direction


@pytest.mark.parametrize("name", ["warmup_epochs", "weight_clip_norm", "alpha_scale", "selection_images"])
def test_numbers_out_of_range_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is -1; it must be at least 0"):
        make(tmp_path, **{name: -1})


@pytest.mark.parametrize("made", [lambda: BetaDecay(-1.0), lambda: EdgeVariance(-1.0)])
def test_weights_below_0_are_refused(made: Any) -> None:
    with pytest.raises(ConfigError, match="at least 0"):
        made()


def test_scores_that_compare_edges_need_alphas_that_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="JointScore compares .* Use JointSoftmax"):
        make(tmp_path, discretizer=SkipCap(discretizer=JointScore()))
    with pytest.raises(ConfigError, match="SigmoidScore compares .* Use Sigmoid as the relaxation"):
        make(tmp_path, discretizer=SigmoidScore())


def test_what_follows_the_course_of_a_search_needs_its_length(tmp_path: Path) -> None:
    for options in ({"regularizers": [BetaDecay()]}, {"relaxation": GumbelSoftmax()}):
        trainer = quiet_trainer(max_time={"seconds": 9}, precision="64-true")
        with pytest.raises(ConfigError, match=r"max_epochs is -1, but .*'(BetaDecay|GumbelSoftmax)'.* number of steps"):
            trainer.fit(make(tmp_path, **options), datamodule=FixedHalves(batches=1))
    trainer = quiet_trainer(max_time={"seconds": 0.1}, precision="64-true")
    trainer.fit(make(tmp_path), datamodule=FixedHalves(batches=1))
    assert trainer.current_epoch > 0


def test_data_without_halves_are_refused(tmp_path: Path) -> None:
    task = make(tmp_path, image_shape=(1, 8, 8), num_classes=10)
    with pytest.raises(ConfigError, match="halves train and search"):
        quiet_trainer(max_epochs=1).fit(task, datamodule=DigitsDataModule())


def test_a_checkpoint_of_other_regularizers_is_refused(tmp_path: Path) -> None:
    saved = ModelCheckpoint(tmp_path, filename="last")
    trainer = quiet_trainer(max_epochs=1, precision="64-true", callbacks=[saved], enable_checkpointing=True)
    trainer.fit(make(tmp_path, regularizers=[BetaDecay()]), datamodule=FixedHalves(batches=1))
    for others in ([], [EdgeVariance()]):
        again, trainer = make(tmp_path, regularizers=others), quiet_trainer(max_epochs=2, precision="64-true")
        with pytest.raises(CheckpointError, match=r"regularizers \['BetaDecay'\], this one has"):
            trainer.fit(again, datamodule=FixedHalves(batches=1), ckpt_path=tmp_path / "last.ckpt")


def test_the_entropy_of_certain_alphas_is_0(tmp_path: Path) -> None:
    task = make(tmp_path, alpha_scale=1e5, warmup_epochs=9)  # so that the softmax is 0 or 1
    fit(task, FixedHalves(batches=1))
    assert float(task.trainer.callback_metrics["search/entropy_normal"]) == 0.0
