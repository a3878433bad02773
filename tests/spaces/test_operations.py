"""Operations: those built in, and those of a user's own in spaces, searches, artifacts and exports."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import nn

from lightning_nas.errors import ArchitectureError, ArtifactError, ConfigError
from lightning_nas.export.formats import Description
from lightning_nas.export.network import PlainFile, export_files
from lightning_nas.spaces import (
    CellSpace,
    DARTSSpace,
    Mixture,
    NASBench201Space,
    Operation,
    PerEdgeSupernet,
    SearchSpace,
    SeparableConvolution,
    architecture_from_dict,
    build_space,
    load_architecture,
)
from lightning_nas.spaces import operations as operations_module
from lightning_nas.spaces.darts.fused_edges import FusedEdges
from lightning_nas.spaces.nasbench201.fused_edges import FusedEdges as NASBench201FusedEdges
from lightning_nas.spaces.nasbench201.network import CELL_OPERATIONS
from lightning_nas.spaces.operation_modules import MODULES
from lightning_nas.spaces.operations import BUILT_IN, NASBENCH201_OPERATIONS
from tests.spaces.own_operation import ScaledChannels, SqueezeExcite
from tests.spaces.own_space import PyramidSpace
from tests.spaces.pair import IMAGES

SHAPE = (3, 8, 8)


def own(space: type[CellSpace] = DARTSSpace, operation: Any = None, **arguments: Any) -> Any:
    """A space with an operation of one's own in the last column."""
    sizes = {"nodes": 2, "cells": 3} if space is DARTSSpace else {"cells_per_stage": 1}
    if operation is None:
        operation = SqueezeExcite(2)
    return space(operations=("none", "skip_connect", operation), channels=4, **{**sizes, **arguments})


# Built-in operations.


def test_operations_make_the_modules_of_networks() -> None:
    for operation in BUILT_IN:
        for stride in (1, 2):
            assert repr(operation.module(4, stride, True)) == repr(MODULES[operation.name](4, stride, True))
    for operation, (name, make) in zip(NASBENCH201_OPERATIONS, CELL_OPERATIONS.items(), strict=True):
        assert operation.name == name
        assert repr(operation.module(4, 1, True)) == repr(make(4))


def test_operations_say_what_they_are() -> None:
    def names(flag: str) -> set[str]:
        return {operation.name for operation in BUILT_IN if getattr(operation, flag)}

    assert names("is_none") == {"none"}
    assert names("is_skip") == {"skip_connect"}
    assert names("is_random") == {"noise"}
    assert names("has_weights") == {"sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"}


@pytest.mark.parametrize("operation", [*BUILT_IN, *NASBENCH201_OPERATIONS, SqueezeExcite(3)], ids=repr)
@pytest.mark.parametrize("stride", [1, 2])
def test_operations_keep_the_channels_and_divide_the_size(operation: Operation, stride: int) -> None:
    x = torch.randn(2, 4, 9, 6)
    shape = (2, 4, -(-9 // stride), -(-6 // stride))
    for module in (operation.module(4, stride, True), operation.search_module(4, stride)):
        assert module(x).shape == shape
    affine = [n.affine for n in operation.search_module(4, stride).modules() if isinstance(n, nn.BatchNorm2d)]
    assert not any(affine)


def test_operations_are_equal_by_class_and_arguments() -> None:
    assert SqueezeExcite(2) == SqueezeExcite(2) != SqueezeExcite(3)
    assert len({SqueezeExcite(2), SqueezeExcite(2), SeparableConvolution(3)}) == 2
    assert eval(repr(SqueezeExcite(2))) == SqueezeExcite(2)


@pytest.mark.parametrize("kernel", [0, 2, -3, 3.0, True])
def test_kernels_are_odd(kernel: Any) -> None:
    with pytest.raises(ConfigError, match="kernel is"):
        SeparableConvolution(kernel)


# Operations of one's own.


@pytest.mark.parametrize("space", [own(), own(NASBench201Space)], ids=["darts", "nasbench201"])
def test_they_are_computed_with_their_own_module(space: Any) -> None:
    """With that operation alone on every edge, a hook sees every edge, and the module decides about the logits."""
    net = space.supernet(num_classes=3, image_shape=SHAPE)
    assert isinstance(net, PerEdgeSupernet)
    modules = [module for module in net.modules() if isinstance(module, ScaledChannels)]
    cells = sum(hasattr(cell, "edges") for cell in net.cells)
    assert len(modules) == cells * space.edges
    weights = torch.zeros(space.edges, 3)
    weights[:, 2] = 1
    x, mixtures = (
        torch.randn(2, *SHAPE),
        {name: Mixture(weights, torch.ones(len(weights))) for name in space.cell_types},
    )
    nothing = {name: Mixture(torch.zeros_like(weights), torch.ones(len(weights))) for name in space.cell_types}
    logits = net(x, mixtures)
    assert not torch.allclose(logits, net(x, nothing))
    gradients = torch.autograd.grad(logits.square().sum(), [module.scale[2].bias for module in modules])
    assert all(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("name", ["my_block", "se_conv", "se_conv_3x3", "pool", "dil_conv_3x3", "none"])
def test_their_names_mean_nothing(name: str) -> None:
    operation = SqueezeExcite(2)
    operation.name = name
    space = DARTSSpace(operations=("skip_connect", operation), nodes=1, channels=4, cells=1)
    assert isinstance(space.supernet(num_classes=3, image_shape=SHAPE), PerEdgeSupernet)
    assert space.selectable["normal"].all()


def test_a_table_of_names_is_no_way_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(operations_module.ALL_OPERATIONS, "my_block", ScaledChannels)
    with pytest.raises(ConfigError, match="'my_block', which is unknown.*class_path: my_module.MyOperation"):
        DARTSSpace(operations=("none", "skip_connect", "my_block"))


def test_fused_edges_refuse_what_they_cannot_compute() -> None:
    mask = torch.ones(2, 1, 1, dtype=torch.bool)
    with pytest.raises(ConfigError, match="squeeze_excite"):
        FusedEdges([SqueezeExcite()], mask, 4, 1)
    with pytest.raises(ConfigError, match="squeeze_excite"):
        NASBench201FusedEdges([SqueezeExcite()], mask[:, 0], 4)


class WithoutName(SqueezeExcite):
    """Its name is two words."""

    name = "two words"


class WithDictionary(SqueezeExcite):
    """Has an argument that no artifact stores."""

    def __init__(self, words: Any = None) -> None:
        super().__init__()
        self.words = words or {}


class WithoutAttribute(SqueezeExcite):
    """Does not keep its argument."""

    def __init__(self, width: int = 3) -> None:
        super().__init__(width)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (ScaledChannels, "not an Operation"),
        (nn.Identity(), "not an Operation"),
        (["os.system", []], "not an imported class that derives from Operation"),
        (["lightning_nas.spaces.SeparableConvolution", [["kernel", 2]]], "positive odd integer"),
        (["lightning_nas.spaces.SeparableConvolution", [["size", 3]]], "which is not a valid Operation"),
        (WithoutName(), "one word"),
        ("skip_connect", "more than once"),
    ],
)
@pytest.mark.parametrize("space", [DARTSSpace, NASBench201Space])
def test_what_is_no_operation_is_refused(space: Any, operation: Any, message: str) -> None:
    with pytest.raises((ConfigError, ArtifactError), match=message):
        own(space, operation)


def test_arguments_that_no_artifact_holds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"arguments \['words'\]"):
        own(operation=WithDictionary()).spec()
    with pytest.raises(ConfigError, match=r"no attributes \['width'\]"):
        own(operation=WithoutAttribute()).spec()


@pytest.mark.parametrize("space", [own(), own(NASBench201Space), PyramidSpace()], ids=["darts", "nasbench201", "own"])
def test_architectures_make_the_round_trip(space: Any, tmp_path: Path) -> None:
    architecture = space.sample(torch.Generator().manual_seed(0))
    path = architecture.save(tmp_path / "architecture.json")
    assert "tests.spaces.own_operation.SqueezeExcite" in path.read_text()
    found = load_architecture(path)
    assert found == architecture
    rebuilt = build_space(found.space)
    assert rebuilt.spec() == space.spec()
    assert rebuilt.text(found) == space.text(architecture)
    again = type(space)(**space.arguments())
    assert again.candidates == space.candidates
    assert again.arguments() == space.arguments()
    network = space.network(found, num_classes=3, image_shape=SHAPE, channels=4, cells=2)
    assert network(torch.randn(2, *SHAPE)).shape == (2, 3)


def test_architectures_with_an_operation_that_is_not_imported_are_refused() -> None:
    content = own().largest().to_dict()
    operations = content["space"]["arguments"]["operations"]
    content["space"]["arguments"]["operations"] = (*operations[:2], ("absent.Operation", ()))
    with pytest.raises((ArtifactError, ArchitectureError), match="not an imported class that derives from Operation"):
        architecture_from_dict(content)


def test_restricting_keeps_them() -> None:
    space = own()
    mask = {name: torch.ones(space.edges, 3, dtype=torch.bool) for name in space.cell_types}
    mask["normal"][0, 2] = False
    narrow = space.restrict(mask)
    assert narrow.spec() == space.spec()
    net = narrow.supernet(num_classes=3, image_shape=SHAPE)
    assert sum(isinstance(module, ScaledChannels) for module in net.modules()) == 3 * space.edges - 1


def test_they_are_given_in_a_configuration() -> None:
    config = """
class_path: DARTSSpace
init_args:
  operations:
    - skip_connect
    - class_path: tests.spaces.own_operation.SqueezeExcite
      init_args: {ratio: 3}
    - class_path: SeparableConvolution
      init_args: {kernel: 7}
"""
    parser = ArgumentParser()
    parser.add_subclass_arguments(SearchSpace, "space")
    space = parser.instantiate(parser.parse_object({"space": yaml.safe_load(config)})).space
    assert space.operations == ("skip_connect", "squeeze_excite", "sep_conv_7x7")
    assert space.candidates[1] == SqueezeExcite(3)


@pytest.mark.parametrize("space", [own(), own(NASBench201Space)], ids=["darts", "nasbench201"])
def test_networks_with_them_are_exported(space: Any, tmp_path: Path) -> None:
    scores = torch.tensor([0.0, 0.5, 1.0]).expand(space.edges, -1)
    architecture = space.select(dict.fromkeys(space.cell_types, scores))
    network = space.network(architecture, num_classes=3, image_shape=SHAPE, channels=4, cells=2)
    for _ in range(3):
        network(torch.randn(8, *SHAPE))
    description = Description(SHAPE, tuple("abc"), (0.5,) * 3, (0.2,) * 3, "header")
    (exported,) = export_files(network, tmp_path, description, [PlainFile()])
    assert exported.difference <= 1e-6
    source = (tmp_path / "network.py").read_text()
    assert "class ScaledChannels" in source
    assert "lightning_nas" not in source.replace("found by lightning_nas", "")


class Unexportable(SqueezeExcite):
    """Its module imports more than torch and this library's plain modules."""


def test_networks_that_no_plain_file_can_hold_are_refused(tmp_path: Path) -> None:
    space = own(operation=Unexportable(2))
    network = space.network(space.largest(), num_classes=3, image_shape=SHAPE, channels=4, cells=2)
    description = Description(SHAPE, tuple("abc"), (0.5,) * 3, (0.2,) * 3, "")
    with pytest.raises(ConfigError, match=r"tests\.spaces\.test_operations cannot be exported"):
        export_files(network, tmp_path, description, [PlainFile()])


def test_search_spaces_keep_built_in_operations_by_name() -> None:
    assert dict(DARTSSpace().spec().arguments)["operations"] == DARTSSpace().operations
    assert NASBench201Space().arguments()["operations"] == NASBench201Space().operations
    assert own().spec().arguments[-1][1][:2] == ("none", "skip_connect")
    assert IMAGES["num_classes"] == 5


@pytest.mark.parametrize("make", [DARTSSpace, NASBench201Space])
def test_networks_are_counted_without_memory(make: Any) -> None:
    """A checkpoint's network is first built on the meta device; what a space computes for itself stays on the CPU."""
    space = make()
    with torch.device("meta"):
        network = space.network(space.largest(), num_classes=3, image_shape=(3, 32, 32), channels=4, cells=3)
        assert make().spec() == space.spec()
    assert all(p.is_meta for p in network.parameters())
