"""Searches and final networks on large images: the stem of the space is that of its supernets and networks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.export.network import export_network
from lightning_nas.metrics.cost import macs
from lightning_nas.spaces.artifact import build_space, load_architecture
from lightning_nas.spaces.cell_space import CellSpace
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.supernet import Mixture
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.train import TrainTask
from tests.helpers import quiet_trainer
from tests.spaces.nasbench201.test_path_scoring import alone, drawn, together
from tests.spaces.pair import Pair

SMALL: dict[type[CellSpace], dict[str, Any]] = {
    DARTSSpace: {"nodes": 2, "channels": 4, "cells": 3, "operations": ("none", "skip_connect", "sep_conv_3x3")},
    NASBench201Space: {"channels": 4, "cells_per_stage": 1},
}
SIZES: dict[type[CellSpace], dict[str, int]] = {
    DARTSSpace: {"channels": 4, "cells": 3},
    NASBench201Space: {"channels": 4, "cells": 1},
}


@pytest.fixture(params=list(SMALL), ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[CellSpace]:
    """A space with a choice of stems."""
    found: type[CellSpace] = request.param
    return found


def space_of(kind: type[CellSpace], stem: str = "imagenet") -> CellSpace:
    made: Any = kind
    space: CellSpace = made(**SMALL[kind], stem=stem)
    return space


def mixtures(space: CellSpace) -> dict[str, Mixture]:
    factors = torch.full((space.edges, len(space.operations)), 1 / len(space.operations), requires_grad=True)
    return dict.fromkeys(space.cell_types, Mixture(factors, factors.sum(1)))


def cell_inputs(network: nn.Module, *inputs: Any) -> list[tuple[int, int]]:
    """Heights of the states that cells, or modules between them, read."""
    sides = []

    def read(module: nn.Module, given: tuple[Any, ...]) -> None:
        states = given[0] if isinstance(given[0], list) else [x for x in given if isinstance(x, Tensor)]
        sides.append(tuple(x.shape[2] for x in states))

    hooks = [cell.register_forward_pre_hook(read) for cell in network.cells]  # type: ignore[union-attr]
    network(*inputs)
    for hook in hooks:
        hook.remove()
    return sides  # type: ignore[return-value]


EXPECTED = {DARTSSpace: [(56, 28), (28, 28), (28, 14)], NASBench201Space: [(28,), (28,), (14,), (14,), (7,)]}


def test_every_space_with_a_stem_is_tested() -> None:
    subclasses = [each for each in CellSpace.__subclasses__() if each.__module__.startswith("lightning_nas.")]
    assert {each for each in subclasses if "stem" in each.later_arguments} == set(SMALL)


def test_cells_compute_at_28_pixels_for_images_of_224(kind: type[CellSpace]) -> None:
    space, shape = space_of(kind), (3, 224, 224)
    images = torch.randn(2, *shape)
    for supernet in (
        space.supernet(num_classes=3, image_shape=shape),
        space.per_edge_supernet(num_classes=3, image_shape=shape),
    ):
        assert cell_inputs(supernet, images, mixtures(space)) == EXPECTED[kind]
    network = space.network(space.largest(), num_classes=3, image_shape=shape, **SIZES[kind])
    assert cell_inputs(network, images) == EXPECTED[kind]
    stem = sum(
        side**2 * 9 * a * b for side, a, b in ((112, 3, 2), (56, 2, 4), (28, 4, 4))
    )  # the only layers that compute at more than 28x28, but for the first cell's reduction
    assert macs(network.get_submodule("stem"), shape) == stem - (28**2 * 9 * 16 if kind is DARTSSpace else 0)
    plain = space_of(kind, "cifar")
    large = plain.network(plain.largest(), num_classes=3, image_shape=shape, **SIZES[kind])
    assert macs(network, shape) < macs(large, shape) / 20


@pytest.mark.parametrize("size", [(64, 64), (50, 43)])
def test_the_fused_supernet_is_the_plain_one(kind: type[CellSpace], size: tuple[int, int]) -> None:
    Pair(space_of(kind), size).check()


def test_gradients_reach_all_of_the_stem(kind: type[CellSpace]) -> None:
    space = space_of(kind)
    supernet, placed = space.supernet(num_classes=3, image_shape=(3, 64, 64)), mixtures(space)
    supernet(torch.randn(2, 3, 64, 64), placed).square().sum().backward()
    stem = [p for name, p in supernet.named_parameters() if name.startswith("stem")]
    assert len(stem) == 9
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in stem)


def test_many_paths_are_scored_together_as_one_by_one() -> None:
    space: Any = space_of(NASBench201Space)
    torch.manual_seed(0)
    supernet = space.supernet(num_classes=3, image_shape=(3, 40, 33)).double()
    calibration, batches = torch.randn(12, 3, 40, 33).double(), [torch.randn(5, 3, 40, 33).double()]
    architectures = drawn(space, 6)

    def doubled(path: dict[str, Mixture]) -> dict[str, Mixture]:
        return {name: Mixture(m.operations.double(), m.edges.double(), m.active) for name, m in path.items()}

    found = together(supernet, space, architectures, calibration, batches)
    for architecture, logits in zip(architectures, found, strict=True):
        expected = alone(supernet, doubled(space.to_path(architecture)), calibration, batches)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)


def test_the_stem_is_stored_where_it_is_not_the_default(kind: type[CellSpace], tmp_path: Path) -> None:
    made: Any = kind
    default, plain, large = made(**SMALL[kind]), space_of(kind, "cifar"), space_of(kind)
    assert plain.spec() == default.spec()
    assert all("stem" not in dict(each) for each in (plain.spec().arguments, plain.arguments()))
    assert dict(large.spec().arguments)["stem"] == large.arguments()["stem"] == "imagenet"
    assert large.restrict({}).spec() == large.spec()
    old = plain.largest().save(tmp_path / "old.json")
    assert "stem" not in json.loads(old.read_text())["space"]["arguments"]
    path = large.largest().save(tmp_path / "new.json")
    for file, stem in ((old, "cifar"), (path, "imagenet")):
        space: Any = build_space(load_architecture(file).space)
        assert space.stem == stem
    with pytest.raises(ArchitectureError, match="imagenet"):
        plain.check(load_architecture(path))


def test_a_network_may_have_the_other_stem(kind: type[CellSpace]) -> None:
    sizes: dict[str, Any] = {"num_classes": 3, "image_shape": (3, 64, 64), **SIZES[kind]}
    for stem, asked, side in (("cifar", True, 8), ("imagenet", False, 64), ("imagenet", None, 8)):
        space: Any = space_of(kind, stem)
        network = space.network(space.largest(), **sizes, imagenet_stem=asked)
        assert cell_inputs(network, torch.randn(1, 3, 64, 64).expand(2, -1, -1, -1))[0][-1] == side


def test_stems_that_do_not_fit_are_refused(kind: type[CellSpace]) -> None:
    made: Any = kind
    with pytest.raises(ConfigError, match="stem is 'large'; it must be one of 'cifar', 'imagenet'"):
        made(stem="large")
    for stem in ("null", ["imagenet"], {"a": 1}):  # as a file may give them
        with pytest.raises(ConfigError, match=r"stem is .*; it must be one of 'cifar', 'imagenet'"):
            made(stem=None if stem == "null" else stem)
    with pytest.raises(ConfigError, match="channels is 1; it must be at least 2"):
        made(stem="imagenet", channels=1)
    space = space_of(kind)
    with pytest.raises(DataError, match="at least 32x32"):
        space.supernet(num_classes=3, image_shape=(3, 31, 32))
    with pytest.raises(ConfigError, match="channels is 1"):
        space.network(space.largest(), num_classes=3, image_shape=(3, 64, 64), channels=1, cells=1)


@pytest.fixture
def images(tmp_path: Path) -> ArrayDataModule:
    """24 images of 64x64 pixels."""
    generator, labels = np.random.default_rng(0), np.arange(24) % 3
    pixels = generator.integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x_train=pixels, y_train=labels, x_test=pixels[:6], y_test=labels[:6])
    return ArrayDataModule(str(tmp_path / "images.npz"), batch_size=6)


def test_a_search_and_the_training_of_its_result(
    kind: type[CellSpace], images: ArrayDataModule, tmp_path: Path
) -> None:
    sizes: dict[str, Any] = {"num_classes": 3, "image_shape": (3, 64, 64)}
    search = BilevelTask(
        space_of(kind),  # type: ignore[arg-type]
        hypergradient=FirstOrder(),
        discretizer=SoftmaxScore(),
        weight_optimizer=lambda p: torch.optim.SGD(p, lr=0.05),
        alpha_optimizer=lambda p: torch.optim.Adam(p, lr=0.1),
        output_dir=str(tmp_path),
        selection_images=0,
        **sizes,
    )
    before = [alpha.detach().clone() for alpha in search.model.alpha_list]
    quiet_trainer(max_epochs=1).fit(search, datamodule=HalvesDataModule(images, batch_size=6))
    assert all(not torch.equal(a, b) for a, b in zip(before, search.model.alpha_list, strict=True))
    training = TrainTask(
        str(tmp_path / "architecture.json"), optimizer=lambda p: torch.optim.SGD(p, lr=0.05), **SIZES[kind], **sizes
    )
    quiet_trainer(max_epochs=1).fit(training, datamodule=images)
    assert training.network.arguments["imagenet_stem"]
    assert cell_inputs(training.network, torch.randn(2, 3, 64, 64))[0][-1] == 8
    exported = export_network(
        *(training.network, tmp_path / "export"),
        **{"image_shape": (3, 64, 64), "class_names": ["a", "b", "c"], "mean": [0.5] * 3, "std": [0.2] * 3},
        header="",
    )
    assert exported.difference <= 1e-5
