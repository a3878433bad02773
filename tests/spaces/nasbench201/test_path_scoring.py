"""Several architectures of a supernet computed together: the numbers of one by one, with less work."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_nas.architecture import Architecture
from lightning_nas.differentiable.attention.channel import ChannelAttention
from lightning_nas.spaces.nasbench201 import path_scoring
from lightning_nas.spaces.nasbench201.path_scoring import canonical
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.nasbench201.supernet import NASBench201Supernet
from lightning_nas.spaces.supernet import Mixture
from lightning_nas.supernets.scoring import calibrated

SPACE = NASBench201Space(channels=3, cells_per_stage=2)


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def made(space: NASBench201Space = SPACE) -> NASBench201Supernet:
    torch.manual_seed(0)
    supernet = space.supernet(num_classes=3, image_shape=(3, 9, 8))
    for norm in supernet.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.affine:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    return supernet


def drawn(space: NASBench201Space, count: int) -> list[Architecture]:
    generator = torch.Generator().manual_seed(1)
    return [space.sample(generator) for _ in range(count)]


def together(
    supernet: NASBench201Supernet,
    space: NASBench201Space,
    architectures: Sequence[Architecture],
    calibration: Tensor,
    batches: Sequence[Tensor],
) -> list[Tensor]:
    """The logits of all images, an architecture each."""
    found: dict[tuple[int, int], Tensor] = {}
    for path, batch, logits in supernet.path_logits([space.to_path(a) for a in architectures], calibration, batches):
        assert (path, batch) not in found
        found[path, batch] = logits
    return [torch.cat([found[i, b] for b in range(len(batches))]) for i in range(len(architectures))]


def alone(supernet: nn.Module, path: Any, calibration: Tensor, batches: Sequence[Tensor]) -> Tensor:
    with calibrated(supernet, calibration, path):
        return torch.cat([supernet(images, path) for images in batches])


@pytest.mark.parametrize(
    "space",
    [
        SPACE,
        NASBench201Space(channels=4, cells_per_stage=1),
        NASBench201Space(("nor_conv_1x1", "avg_pool_3x3", "nor_conv_3x3", "none"), channels=2, cells_per_stage=1),
        NASBench201Space(
            channels=3,
            cells_per_stage=1,
            allowed={
                "cell": [
                    ["nor_conv_3x3", "nor_conv_1x1"],
                    ["skip_connect", "nor_conv_1x1"],
                    ["nor_conv_3x3"],
                    ["nor_conv_3x3", "none"],
                    ["avg_pool_3x3", "nor_conv_1x1"],
                    ["nor_conv_3x3", "nor_conv_1x1", "none"],
                ]
            },
        ),
    ],
    ids=["two cells a stage", "one cell a stage", "some operations", "restricted"],
)
@pytest.mark.parametrize("most", [4, 32])
def test_together_is_one_by_one(
    double: None, monkeypatch: pytest.MonkeyPatch, space: NASBench201Space, most: int
) -> None:
    monkeypatch.setattr(path_scoring, "TOGETHER", most)
    supernet, calibration = made(space), torch.randn(12, 3, 9, 8)
    batches = [torch.randn(5, 3, 9, 8), torch.randn(2, 3, 9, 8)]
    architectures = drawn(space, 13)
    architectures += [architectures[4], architectures[0]]
    found = together(supernet, space, architectures, calibration, batches)
    assert len(found) == 15
    for architecture, logits in zip(architectures, found, strict=True):
        expected = alone(supernet, space.to_path(architecture), calibration, batches)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    assert torch.equal(found[4], found[13])


def test_single_precision() -> None:
    supernet, calibration, images = made(), torch.randn(32, 3, 9, 8), torch.randn(20, 3, 9, 8)
    architectures = drawn(SPACE, 6)
    for architecture, logits in zip(
        architectures, together(supernet, SPACE, architectures, calibration, [images]), strict=True
    ):
        expected = alone(supernet, SPACE.to_path(architecture), calibration, [images])
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_half_precision() -> None:
    calibration, images, architectures = torch.randn(32, 3, 9, 8), torch.randn(20, 3, 9, 8), drawn(SPACE, 6)
    expected = together(made(), SPACE, architectures, calibration, [images])
    found = together(made().bfloat16(), SPACE, architectures, calibration.bfloat16(), [images.bfloat16()])
    for full, half in zip(expected, found, strict=True):
        assert half.dtype == torch.bfloat16
        assert (half.float() - full).abs().max() < 0.1 * full.abs().max()


@pytest.mark.parametrize("training", [True, False])
def test_a_supernet_stays_as_it_is(training: bool) -> None:
    supernet = made().train(training)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    together(supernet, SPACE, drawn(SPACE, 3), torch.randn(12, 3, 9, 8), [torch.randn(5, 3, 9, 8)])
    assert supernet.training is training
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_without_edges_there_is_the_bias_of_the_classifier() -> None:
    supernet = made()
    for norm in supernet.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.zeros_(norm.bias)
    nothing = SPACE.architecture([0] * 6)
    (found,) = together(supernet, SPACE, [nothing], torch.randn(12, 3, 9, 8), [torch.randn(5, 3, 9, 8)])
    torch.testing.assert_close(found, supernet.classifier.bias.expand(5, -1))


def test_what_matters_lies_between_input_and_output() -> None:
    edges = [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    ways = [[(3, 0)], [(1, 0), (3, 1)], [(2, 0), (3, 2)], [(1, 0), (2, 1), (3, 2)]]
    for on in product([False, True], repeat=6):
        names = tuple("skip_connect" if each else "none" for each in on)
        open_ways = [way for way in ways if all(on[edges.index(edge)] for edge in way)]
        kept = {edge for way in open_ways for edge in way}
        assert canonical(names) == tuple("skip_connect" if edge in kept else "none" for edge in edges)


class Convolutions(TorchDispatchMode):
    """Counts them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


def convolutions(*texts: str) -> int:
    supernet, x = made(), torch.randn(4, 3, 9, 8)
    with Convolutions() as counted:
        together(supernet, SPACE, [SPACE.parse(text) for text in texts], x, [x])
    return counted.count


def test_what_is_equal_is_computed_once() -> None:
    first = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    other = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|nor_conv_3x3~1|nor_conv_1x1~2|"
    dead = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|none~1|none~2|"
    plain = "|none~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|none~2|"
    # two passes of a stem, six cells with four convolutions each, and two residual blocks with three
    assert convolutions(first) == convolutions(other) == 2 * (1 + 6 * 4 + 2 * 3)
    assert convolutions(plain) == 2 * (1 + 6 * 1 + 2 * 3)
    assert convolutions(first, first, first) == convolutions(first)
    assert convolutions(dead) == convolutions(dead, plain) == convolutions(plain)
    # the stem, and three of the four in the first cell
    assert convolutions(first, other) == 2 * convolutions(first) - 2 * (1 + 3)


def test_mixtures_and_attention_are_not_its_business() -> None:
    supernet, path = made(), SPACE.to_path(drawn(SPACE, 1)[0])
    assert supernet.supports(path)
    operations, edges, active, _ = path["cell"]
    assert active is not None
    assert not supernet.supports({"cell": Mixture(operations, edges)})
    assert not supernet.supports({"cell": Mixture(operations / 2, edges, active)})
    several = torch.ones_like(active)
    assert not supernet.supports({"cell": Mixture(several.to(operations), edges, several)})
    narrow = SPACE.restrict({"cell": active.logical_not()})
    assert not made(narrow).supports(path)
    attended = SPACE.supernet(num_classes=3, image_shape=(3, 9, 8), attention=ChannelAttention())
    assert not attended.supports(path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(double: None) -> None:
    supernet, calibration, images = made(), torch.randn(12, 3, 9, 8), torch.randn(5, 3, 9, 8)
    architectures = drawn(SPACE, 5)
    expected = together(supernet, SPACE, architectures, calibration, [images])
    found = together(supernet.cuda(), SPACE, architectures, calibration.cuda(), [images.cuda()])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=1e-10)
