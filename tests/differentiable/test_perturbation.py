"""Perturbations against their published loops, alone and in a search."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.differentiable import (
    AdversarialPerturbation,
    AuxiliarySkip,
    ExactSecondOrder,
    FirstOrder,
    GumbelSoftmax,
    HardGumbelSoftmax,
    OneLevel,
    Perturbation,
    RandomSmoothing,
    SearchModel,
    SecondOrder,
    Sigmoid,
    SigmoidScore,
    SoftmaxScore,
)
from lightning_nas.differentiable.objective import SearchObjective
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.supernet import Mixture
from lightning_nas.tasks.bilevel import BilevelTask
from tests.helpers import FixedHalves, quiet_trainer

SPACE = DARTSSpace(nodes=2, channels=2, cells=3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clip(shares: Tensor) -> Tensor:
    """The published clip, edge by edge."""
    rows = []
    for row in shares:
        largest = row.argmax()
        row = row.clamp(0, 1)
        if row.sum() == 0:
            row[largest] = 1
        rows.append(row / row.sum())
    return torch.stack(rows)


def perturb(perturbation: Perturbation, mixtures: Any, gradient: Any = None, allowed: Any = None) -> Any:
    allowed = allowed or {name: torch.ones_like(m.operations, dtype=torch.bool) for name, m in mixtures.items()}
    return perturbation.perturb(mixtures, allowed, gradient, progress=0.5, generator=generator(4))


def noise(shape: Any, radius: float, source: torch.Generator) -> Tensor:
    return radius * (2 * torch.rand(shape, generator=source, dtype=torch.float64) - 1)


def test_random_smoothing_is_the_published_one() -> None:
    shares = {name: torch.randn(5, 8, dtype=torch.float64).softmax(1) for name in ("normal", "reduce")}
    shares["normal"][0] = F.one_hot(torch.tensor(3), 8).double()
    mixtures = {name: Mixture(s, torch.ones(5).double()) for name, s in shares.items()}
    found = perturb(RandomSmoothing(0.1, end=0.5), mixtures)
    source = generator(4)
    for name, s in shares.items():
        torch.testing.assert_close(found[name].operations, clip(s + noise(s.shape, 0.3, source)))
    assert [RandomSmoothing().radius(p) for p in (0.0, 1.0)] == pytest.approx([0.03, 0.3])


def test_shares_that_are_all_clipped_leave_the_largest() -> None:
    class Away(RandomSmoothing):
        def moved(self, shares: Any, project: Any, *rest: Any) -> Any:
            return project({"cell": shares["cell"] - torch.tensor([1.0, 0.9, 2.0])})

    mixtures = {"cell": Mixture(torch.tensor([[0.3, 0.3, 0.4]]), torch.ones(1))}
    assert perturb(Away(), mixtures)["cell"].operations.tolist() == [[0.0, 1.0, 0.0]]
    only = {"cell": torch.tensor([[True, False, True]])}
    assert perturb(Away(), mixtures, allowed=only)["cell"].operations.tolist() == [[1.0, 0.0, 0.0]]


def test_edges_keep_their_sum_and_what_is_not_computed_stays_zero() -> None:
    operations = torch.tensor([[0.2, 0.0, 0.1], [0.0, 0.7, 0.0], [0.0, 0.0, 0.0]])
    active = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    mixtures = {"cell": Mixture(operations, operations.sum(1), active)}
    found = perturb(RandomSmoothing(1.0, end=1.0), mixtures)["cell"]
    torch.testing.assert_close(found.operations.sum(1), operations.sum(1))
    torch.testing.assert_close(found.operations[1:], operations[1:])
    assert found.operations[0, 1] == 0
    assert not torch.equal(found.operations[0], operations[0])


def test_the_adversarial_one_is_the_published_ascent() -> None:
    steps, radius = 3, 0.3
    target = torch.randn(5, 4, dtype=torch.float64)
    shares = torch.randn(5, 4, dtype=torch.float64).softmax(1)
    total = torch.rand(5, 1, dtype=torch.float64)

    def slope(mixtures: Any) -> Any:
        return {"cell": 2 * (mixtures["cell"].operations - target)}

    mixtures = {"cell": Mixture(shares * total, total[:, 0])}
    found = perturb(AdversarialPerturbation(0.1, end=0.5, steps=steps), mixtures, slope)
    moved = clip(shares + noise(shares.shape, radius, generator(4)))
    for _ in range(steps):
        moved = moved + 2 * radius / steps * (total * moved - target).sign()
        moved = clip(shares + (moved - shares).clamp(-radius, radius))
    torch.testing.assert_close(found["cell"].operations, moved * total)


def make(folder: Path, **options: Any) -> BilevelTask:
    torch.manual_seed(7)
    defaults: dict[str, Any] = {
        "space": SPACE,
        "hypergradient": FirstOrder(),
        "discretizer": SoftmaxScore(),
        "weight_optimizer": lambda p: torch.optim.SGD(p, lr=0.1),
        "alpha_optimizer": lambda p: torch.optim.Adam(p, lr=0.1),
        "output_dir": str(folder),
        "num_classes": 3,
        "image_shape": (3, 8, 8),
        "selection_images": 0,
    }
    return BilevelTask(**{**defaults, **options})


def test_the_ascent_raises_the_loss_and_changes_nothing_else() -> None:
    torch.manual_seed(0)
    model = SearchModel(SPACE, SoftmaxScore(), image_shape=(3, 8, 8), num_classes=3, alpha_scale=1.0).double()
    batch = torch.randn(8, 3, 8, 8, dtype=torch.float64), torch.arange(8) % 3
    losses = []
    for perturbation in (None, RandomSmoothing(0.3), AdversarialPerturbation(0.3)):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        model.train()
        objective = SearchObjective(model, [], 0, perturbation)
        with torch.no_grad():
            model.supernet.eval()  # the loss that the ascent sees
            losses.append(float(objective.weight_loss(batch, with_alphas=False).loss))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert losses[2] > max(losses[:2]) + 1e-4


@pytest.mark.parametrize("compute_all", [False, True])
def test_decided_edges_are_not_moved(compute_all: bool) -> None:
    class Watched(AdversarialPerturbation):
        def perturb(self, mixtures: Any, *arguments: Any, **options: Any) -> Any:
            self.found = super().perturb(mixtures, *arguments, **options)
            return self.found

    model = SearchModel(SPACE, SoftmaxScore(), image_shape=(3, 8, 8), num_classes=3)
    model.mask.compute_all = compute_all  # as with several processes
    model.decide("normal", 0, 3)
    model.decide("normal", 1, None)
    watched = Watched(0.3)
    SearchObjective(model, [], 0, watched).weight_loss(
        (torch.randn(4, 3, 8, 8), torch.arange(4) % 3), with_alphas=False
    )
    found, before = watched.found["normal"].operations, model.mixtures()["normal"].operations
    assert torch.equal(found[:2], before[:2])
    assert all((found[2:] != before[2:]).any(1))
    assert all(mask.all() for mask in SPACE.allowed.values()), "the masks of the space stay"


@pytest.mark.parametrize("cells", [1, 2])
def test_factors_that_no_cell_uses_have_no_gradient(cells: int) -> None:
    space = DARTSSpace(nodes=2, channels=2, cells=cells)
    model = SearchModel(space, SoftmaxScore(), image_shape=(3, 8, 8), num_classes=3)
    objective = SearchObjective(model, [], 0, AdversarialPerturbation(0.3))
    batch = torch.randn(4, 3, 8, 8), torch.arange(4) % 3
    assert objective.weight_loss(batch, with_alphas=False).total.isfinite()


def test_a_search_moves_only_the_factors_of_the_weights(tmp_path: Path) -> None:
    """One step of plain SGD from the loss of the moved factors; the alphas' own step sees the present ones."""
    data = FixedHalves(batches=1)
    options: dict[str, Any] = {"max_epochs": 1, "precision": "64-true"}
    plain, moved = make(tmp_path), make(tmp_path, perturbation=RandomSmoothing(0.5, end=0.5))
    start = {n: w.detach().double().clone() for n, w in moved.model.weights.items()}
    for task in (plain, moved):
        quiet_trainer(**options).fit(task, datamodule=data)
    for mine, other in zip(moved.model.alpha_list, plain.model.alpha_list, strict=True):
        assert torch.equal(mine, other)
    changed = [n for n, w in moved.model.weights.items() if not torch.equal(w, plain.model.weights[n])]
    assert changed
    assert any(not torch.equal(w, start[n]) for n, w in moved.model.weights.items())


def test_a_resumed_search_moves_as_an_uninterrupted_one(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    ends = []
    for path in (None, tmp_path / "epoch=0.ckpt"):
        keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, enable_version_counter=False)
        task = make(tmp_path, perturbation=AdversarialPerturbation(steps=2))
        trainer = quiet_trainer(max_epochs=2, callbacks=[keep], enable_checkpointing=True)
        trainer.fit(task, datamodule=FixedHalves(batches=2, dtype=torch.float32), ckpt_path=path)
        ends.append({name: value.clone() for name, value in task.state_dict().items()})
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"hypergradient": OneLevel()}, "OneLevel takes together"),
        ({"hypergradient": SecondOrder()}, "SecondOrder unrolls such a step"),
        ({"hypergradient": ExactSecondOrder()}, "ExactSecondOrder unrolls such a step"),
        ({"relaxation": AuxiliarySkip()}, "AuxiliarySkip computes some"),
        ({"relaxation": HardGumbelSoftmax()}, "HardGumbelSoftmax computes some"),
        ({"relaxation": Sigmoid(), "discretizer": SigmoidScore()}, "Sigmoid computes some"),
    ],
)
def test_what_does_not_go_with_it_is_refused(options: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        make(tmp_path, perturbation=RandomSmoothing(), **options)
    make(tmp_path, perturbation=RandomSmoothing(), relaxation=GumbelSoftmax())
    with pytest.raises(ConfigError, match="end is 2"):
        RandomSmoothing(end=2)
