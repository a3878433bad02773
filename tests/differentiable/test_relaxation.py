"""Relaxations against their formulas, and whole searches with draws against loops."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from scipy.stats import chisquare
from torch import Tensor

from lightning_nas.data.splits import derived_seed
from lightning_nas.differentiable.discretization.sigmoid_score import SigmoidScore
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.differentiable.hypergradient.one_level import OneLevel
from lightning_nas.differentiable.hypergradient.second_order import SecondOrder
from lightning_nas.differentiable.regularization.zero_one import ZeroOne
from lightning_nas.differentiable.relaxation.dirichlet import Dirichlet
from lightning_nas.differentiable.relaxation.gumbel_softmax import GumbelSoftmax, HardGumbelSoftmax
from lightning_nas.differentiable.relaxation.reinmax import ReinMax
from lightning_nas.differentiable.relaxation.sigmoid import Sigmoid
from lightning_nas.differentiable.relaxation.softmax import Softmax
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.convert import from_per_edge, to_per_edge
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.nasbench201.supernet import NASBench201Supernet
from lightning_nas.spaces.supernet import Mixture
from lightning_nas.tasks.bilevel import BilevelTask
from tests.helpers import FixedHalves, quiet_trainer
from tests.spaces.pair import Pair

SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2}

SPACES = {
    "darts": DARTSSpace(nodes=2, channels=4, cells=3),
    "nasbench201": NASBench201Space(channels=4, cells_per_stage=1),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(folder: Path, **options: Any) -> BilevelTask:
    torch.manual_seed(7)
    defaults: dict[str, Any] = {
        "space": SPACES["darts"],
        "hypergradient": FirstOrder(),
        "discretizer": SoftmaxScore(),
        "weight_optimizer": lambda p: torch.optim.SGD(p, **SGD),
        "alpha_optimizer": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=1e-3),
        "relaxation": HardGumbelSoftmax(),
        "weight_clip_norm": 0.5,
        "output_dir": str(folder),
        "num_classes": 3,
        "image_shape": (3, 8, 8),
        "selection_images": 0,
    }
    return BilevelTask(**{**defaults, **options})


def test_softmax() -> None:
    alphas = torch.randn(9, 8, dtype=torch.float64)
    found = Softmax(temperature=2.0).relax(alphas)
    for edge in range(9):
        total = sum(math.exp(a / 2) for a in alphas[edge].tolist())
        for o in range(8):
            assert found[edge, o].item() == pytest.approx(math.exp(alphas[edge, o].item() / 2) / total, abs=1e-12)
    with pytest.raises(ConfigError):
        Softmax(temperature=0)


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_operations_are_drawn_with_the_probabilities_of_the_softmax(progress: float) -> None:
    alphas = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5], dtype=torch.float64)
    draws = 20000
    drawn = HardGumbelSoftmax(10.0, end=0.1).drawn(progress, generator(3))
    counts = drawn.relax(alphas.expand(draws, -1)).sum(0)
    assert chisquare(counts.tolist(), (draws * alphas.softmax(0)).tolist()).pvalue > 0.01
    other = (draws * (alphas / 1.2).softmax(0)).tolist()
    assert chisquare(counts.tolist(), other).pvalue < 1e-6, "the test could not tell another temperature"


def test_the_temperature_goes_linearly_and_without_a_draw_there_is_none() -> None:
    alphas = torch.randn(4, 5, dtype=torch.float64)
    for relaxation in (GumbelSoftmax(10.0, 0.1), HardGumbelSoftmax()):
        assert torch.equal(relaxation.relax(alphas), alphas.softmax(1))
        found = [relaxation.drawn(progress, generator()).temperature for progress in (0.0, 0.25, 0.5, 1.0)]
        assert found == pytest.approx([10.0, 7.525, 5.05, 0.1])
    noise = -torch.empty(4, 5, dtype=torch.float64).exponential_(generator=generator()).log()
    soft = GumbelSoftmax(2.0, 1.0).drawn(0.5, generator()).relax(alphas)
    torch.testing.assert_close(soft, ((alphas + noise) / 1.5).softmax(1))
    for start, end in ((0.0, 1.0), (1.0, -0.1)):
        with pytest.raises(ConfigError, match="greater than 0"):
            GumbelSoftmax(start, end)


def test_straight_through_has_hard_values_and_the_gradient_of_the_soft_draw() -> None:
    alphas = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(6, 5, dtype=torch.float64)
    soft = GumbelSoftmax(3.0, 1.0).drawn(0.5, generator()).relax(alphas)
    hard = HardGumbelSoftmax(3.0, end=1.0).drawn(0.5, generator()).relax(alphas)
    assert torch.equal(hard.argmax(1), soft.argmax(1))
    assert torch.equal((hard != 0).sum(1), torch.ones(6, dtype=torch.long))
    torch.testing.assert_close(hard.sum(1), torch.ones(6, dtype=torch.float64))
    gradients = [torch.autograd.grad((x * upstream).sum(), alphas)[0] for x in (hard, soft)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-15)
    assert gradients[0].any()


def test_a_drawn_supernet_is_the_ordinary_network_of_the_drawn_cell(tmp_path: Path) -> None:
    space = SPACES["nasbench201"]
    task = make(tmp_path, space=space).double()
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    pairs = [(node, source) for node in range(1, 4) for source in range(node)]
    seen = set()
    for seed in range(4):
        mixtures = task.model.mixtures(task.model.relaxation.drawn(0.5, generator(seed)))
        choices = mixtures["cell"].operations.argmax(1).tolist()
        architecture = space.architecture(choices)
        seen.add(architecture)
        truth = space.to_path(architecture)["cell"]
        assert mixtures["cell"].active is not None
        assert torch.equal(mixtures["cell"].active, truth.active)
        torch.testing.assert_close(mixtures["cell"].operations, truth.operations.double())
        network = space.network(architecture, num_classes=3, image_shape=(3, 8, 8), channels=4, cells=1).double()
        state, own = to_per_edge(task.model.supernet), dict(network.state_dict())
        for name in own:
            parts = name.split(".")
            if ".nodes." in name:
                node = int(parts[3]) + 1
                kept = [s for (to, s), c in zip(pairs, choices, strict=True) if to == node and c]
                source = kept[int(parts[4])]
                column = choices[pairs.index((node, source))]
                name_there = f"cells.{parts[1]}.edges.{node}<-{source}.{column}.{'.'.join(parts[5:])}"
                own[name] = state.get(name_there, own[name])
            else:
                own[name] = task.model.supernet.state_dict()[name]
        network.load_state_dict(own)
        torch.testing.assert_close(task.model.supernet(images, mixtures), network(images), rtol=0, atol=1e-10)
    assert len(seen) > 1


def test_constants_are_added_to_edges_by_hand() -> None:
    """In a cell of skip connections alone, every node is the sum of all nodes before it and of its edges' constants."""
    space = NASBench201Space(channels=2, cells_per_stage=1, operations=("skip_connect",))
    constants = torch.randn(6, dtype=torch.float64)
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    mixture = Mixture(torch.ones(6, 1, dtype=torch.float64), torch.ones(6, dtype=torch.float64), constants=constants)
    cell = space.per_edge_supernet(num_classes=3, image_shape=(3, 4, 4)).cells[0]
    states = [x]
    for edges in space.nodes:
        states.append(sum(s + c for s, c in zip(states, constants[edges], strict=True)))  # type: ignore[arg-type]
    torch.testing.assert_close(cell([x], mixture), states[-1])


@pytest.mark.parametrize("name", [*SPACES, "partial"])
def test_batched_supernets_add_constants_as_the_plain_one_does(name: str) -> None:
    space = SPACES.get(name) or DARTSSpace(nodes=2, channels=8, cells=3, partial_channels=4)
    pair = Pair(space)
    constants = {n: torch.randn(space.edges, dtype=torch.float64).requires_grad_() for n in space.cell_types}
    found = []
    for net in pair.nets:
        mixtures = {
            n: Mixture(a.softmax(1), torch.ones(len(a), dtype=torch.float64), constants=constants[n])
            for n, a in pair.alphas.items()
        }
        loss = F.cross_entropy(net.net(pair.x, mixtures), pair.y)
        gradients = torch.autograd.grad(loss, [*constants.values(), *pair.alphas.values()], allow_unused=True)
        found.append([loss, *gradients])
    for fused, plain in zip(*found, strict=True):
        assert plain.any()
        torch.testing.assert_close(fused, plain, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("space", SPACES)
def test_the_gradient_of_all_factors_adds_that_of_the_sum_of_the_node(space: str, tmp_path: Path) -> None:
    """The values are the same; a factor that was not chosen has the gradient of a constant on its edge."""
    images, labels = FixedHalves(batches=1, batch_size=8).batches()[0]["search"]
    losses, of_alphas = [], []
    for gradient in ("chosen", "all"):
        task = make(tmp_path, space=SPACES[space], relaxation=HardGumbelSoftmax(gradient=gradient)).double()  # type: ignore[arg-type]
        model = task.model
        mixtures = model.mixtures(model.relaxation.drawn(0.5, generator()))
        loss = F.cross_entropy(model.logits(images, mixtures), labels)
        losses.append(loss.detach())
        of_alphas.append(torch.autograd.grad(loss, model.alpha_list))
    assert torch.equal(*losses)
    # by hand: the factors that were not chosen multiply nothing, and are added to the edge instead
    made, drawn = {}, HardGumbelSoftmax().drawn(0.5, generator())
    for name, alphas in model.alphas.items():
        factors = drawn.relax(alphas)
        chosen = (factors.detach() != 0).double()
        made[name] = Mixture(factors * chosen, torch.ones(len(alphas), dtype=torch.float64), chosen.bool())
        made[name] = made[name]._replace(constants=(factors * (1 - chosen)).sum(1))
    by_hand = torch.autograd.grad(F.cross_entropy(model.supernet(images, made), labels), model.alpha_list)
    for all_factors, hand, alone in zip(of_alphas[1], by_hand, of_alphas[0], strict=True):
        torch.testing.assert_close(all_factors, hand, rtol=1e-9, atol=1e-12)
        assert float((all_factors - alone).norm()) > 0.01 * float(alone.norm())
    with pytest.raises(ConfigError, match="gradient is 'none'"):
        HardGumbelSoftmax(gradient="none")  # type: ignore[arg-type]


def test_a_supernet_that_adds_no_constants_is_refused(tmp_path: Path) -> None:
    class Plain(NASBench201Supernet):
        adds_constants = False

    class PlainSpace(NASBench201Space):
        def supernet(self, **_: Any) -> Plain:
            return Plain(self.candidates, self.allowed["cell"], 3, 3, 2, 1)

    with pytest.raises(ConfigError, match="Plain does not follow Mixture.constants"):
        make(tmp_path, space=PlainSpace(), relaxation=HardGumbelSoftmax(gradient="all"))
    make(tmp_path, space=PlainSpace())


def hard_mixtures(task: BilevelTask, alphas: dict[str, Tensor], phase: str, step: int, progress: float) -> Any:
    """One-hot draws whose chosen factors have the gradients of the soft draw; everything is computed."""
    source = generator(derived_seed(0, "relaxation", phase, step))
    found = {}
    for name, a in alphas.items():
        noise = -torch.empty(a.shape, dtype=torch.float64).exponential_(generator=source).log()
        soft = ((a + noise) / (10.0 - 9.9 * progress)).softmax(1)
        chosen = F.one_hot(soft.argmax(1), a.shape[1]).double()
        found[name] = Mixture(chosen * (soft - soft.detach() + 1), torch.ones(len(a), dtype=torch.float64))
    return found


@pytest.mark.parametrize("space", SPACES)
def test_a_hard_search_is_a_loop_that_moves_what_was_drawn(space: str, tmp_path: Path) -> None:
    """In the loop every operation has its own momentum; one that was not drawn takes no step and does not decay."""
    data = FixedHalves(batches=3)
    task = make(tmp_path, space=SPACES[space])
    supernet = copy.deepcopy(task.model.supernet).double()
    alphas = {n: a.detach().double().clone().requires_grad_() for n, a in task.model.alphas.items()}
    alpha_optimizer = torch.optim.Adam(alphas.values(), lr=0.1, weight_decay=1e-3)
    momenta: dict[str, Tensor] = {}
    start = to_per_edge(supernet, dict(supernet.named_parameters()))
    step, rests = 0, 0
    for _ in range(2):
        for batch in data.batches():
            images, labels = batch["search"]
            mixtures = hard_mixtures(task, alphas, "search", step, step / 10)  # of 6 batches
            alpha_optimizer.zero_grad()
            F.cross_entropy(supernet(images, mixtures), labels).backward()
            alpha_optimizer.step()
            images, labels = batch["train"]
            mixtures = hard_mixtures(task, alphas, "train", step + 1, step / 10)
            supernet.zero_grad()
            F.cross_entropy(supernet(images, {n: m.detached() for n, m in mixtures.items()}), labels).backward()
            torch.nn.utils.clip_grad_norm_(supernet.parameters(), 0.5)
            gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in supernet.named_parameters()}
            state = to_per_edge(supernet)
            for name, gradient in to_per_edge(supernet, gradients).items():
                if gradient.any():
                    moved = gradient + SGD["weight_decay"] * state[name]
                    momenta[name] = SGD["momentum"] * momenta.get(name, 0.0) + moved
                    state[name] = state[name] - SGD["lr"] * momenta[name]
                else:
                    rests += 1
            from_per_edge(state, supernet)
            step += 2
    quiet_trainer(max_epochs=2, precision="64-true").fit(task, datamodule=data)
    assert rests > 100
    for name, alpha in alphas.items():
        torch.testing.assert_close(task.model.alphas[name].detach(), alpha.detach(), rtol=0, atol=1e-9)
    end = to_per_edge(supernet, dict(supernet.named_parameters()))
    for name, value in to_per_edge(task.model.supernet, dict(task.model.supernet.named_parameters())).items():
        torch.testing.assert_close(value, end[name], rtol=0, atol=1e-9, msg=name)
    same = [name for name, value in start.items() if torch.equal(value, end[name])]
    assert 0 < len(same) < len(start), "some operations were never drawn"


@pytest.mark.parametrize(
    ("relaxation", "hypergradient"),
    [
        *[(each, order) for each in (GumbelSoftmax(), HardGumbelSoftmax()) for order in (FirstOrder(), OneLevel())],
        (Dirichlet(), FirstOrder()),
        (ReinMax(), FirstOrder()),
    ],
)
def test_a_resumed_search_draws_what_an_uninterrupted_one_draws(
    relaxation: Any, hypergradient: Any, tmp_path: Path
) -> None:
    ends = []
    for path in (None, tmp_path / "kept" / "epoch=0.ckpt"):
        keep = ModelCheckpoint(tmp_path / "kept", "{epoch}", save_top_k=-1, enable_version_counter=False)
        task = make(tmp_path, relaxation=relaxation, hypergradient=hypergradient)
        trainer = quiet_trainer(max_epochs=2, callbacks=[keep], enable_checkpointing=True)
        trainer.fit(task, datamodule=FixedHalves(batches=2, dtype=torch.float32), ckpt_path=path)
        ends.append({name: value.clone() for name, value in task.state_dict().items()})
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"hypergradient": SecondOrder()}, "compares passes"),
        ({"compile": True}, "other operations in every step"),
        ({"regularizers": [ZeroOne()]}, "relaxation is HardGumbelSoftmax"),
    ],
)
def test_what_does_not_go_with_a_hard_draw_is_refused(options: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        make(tmp_path, **options)


def test_sigmoids_and_the_zero_one_loss_by_their_formulas() -> None:
    alphas = {name: torch.randn(5, 8, dtype=torch.float64) for name in ("normal", "reduce")}
    factors = Sigmoid().relax(alphas["normal"])
    terms: list[float] = []
    alphas["reduce"][1, 3] = -torch.inf  # not allowed
    for a in alphas.values():
        terms += [(1 / (1 + math.exp(-x)) - 0.5) ** 2 for x in a.flatten().tolist() if x > -math.inf]
    for (i, o), value in zip(torch.cartesian_prod(torch.arange(5), torch.arange(8)), factors.flatten(), strict=True):
        assert float(value) == pytest.approx(1 / (1 + math.exp(-float(alphas["normal"][i, o]))), abs=1e-12)
    assert len(terms) == 79
    assert float(ZeroOne(10.0).penalty(alphas, 0.3)) == pytest.approx(-10 * sum(terms) / 79, abs=1e-12)
    with pytest.raises(ConfigError, match="at least 0"):
        ZeroOne(-1.0)


def test_a_sigmoid_search_moves_its_alphas_by_loss_and_penalty(tmp_path: Path) -> None:
    data = FixedHalves(batches=1)
    options: dict[str, Any] = {"alpha_optimizer": lambda p: torch.optim.SGD(p, lr=1.0), "relaxation": Sigmoid()}
    task = make(tmp_path, regularizers=[ZeroOne(10.0)], discretizer=SigmoidScore(), **options)
    supernet = copy.deepcopy(task.model.supernet).double()
    alphas = {n: a.detach().double().clone().requires_grad_() for n, a in task.model.alphas.items()}
    images, labels = data.batches()[0]["search"]
    mixtures = {n: Mixture(a.sigmoid(), torch.ones(len(a), dtype=torch.float64)) for n, a in alphas.items()}
    spread = torch.cat(list(alphas.values())).sigmoid() - 0.5
    (F.cross_entropy(supernet(images, mixtures), labels) - 10 * spread.square().mean()).backward()
    quiet_trainer(max_epochs=1, precision="64-true").fit(task, datamodule=data)
    for name, alpha in alphas.items():
        assert alpha.grad is not None
        torch.testing.assert_close(task.model.alphas[name].detach(), alpha.detach() - alpha.grad, rtol=0, atol=1e-10)
