"""Supernets as artifacts."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_nas.errors import ArtifactError, ConfigError
from lightning_nas.files.artifacts import read_json, write_json
from lightning_nas.spaces.convert import to_per_edge
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.supernets.artifact import TrainedSupernet

SHAPE = (3, 8, 8)
SPACES: list[Any] = [
    NASBench201Space(channels=2, cells_per_stage=1, allowed={"cell": [["none", "nor_conv_3x3"]] * 6}),
    DARTSSpace(nodes=2, channels=4, cells=3, partial_channels=2, operations=("none", "skip_connect", "sep_conv_3x3")),
]


def made(space: Any, classes: int = 3) -> TrainedSupernet:
    torch.manual_seed(0)
    network = space.supernet(num_classes=classes, image_shape=SHAPE)
    return TrainedSupernet(network, space, SHAPE, classes, {"steps": 7})


@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
def test_what_is_read_computes_the_same(space: Any) -> None:
    before = made(space)
    after = TrainedSupernet.load(before.save("supernet.safetensors"))
    assert (after.image_shape, after.num_classes, after.info) == (SHAPE, 3, {"steps": 7})
    assert after.space.arguments() == space.arguments()
    images = torch.randn(4, *SHAPE)
    path = space.to_path(space.sample(torch.Generator().manual_seed(0)))
    assert torch.equal(after.network.eval()(images, path), before.network.eval()(images, path))


@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
def test_new_classes_leave_the_body(space: Any) -> None:
    before = made(space)
    after = before.with_classes(5)
    state = before.network.state_dict()
    names = {"classifier.weight", "classifier.bias"}
    assert before.classifier() == names
    for name, value in after.network.state_dict().items():
        assert value.shape[0] == 5 if name in names else torch.equal(value, state[name])
    with pytest.raises(ConfigError, match="num_classes is 0"):
        before.with_classes(0)


def test_a_smaller_space_inherits_by_name() -> None:
    space = NASBench201Space(channels=2, cells_per_stage=1)
    wide = made(space)
    kept = space.restrict({"cell": torch.tensor([[True, False, False, True, False]] * 6)})
    network = kept.supernet(num_classes=3, image_shape=SHAPE)
    wide.hand_on(network)
    own, given = to_per_edge(network), to_per_edge(wide.network)
    assert len(own) < len(given)
    assert all(torch.equal(value, given[name]) for name, value in own.items())
    with pytest.raises(ArtifactError, match="a wider one"):
        made(kept).hand_on(space.supernet(num_classes=3, image_shape=SHAPE))
    with pytest.raises(ArtifactError, match="a wider one"):
        wide.hand_on(kept.supernet(num_classes=4, image_shape=SHAPE))


def changed(**values: Any) -> None:
    content = read_json(Path("supernet.json"), repair="")
    write_json(Path("supernet.json"), {**content, **values})


@pytest.mark.parametrize(
    "values",
    [
        {"num_classes": 4},
        {"num_classes": 2**40},
        {"num_classes": "3"},
        {"image_shape": [3, 8]},
        {"image_shape": None},
        {"info": 3},
        {"space": {"class_path": "os.system", "init_args": {}}},
        {"space": {"class_path": "lightning_nas.spaces.nasbench101.space.NASBench101Space", "init_args": {}}},
        {
            "space": {
                "class_path": "lightning_nas.spaces.nasbench201.space.NASBench201Space",
                "init_args": {"channels": 3},
            }
        },
        {"space": {"class_path": "lightning_nas.spaces.nasbench201.space.NASBench201Space", "init_args": {"wrong": 3}}},
        {"space": 5},
    ],
)
def test_what_does_not_fit_is_refused(values: Any) -> None:
    made(SPACES[0]).save("supernet.safetensors")
    changed(**values)
    with pytest.raises(ArtifactError):
        TrainedSupernet.load("supernet.safetensors")


def test_missing_and_damaged_files_are_named() -> None:
    path = made(SPACES[0]).save("supernet.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ArtifactError, match="not a complete safetensors file"):
        TrainedSupernet.load(path)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"--config supernet/uniform"):
        TrainedSupernet.load(path)
