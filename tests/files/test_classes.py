"""Names of classes in artifacts, those of earlier modules included."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_nas.distill import HallucinatedBases, Proxy, Scheme
from lightning_nas.errors import ArtifactError
from lightning_nas.files import class_path, find_class
from lightning_nas.spaces import (
    ChoiceBlock,
    DARTSSpace,
    NASBench101Space,
    NASBench201Space,
    SearchSpace,
    SinglePathSpace,
    XceptionBlock,
    load_architecture,
)
from lightning_nas.supernets import TrainedSupernet
from tests.helpers import started


class OwnSpace(NASBench101Space):
    """A class of the user's own."""


def concrete(base: type[Any]) -> Iterator[type[Any]]:
    """This library's classes of a family that artifacts can name."""
    for kind in base.__subclasses__():
        if kind.__module__.startswith("lightning_nas.") and not inspect.isabstract(kind):
            yield kind
        yield from concrete(kind)


MEMBERS = [(kind, base) for base in (SearchSpace, Scheme, ChoiceBlock) for kind in sorted(concrete(base), key=repr)]


@pytest.mark.parametrize(("kind", "base"), MEMBERS, ids=lambda kind: kind.__name__)
def test_every_member_is_named_by_its_public_name(kind: type[Any], base: type[Any]) -> None:
    package = base.__module__.split(".")[1]
    assert class_path(kind) == f"lightning_nas.{package}.{kind.__name__}"
    assert find_class(class_path(kind), base) is kind
    assert find_class(f"{kind.__module__}.{kind.__name__}", base) is kind


@pytest.mark.parametrize(
    "space", [DARTSSpace(), NASBench101Space(), NASBench201Space(), SinglePathSpace()], ids=lambda s: type(s).__name__
)
def test_architectures_carry_the_public_name_of_their_space(space: SearchSpace) -> None:
    assert space.largest().space.class_path == class_path(type(space))


def test_a_class_of_the_user_is_named_by_its_module() -> None:
    assert class_path(OwnSpace) == f"{__name__}.OwnSpace"
    assert find_class(class_path(OwnSpace), SearchSpace) is OwnSpace


@pytest.mark.parametrize(
    "name",
    [
        "lightning_nas.spaces.SinglePath",  # no such class
        "lightning_nas.spaces.PlainImages",  # another family
        "lightning_nas.spaces.base.SearchSpac",
        "spaces.DARTSSpace",
        "DARTSSpace",
        "",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ArtifactError, match="is not an imported class that derives from SearchSpace"):
        find_class(name, SearchSpace)


# Artifacts written before classes moved into packages.

OLD_CELLS = [
    (DARTSSpace(nodes=2), "lightning_nas.spaces.darts.DARTSSpace"),
    (NASBench201Space(), "lightning_nas.spaces.nasbench201.NASBench201Space"),
    (NASBench101Space(), "lightning_nas.spaces.nasbench101.NASBench101Space"),
]


def renamed(path: Path, *keys: str | int, old: str) -> Path:
    """Give a class in a JSON file the path that it had before."""
    content = json.loads(path.read_text())
    *way, last = keys
    target: Any = content
    for key in way:
        target = target[key]
    assert target[last] != old
    target[last] = old
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(("space", "old"), OLD_CELLS, ids=[old for _, old in OLD_CELLS])
def test_an_architecture_with_an_old_path_equals_a_new_one(space: SearchSpace, old: str) -> None:
    expected = space.largest()
    path = renamed(expected.save("architecture.json"), "space", "class_path", old=old)
    assert load_architecture(path) == expected


def test_blocks_of_an_architecture_may_have_old_paths() -> None:
    space = SinglePathSpace(widths=(8,), depths=(2,), stem=4, last=8)
    expected = space.largest()
    path = renamed(
        expected.save("architecture.json"),
        "space",
        "class_path",
        old="lightning_nas.spaces.single_path.SinglePathSpace",
    )
    for place, name in enumerate(["ShuffleBlock"] * 3 + ["XceptionBlock"]):
        old = f"lightning_nas.spaces.single_path_blocks.{name}"
        renamed(path, "space", "arguments", "choices", place, 0, old=old)
    assert load_architecture(path) == expected
    assert find_class("lightning_nas.spaces.single_path_blocks.XceptionBlock", ChoiceBlock) is XceptionBlock


def test_a_proxy_with_an_old_path_is_read() -> None:
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4) % 2
    scheme = started(HallucinatedBases(2, hallucinators=2), images, labels)
    path = Proxy(scheme, ["a", "b"], [0.5], [0.2], {}).save("proxy.safetensors")
    renamed(path.with_suffix(".json"), "scheme", "class_path", old="lightning_nas.distill.bases.HallucinatedBases")
    found = Proxy.load(path)
    assert isinstance(found.scheme, HallucinatedBases)
    assert torch.equal(found.images, scheme.proxy().images.detach())


def test_a_supernet_with_an_old_path_is_read() -> None:
    space = NASBench201Space(channels=2, cells_per_stage=1)
    network: nn.Module = space.supernet(num_classes=3, image_shape=(3, 8, 8))
    path = TrainedSupernet(network, space, (3, 8, 8), 3, {}).save("supernet.safetensors")
    old = "lightning_nas.spaces.nasbench201.NASBench201Space"
    renamed(path.with_suffix(".json"), "space", "class_path", old=old)
    found = TrainedSupernet.load(path)
    assert found.space.arguments() == space.arguments()
    for name, value in found.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[name])
