"""What every member of a family must do, whoever writes it: members are found by walking the classes."""

import importlib
import inspect
import json
import pickle
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch import Tensor

import lightning_nas.callbacks
import lightning_nas.data
import lightning_nas.differentiable
import lightning_nas.distill
import lightning_nas.evaluation
import lightning_nas.predictors
import lightning_nas.spaces
import lightning_nas.strategies
import lightning_nas.tables
import lightning_nas.tasks
from lightning_nas.architecture import Architecture
from lightning_nas.data.augmentation import Augmentation
from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.hypergradient.base import Hypergradient
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.perturbation.base import Perturbation
from lightning_nas.differentiable.regularization.base import Regularizer
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.relaxation.softmax import Softmax
from lightning_nas.distill.base import Matcher, Scheme, Selection, Synthetic
from lightning_nas.distill.coresets import Herding, KCenter
from lightning_nas.distill.difficulty import Difficulty
from lightning_nas.distill.relations import RelationMappings
from lightning_nas.distill.trajectory import TrajectoryMatching
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.evaluation.zero_cost import ZeroCostScore
from lightning_nas.predictors.autoencoder import ArchitectureAutoEncoder
from lightning_nas.predictors.rank_losses import RankLoss
from lightning_nas.predictors.regressors import Predictor
from lightning_nas.predictors.swarm import Remapping
from lightning_nas.spaces.artifact import architecture_from_dict, build_space
from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.constrained import ConstrainedSpace
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.single_path.blocks import ChoiceBlock
from lightning_nas.spaces.single_path.space import SinglePathSpace
from lightning_nas.spaces.sized import build_network
from lightning_nas.spaces.supernet import Mixture
from lightning_nas.strategies.base import Strategy
from lightning_nas.strategies.tnao import CodeSearch
from lightning_nas.tables.base import Table
from tests.helpers import distances, started, wandering_experts


def load(package: ModuleType) -> None:
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)


for _package in (
    lightning_nas.callbacks,
    lightning_nas.data,
    lightning_nas.differentiable,
    lightning_nas.distill,
    lightning_nas.evaluation,
    lightning_nas.strategies,
    lightning_nas.predictors,
    lightning_nas.spaces,
    lightning_nas.tables,
    lightning_nas.tasks,
):
    load(_package)


def members(base: type) -> list[Any]:
    found, rest = [], [base]
    while rest:
        for child in rest.pop().__subclasses__():
            rest.append(child)
            if not inspect.isabstract(child) and child.__module__.startswith("lightning_nas."):
                found.append(child)
    assert found, base
    return sorted(set(found), key=lambda c: c.__qualname__)


FAMILIES = [
    Attention,
    Augmentation,
    ChoiceBlock,
    Difficulty,
    Discretizer,
    Evaluator,
    Hypergradient,
    Matcher,
    Normalization,
    Perturbation,
    RankLoss,
    Regularizer,
    Relaxation,
    Predictor,
    Remapping,
    Scheme,
    SearchSpace,
    Selection,
    Strategy,
    Table,
    ZeroCostScore,
]
ALL = [member for family in FAMILIES for member in members(family)]
SPACE = DARTSSpace(nodes=3)


@pytest.mark.parametrize("member", ALL, ids=lambda m: m.__qualname__)
def test_documented_and_typed_for_the_command_line(member: type) -> None:
    assert inspect.getdoc(member)
    parameters = list(inspect.signature(member).parameters.values())
    for parameter in parameters:
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY), parameter
        assert f"{parameter.name}:" in (inspect.getdoc(member) or ""), f"{parameter.name} is not documented"


COMPONENTS = [*ALL, *(m for base in (LightningModule, LightningDataModule, Callback) for m in members(base))]


@pytest.mark.parametrize("member", COMPONENTS, ids=lambda m: m.__qualname__)
def test_options_are_given_by_name(member: type) -> None:
    """An option inserted between others would otherwise take the values of calls that pass them by position."""
    parameters = list(inspect.signature(member).parameters.values())
    positional = [p for p in parameters[1:] if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty]
    inherited = "__init__" not in vars(member)
    assert inherited or len(parameters) < 3 or not positional, f"{member.__qualname__}: {positional}"


WRAPPERS = (Evaluator, ConstrainedSpace, Table)  # made of other objects or files, without defaults


@pytest.mark.parametrize("member", [m for m in ALL if not issubclass(m, WRAPPERS)], ids=lambda m: m.__qualname__)
def test_made_from_defaults_and_picklable(member: type) -> None:
    """Data modules and spaces go to worker processes with what they hold."""
    assert type(pickle.loads(pickle.dumps(member()))) is member


@pytest.mark.parametrize("member", members(Relaxation))
def test_relaxations_keep_shape_edges_apart_and_pass_gradients(member: Any) -> None:
    alphas = torch.randn(9, 8, dtype=torch.float64, requires_grad=True)
    factors = member().relax(alphas)
    assert factors.shape == alphas.shape
    assert (factors >= 0).all()
    torch.manual_seed(0)
    (gradient,) = torch.autograd.grad((factors[0] * torch.randn(8, dtype=torch.float64)).sum(), alphas)
    assert gradient[0].any()
    assert not gradient[1:].any()


@pytest.mark.parametrize("member", members(Normalization))
def test_normalizations_keep_nodes_apart_and_pass_gradients(member: Any) -> None:
    alphas = torch.randn(SPACE.edges, 8, requires_grad=True)
    edges = torch.randn(SPACE.edges, requires_grad=True) if member.edge_alphas else None
    mixture = member().normalize(alphas, edges, Softmax(), SPACE.nodes)
    assert mixture.operations.shape == alphas.shape
    assert mixture.edges.shape == (SPACE.edges,)
    # what passes an edge beside its operations has the mass that they have
    torch.testing.assert_close(mixture.operations.sum(1), mixture.edges)
    node = SPACE.nodes[1]
    (gradient,) = torch.autograd.grad(mixture.operations[node.start].square().sum(), alphas)
    assert not gradient[: node.start].any()
    assert not gradient[node.stop :].any()


@pytest.mark.parametrize("member", members(Regularizer))
def test_regularizers_are_scalars_with_finite_gradients(member: Any) -> None:
    for scale in (0.0, 1e-3, 5.0):
        alphas = {name: (scale * torch.randn(9, 8)).requires_grad_() for name in ("normal", "reduce")}
        penalty = member().penalty(alphas, 0.5)
        assert penalty.shape == ()
        for gradient in torch.autograd.grad(penalty, list(alphas.values())):
            assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("member", members(Perturbation))
def test_perturbations_keep_shares_and_repeat_with_their_generator(member: Any) -> None:
    operations = torch.randn(9, 8, dtype=torch.float64).softmax(1)
    mixtures = {name: Mixture(operations, torch.ones(9)) for name in ("normal", "reduce")}
    allowed = {name: torch.ones(9, 8, dtype=torch.bool) for name in mixtures}

    def perturb(seed: int) -> Any:
        return member().perturb(
            mixtures,
            allowed,
            lambda moved: {name: m.operations for name, m in moved.items()},
            progress=1.0,
            generator=torch.Generator().manual_seed(seed),
        )

    found, again, other = perturb(0), perturb(0), perturb(1)
    for name, mixture in found.items():
        assert (mixture.operations >= 0).all()
        torch.testing.assert_close(mixture.operations.sum(1), torch.ones(9, dtype=torch.float64))
        assert not torch.equal(mixture.operations, operations)
        assert torch.equal(mixture.operations, again[name].operations)
        assert not torch.equal(mixture.operations, other[name].operations)


@pytest.mark.parametrize("member", members(Attention))
def test_attention_changes_nothing_at_the_start(member: Any) -> None:
    """So that a search with it starts where one without it does."""
    x = torch.randn(2, 6, 4, 4)
    torch.testing.assert_close(x * member().channel_gate(6)(x), x)


@pytest.mark.parametrize("member", members(Discretizer))
def test_discretizers_choose_points_of_the_space_and_find_a_clear_winner(member: Any) -> None:
    discretizer = member()
    for seed in range(5):
        torch.manual_seed(seed)
        truth = SPACE.sample(torch.Generator().manual_seed(seed))
        alphas = {name: 0.01 * torch.randn(SPACE.edges, 8) for name in SPACE.cell_types}
        edges = {name: torch.zeros(SPACE.edges) for name in SPACE.cell_types}
        for name, pairs in SPACE.chosen(truth).items():
            for edge, operation in pairs:
                alphas[name][edge, operation] += 5
                edges[name][edge] += 5
        before = {name: a.clone() for name, a in alphas.items()}
        found = discretizer.discretize(alphas, edges, SPACE)
        assert SPACE.key(found) == SPACE.key(truth)
        assert all(torch.equal(alphas[name], before[name]) for name in alphas)


SMALL: dict[Any, dict[str, Any]] = {
    Herding: {"width": 4, "depth": 2, "steps": 2},
    KCenter: {"width": 4, "depth": 2, "steps": 2},
    RelationMappings: {"bases": 8, "mappings": 10},
}


@pytest.mark.parametrize("member", members(Scheme))
def test_schemes_make_balanced_finite_proxies_and_repeat_with_their_seed(member: Any) -> None:
    images, labels = torch.randn(60, 2, 8, 8), torch.arange(60) % 3
    proxies = []
    for _ in range(2):
        scheme = started(member(**SMALL.get(member, {})), images, labels)
        made = scheme.proxy()
        x, y, groups, targets = made
        assert x.shape == scheme.proxy_shape()
        assert x.shape[1:] == (2, 8, 8)
        assert len(x) == len(y) == len(groups)
        assert torch.isfinite(x).all()
        assert torch.bincount(y, minlength=3).unique().numel() == 1
        if targets is not None:
            torch.testing.assert_close(targets.sum(1), torch.ones(len(x)))
            assert torch.equal(targets.argmax(1), y)
        drawn, again, other = (scheme.draw(seed) for seed in (3, 3, 5))
        assert torch.equal(drawn.images, again.images)
        assert torch.bincount(other.labels, minlength=3).unique().numel() == 1
        assert distances(drawn.images, x).min(1).values.max() < 1e-4
        trainable = {id(p) for p in scheme.parameters() if p.requires_grad}
        assert {id(p) for group in scheme.parameter_groups() for p in group["params"]} == trainable
        proxies.append(x)
    assert torch.equal(*proxies)
    fresh = started(member(**SMALL.get(member, {})), images.flip(0), labels)
    fresh.load_state_dict(scheme.state_dict())
    assert torch.equal(fresh.proxy().images, proxies[0])
    # what an artifact holds
    read = member(**json.loads(json.dumps(scheme.arguments())))
    read.restore(scheme.state_dict())
    assert read.proxy_shape() == scheme.proxy_shape()
    assert torch.equal(read.proxy().images, proxies[0])
    assert read.stored_bytes == sum(4 * p.numel() for p in scheme.parameters()) + sum(
        8 * b.numel() for b in scheme.buffers()
    )


@pytest.mark.parametrize("member", members(Matcher))
def test_matchers_repeat_with_their_seed_and_lead_to_the_proxy(member: Any) -> None:
    x, y = torch.randn(12, 1, 8, 8), torch.arange(12) % 3
    wandering_experts((1, 8, 8), Path("experts.safetensors"))
    matcher = member()
    matcher.start((1, 8, 8), 3, 0)
    proxy = torch.randn(12, 1, 8, 8, requires_grad=True)
    groups = torch.arange(12)

    def loss_of(images: Tensor) -> Tensor:
        return matcher.loss((x, y), lambda seed: Synthetic(images, y, groups), 4)

    loss = loss_of(proxy)
    assert loss.shape == ()
    if member is not TrajectoryMatching:  # which compares networks, not sets
        assert loss > loss_of(x.clone()) < 1e-6
    assert torch.equal(loss, loss_of(proxy))
    before = torch.get_rng_state()
    (gradient,) = torch.autograd.grad(loss, proxy)
    assert gradient.any()
    assert torch.equal(before, torch.get_rng_state())


SMALL_SPACES: dict[Any, dict[str, Any]] = {
    SinglePathSpace: {"widths": [16, 32], "depths": [2, 3], "strides": [1, 2], "stem_stride": 1, "last": 16}
}
"""Where a space decides of its networks' sizes: arguments for small images."""


@pytest.mark.parametrize("member", [m for m in members(SearchSpace) if m is not ConstrainedSpace])
def test_spaces_hold_what_they_sample(member: Any) -> None:
    space = member(**SMALL_SPACES.get(member, {}))
    generator = torch.Generator().manual_seed(0)
    before = torch.get_rng_state()
    largest = space.largest()
    for _ in range(10):
        architecture = space.sample(generator)
        space.check(architecture)
        assert architecture_from_dict(architecture.to_dict()) == architecture
        assert build_space(architecture.space).spec() == space.spec()
        near = space.mutate(architecture, generator)
        assert space.key(near) != space.key(architecture)
        canonical = space.canonical(architecture)
        assert space.key(canonical) == space.key(architecture)
        assert space.canonical(canonical) == canonical
        assert 0 <= space.parameter_count(architecture) <= space.parameter_count(largest)
        assert space.graphs(architecture)
        assert len(space.num_values) == len(architecture.choices)
        assert sorted(place for token in space.tokens for place in token) == list(range(len(space.num_values)))
        assert all(0 <= c < n for c, n in zip(architecture.choices, space.num_values, strict=True))
        assert space.text(architecture)
        assert all(graph.connected or "none" in space.text(architecture) for graph in space.graphs(architecture))
    assert torch.equal(torch.get_rng_state(), before)  # only the generator is drawn from
    again = torch.Generator().manual_seed(0)
    assert space.sample(again) == member(**SMALL_SPACES.get(member, {})).sample(torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"num_classes": 3, "image_shape": (3, 8, 8), "channels": 4, "cells": 2}
    assert build_network(space, largest, **options)(torch.randn(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("member", members(ChoiceBlock))
def test_choice_blocks_have_the_shape_that_is_asked_for_and_are_made_again(member: Any) -> None:
    block = member()
    assert type(block)(**block.arguments()).arguments() == block.arguments()
    for channels_in, channels_out, stride in ((8, 8, 1), (8, 12, 1), (8, 16, 2), (6, 7, 2)):
        module = block.module(channels_in, channels_out, stride)
        x = torch.randn(2, channels_in, 9, 6, requires_grad=True)
        y = module(x)
        assert y.shape == (2, channels_out, -(-9 // stride), -(-6 // stride))
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        assert gradient.abs().sum(dim=(0, 2, 3)).all()


@pytest.mark.parametrize("member", members(Augmentation))
def test_augmentations_keep_shape_and_repeat_with_their_generator(member: Any) -> None:
    x = torch.rand(5, 3, 40, 40)
    before = x.clone()
    augment = member()
    first, second, other = (augment(x, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert first.shape == x.shape
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(x, before)


@pytest.mark.parametrize("member", [m for m in members(SearchSpace) if not issubclass(m, ConstrainedSpace)])
def test_children_have_every_choice_of_a_parent(member: Any) -> None:
    space, generator = member(), torch.Generator().manual_seed(3)
    children = set()
    for _ in range(20):
        first, second = space.sample(generator), space.sample(generator)
        child = space.crossover(first, second, generator)
        space.check(child)
        assert all(c in pair for c, *pair in zip(child.choices, first.choices, second.choices, strict=True))
        assert space.crossover(first, first, generator) == first
        children.add(child in (first, second))
    assert False in children


def played(strategy: Strategy, asked: list[Architecture]) -> None:
    """Tell a strategy a rugged objective without ties."""
    values = [sum(c * 1.01**i for i, c in enumerate(a.choices)) - 2.0 * (a.choices[0] == 4) for a in asked]
    strategy.tell([(a, Evaluation({"accuracy": v})) for a, v in zip(asked, values, strict=True)])


def begun(member: Any, seed: int) -> Strategy:
    """A strategy at its start; one that needs an auto-encoder has one, and knows some architectures."""
    strategy: Strategy = member()
    strategy.start(NASBench201Space(), seed=seed)
    if isinstance(strategy, CodeSearch):
        torch.manual_seed(0)
        strategy.autoencoder = ArchitectureAutoEncoder(strategy.space.num_values, width=8, code=6, layers=1, heads=2)
        played(strategy, strategy.sample_unseen(20))
    return strategy


@pytest.mark.parametrize("member", members(Strategy))
def test_strategies_ask_for_what_is_new_and_go_on_where_they_were(member: Any, tmp_path: Path) -> None:
    space, strategy = NASBench201Space(), begun(member, 1)
    known = set(strategy.evaluated)
    for step, count in enumerate((1, 7, 3, 30, 2, 20)):
        before = strategy.round
        asked = strategy.ask(count)
        assert len(asked) <= count
        # an untrained one decodes to few architectures, and rounds end
        assert asked or isinstance(strategy, CodeSearch) or strategy.round
        known = known if strategy.round == before else set()
        keys = {space.key(a) for a in asked}
        assert len(keys) == len(asked)
        assert not keys & known
        known |= keys
        played(strategy, asked)
        torch.save(strategy.state_dict(), tmp_path / "state.pt")
        again = begun(member, step)
        again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert again.best() == strategy.best()
        next_ones = again.ask(5)
        assert next_ones == member_asks(member, strategy, space, tmp_path)


def member_asks(member: Any, strategy: Strategy, space: SearchSpace, folder: Path) -> list[Architecture]:
    """What the strategy itself would ask for; asking draws, so that a copy does."""
    copy = pickle.loads(pickle.dumps({k: v for k, v in vars(strategy).items() if k != "generator"}))
    fresh = begun(member, 0)
    vars(fresh).update(copy)
    fresh.generator.set_state(strategy.generator.get_state())
    return list(fresh.ask(5))


@pytest.mark.parametrize("member", members(Strategy))
def test_strategies_go_on_without_what_failed(member: Any, tmp_path: Path) -> None:
    space, strategy = NASBench201Space(), begun(member, 1)
    failed: set[str] = set()
    for step, count in enumerate((7, 30, 3, 40, 1, 30)):
        asked = strategy.ask(count)
        assert asked or isinstance(strategy, CodeSearch) or strategy.round
        assert not failed & {space.key(a) for a in asked}
        bad = asked if step == 4 else asked[step % 3 :: 3]
        played(strategy, [a for a in asked if a not in bad])
        strategy.tell_failed(bad)
        failed |= {space.key(a) for a in bad}
        assert set(strategy.failed) == failed
        assert not strategy.fitness or space.key(strategy.best()) not in failed
        torch.save(strategy.state_dict(), tmp_path / "state.pt")
        again = begun(member, step)
        again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert set(again.failed) == failed
        assert again.ask(5) == member_asks(member, strategy, space, tmp_path)


@pytest.mark.parametrize("member", [m for m in members(Strategy) if not issubclass(m, CodeSearch)])
def test_strategies_end_where_evaluations_fail(member: Any) -> None:
    space, strategy = NASBench201Space(("skip_connect", "nor_conv_3x3")), member()
    for share in (2, 1):
        strategy.start(space, seed=1)
        asked = 0
        while more := strategy.ask(9):
            asked += len(more)
            assert asked < 400
            played(strategy, [a for i, a in enumerate(more) if i % share])
            strategy.tell_failed(more[::share])
        assert strategy.failed


@pytest.mark.parametrize("member", [m for m in members(Strategy) if not issubclass(m, CodeSearch)])
def test_strategies_forget_at_a_start_and_end(member: Any) -> None:
    space, strategy = NASBench201Space(("skip_connect", "nor_conv_3x3")), member()
    asked: list[list[Architecture]] = []
    for seed in (1, 1, 2):
        strategy.start(space, seed=seed)
        asked.append([])
        while more := strategy.ask(9):
            asked[-1] += more
            played(strategy, more)
        # mutations may not reach all; rounds look at the neighbours of some, and may ask again
        assert (6 if strategy.round else 48) < len({space.key(each) for each in asked[-1]}) <= 64
    assert asked[0] == asked[1]
    assert asked[0] != asked[2]


def _reads_images(kind: type) -> bool:
    """Whether a constructor takes a data module."""
    hints = get_type_hints(vars(kind)["__init__"]) if "__init__" in vars(kind) else {}
    parts = [part for hint in hints.values() for part in (hint, *get_args(hint))]
    return any(inspect.isclass(part) and issubclass(part, LightningDataModule) for part in parts)


def test_evaluators_of_images_say_so_and_check_them() -> None:
    readers = [each for each in members(Evaluator) if _reads_images(each)]
    assert {"ShortTraining", "SupernetEvaluator", "ZeroCost"} <= {each.__name__ for each in readers}
    silent = [e for e in readers if e.data_modules is Evaluator.data_modules or e.check is Evaluator.check]
    assert silent == []


def test_schemes_check_the_images_that_they_start_from() -> None:
    assert [each for each in members(Scheme) if each.check is Scheme.check] == []
