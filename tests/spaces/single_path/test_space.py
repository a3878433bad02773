"""The single-path space, against the published network's size and against ordinary networks."""

import importlib
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError, ArtifactError, ConfigError, DataError
from lightning_nas.evaluation.short_training import ShortTraining
from lightning_nas.export.formats import Description
from lightning_nas.export.network import FORMATS, PlainFile, export_files
from lightning_nas.metrics.cost import macs, parameters
from lightning_nas.report.draw import draw_cell
from lightning_nas.spaces.artifact import architecture_from_dict, build_space
from lightning_nas.spaces.base import SupernetSpace
from lightning_nas.spaces.single_path.blocks import ChoiceBlock, ShuffleBlock, XceptionBlock
from lightning_nas.spaces.single_path.space import SinglePathSpace
from lightning_nas.supernets.artifact import TrainedSupernet
from lightning_nas.supernets.sampling import FairPaths
from lightning_nas.supernets.scoring import calibrated
from lightning_nas.tasks.train import TrainTask
from tests.helpers import FixedHalves

RELEASED = (2, 1, 0, 1, 2, 0, 2, 0, 2, 0, 2, 3, 0, 0, 0, 0, 3, 2, 3, 3)
SHAPE = (3, 8, 8)
IMAGES: dict[str, Any] = {"num_classes": 5, "image_shape": SHAPE}
SIZES: dict[str, Any] = {"widths": [16, 32], "depths": [2, 2], "strides": [1, 2], "stem_stride": 1, "last": 24}
SMALL = SinglePathSpace(**SIZES)
TEXT = "shuffle7 xception | shuffle3 shuffle5"


class Pooled(ChoiceBlock):
    """A block of a user's: pooling between convolutions."""

    def __init__(self, side: int = 3, words: tuple[str, ...] = ()) -> None:
        self.side = side
        self.words = words

    @property
    def name(self) -> str:
        return f"pooled{self.side}"

    def module(self, channels_in: int, channels_out: int, stride: int) -> nn.Module:
        pool = nn.AvgPool2d(self.side, stride, self.side // 2)
        return nn.Sequential(pool, nn.Conv2d(channels_in, channels_out, 1), nn.BatchNorm2d(channels_out))


class Free(Pooled):
    """A block without weights, where the number of channels stays."""

    @property
    def name(self) -> str:
        return "free"

    def module(self, channels_in: int, channels_out: int, stride: int) -> nn.Module:
        return nn.AvgPool2d(stride)


def drawn(space: SupernetSpace, count: int) -> list[Architecture]:
    generator = torch.Generator().manual_seed(0)
    return [space.sample(generator) for _ in range(count)]


# Networks.


def test_the_released_architecture_has_the_published_size() -> None:
    space = SinglePathSpace()
    network = space.network(space.architecture(RELEASED), num_classes=1000, image_shape=(3, 224, 224))
    assert parameters(network) == 3_558_464
    assert macs(network, (3, 224, 224)) == 322_918_720


def test_half_of_the_channels_pass_and_are_shuffled() -> None:
    x = torch.randn(2, 12, 5, 5)
    for block in (ShuffleBlock(5), XceptionBlock()):
        module = block.module(12, 16, 1).eval()
        y = module(x)
        passed, read = F.channel_shuffle(x, 6).chunk(2, 1)
        assert torch.equal(y[:, :6], passed)
        assert torch.equal(y[:, 6:], module.main(read))  # type: ignore[operator]


def test_blocks_are_the_published_layers() -> None:
    def layers(module: nn.Module | None) -> list[tuple[int, ...]]:
        """Convolutions as (channels in, channels out, kernel, stride, groups)."""
        found = [m for m in module.modules() if isinstance(m, nn.Conv2d)] if module is not None else []
        return [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.groups) for m in found]

    shuffle, xception = ShuffleBlock(7), XceptionBlock()
    module: Any = shuffle.module(16, 16, 1)
    assert layers(module.main) == [(8, 8, 1, 1, 1), (8, 8, 7, 1, 8), (8, 8, 1, 1, 1)]
    assert layers(module.projection) == []
    module = shuffle.module(16, 64, 2)
    assert layers(module.main) == [(16, 32, 1, 1, 1), (32, 32, 7, 2, 32), (32, 48, 1, 1, 1)]
    assert layers(module.projection) == [(16, 16, 7, 2, 16), (16, 16, 1, 1, 1)]
    module = xception.module(16, 64, 2)
    first, last = [(16, 16, 3, 2, 16), (16, 32, 1, 1, 1)], [(32, 32, 3, 1, 32), (32, 48, 1, 1, 1)]
    assert layers(module.main) == [*first, (32, 32, 3, 1, 32), (32, 32, 1, 1, 1), *last]
    assert layers(module.projection) == [(16, 16, 3, 2, 16), (16, 16, 1, 1, 1)]
    kinds = "".join(type(m).__name__[0] for m in module.main.modules() if not isinstance(m, nn.Sequential))
    assert kinds == "CBCBR" * 3  # no ReLU behind a depthwise convolution


def test_channels_and_cells_are_the_spaces() -> None:
    architecture = SMALL.parse(TEXT)
    network = SMALL.network(architecture, **IMAGES)
    other = SMALL.network(architecture, **IMAGES, channels=3, cells=7, dropout=0.5)
    assert {n: v.shape for n, v in network.state_dict().items()} == {n: v.shape for n, v in other.state_dict().items()}
    assert (network.dropout.p, other.dropout.p) == (0.0, 0.5)


def test_a_network_is_trained_as_a_task_and_briefly() -> None:
    architecture = SMALL.parse(TEXT)
    architecture.save("architecture.json", score=1.0)
    options: dict[str, Any] = {**IMAGES, "network_arguments": {"dropout": 0.1}}
    task = TrainTask("architecture.json", optimizer=lambda p: torch.optim.SGD(p, 0.1), **options)
    assert parameters(task) == parameters(SMALL.network(architecture, **IMAGES))
    assert task.network.dropout.p == 0.1
    assert task(torch.randn(2, *SHAPE)).shape == (2, 5)
    evaluator = ShortTraining(FixedHalves(batches=3, batch_size=4, dtype=torch.float32), steps=2, batch_size=4)
    before = torch.get_rng_state()
    first, second = (evaluator.evaluate([architecture])[0].objectives for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)


# The supernet.


def own_weights(state: dict[str, Tensor], path: tuple[int, ...]) -> dict[str, Tensor]:
    """What a path has of a supernet's state, as an ordinary network names it."""
    found = {}
    for name, value in state.items():
        head, *rest = name.split(".")
        if head != "blocks":
            found[name] = value
        elif int(rest[1]) == path[int(rest[0])]:
            found[".".join([head, rest[0], *rest[2:]])] = value
    return found


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_path_is_the_ordinary_network(affine: bool, training: bool) -> None:
    space = SinglePathSpace(**SIZES, affine=affine, dropout=0.3)
    supernet = space.supernet(**IMAGES).double()
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.affine is affine
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            for parameter in module.parameters():
                nn.init.normal_(parameter)
    x = torch.randn(6, *SHAPE, dtype=torch.float64)
    for architecture in drawn(space, 6):
        network = space.network(architecture, **IMAGES, dropout=0.3).double()
        path = space.to_path(architecture)
        missing, unexpected = network.load_state_dict(own_weights(supernet.state_dict(), path), strict=False)
        assert not unexpected
        norms = {n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
        assert set(missing) == (set() if affine else {f"{n}.{p}" for n in norms for p in ("weight", "bias")})
        outputs = []
        for call in (lambda: supernet.train(training)(x, path), lambda: network.train(training)(x)):  # noqa: B023
            torch.manual_seed(1)
            outputs.append(call())
        torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
        after = own_weights(supernet.state_dict(), path)
        for name, value in network.state_dict().items():
            if name not in missing:
                torch.testing.assert_close(value, after[name], rtol=0, atol=1e-12)


def test_blocks_off_the_path_get_no_gradient_and_keep_their_statistics() -> None:
    supernet = SMALL.supernet(**IMAGES)
    before = {n: b.clone() for n, b in supernet.named_buffers()}
    path = SMALL.to_path(SMALL.parse(TEXT))
    supernet(torch.randn(4, *SHAPE), path).square().sum().backward()
    on = tuple(f"blocks.{place}.{choice}." for place, choice in enumerate(path))
    for name, parameter in supernet.named_parameters():
        assert (parameter.grad is None) == (name.startswith("blocks.") and not name.startswith(on)), name
    for name, buffer in supernet.named_buffers():
        if "running" in name:
            assert torch.equal(buffer, before[name]) == (name.startswith("blocks.") and not name.startswith(on)), name


def test_a_supernet_is_an_artifact_that_narrower_ones_inherit_from() -> None:
    space = SinglePathSpace(**SIZES, choices=[ShuffleBlock(3), Pooled(5, ("a", "b")), XceptionBlock()], affine=True)
    trained = TrainedSupernet(space.supernet(**IMAGES), space, SHAPE, 5, {})
    read = TrainedSupernet.load(trained.save("supernet.safetensors"))
    assert read.space.arguments() == space.arguments()
    x, path = torch.randn(4, *SHAPE), space.to_path(space.largest())
    assert torch.equal(read.network.eval()(x, path), trained.network.eval()(x, path))
    narrow = space.restrict([["shuffle3", "xception"], ["pooled5"], ["xception"], ["shuffle3"]])
    network = narrow.supernet(**IMAGES)
    assert {n.split(".")[2] for n in network.state_dict() if n.startswith("blocks.1.")} == {"1"}
    read.hand_on(network)
    path = narrow.to_path(narrow.parse("xception pooled5 xception shuffle3"))
    assert torch.equal(network.eval()(x, path), trained.network(x, path))
    kept = TrainedSupernet.load(TrainedSupernet(network, narrow, SHAPE, 5, {}).save("narrow.safetensors"))
    assert kept.space.arguments()["allowed"] == narrow.arguments()["allowed"] != space.arguments()["allowed"]
    assert read.with_classes(7).network(x, path).shape == (4, 7)
    with calibrated(read.network, x, path):
        assert torch.isfinite(read.network(x, path)).all()


# The space.


def test_samples_are_uniform_and_neighbours_differ_in_one_block() -> None:
    space = SinglePathSpace()
    architectures = drawn(space, 400)
    choices = torch.tensor([a.choices for a in architectures])
    counts = torch.stack([torch.bincount(column, minlength=4) for column in choices.T])
    assert counts.shape == (20, 4)
    # five standard deviations of a binomial distribution
    assert (counts - 100).abs().max() < 5 * (400 * 0.25 * 0.75) ** 0.5
    near = list(space.neighbours(architectures[0]))
    assert len({space.key(a) for a in near}) == 60
    assert all(sum(a != b for a, b in zip(n.choices, architectures[0].choices, strict=True)) == 1 for n in near)


def test_the_largest_has_most_parameters() -> None:
    blocks = [ShuffleBlock(3), ShuffleBlock(7), XceptionBlock()]
    space = SinglePathSpace([8, 160], depths=[1, 2], choices=blocks, strides=[1, 2], stem=8, stem_stride=1)
    with torch.device("meta"):
        counts = [parameters(space.network(space.architecture(c), **IMAGES)) for c in product(range(3), repeat=3)]
        assert parameters(space.network(space.largest(), **IMAGES)) == max(counts)
    assert len({*space.largest().choices}) > 1  # or one block would be the answer everywhere


def test_text_is_read_again() -> None:
    architecture = SMALL.parse(TEXT)
    assert architecture.choices == (2, 3, 0, 1)
    assert SMALL.text(architecture) == TEXT
    assert SMALL.parse("shuffle7 xception\nshuffle3 shuffle5") == architecture
    for wrong in ("shuffle7 xception shuffle3", "shuffle7 xception shuffle3 shuffle11", ""):
        with pytest.raises(ArchitectureError, match="expected are 4 of"):
            SMALL.parse(wrong)


def test_stages_are_drawn_as_chains() -> None:
    space = SinglePathSpace(**SIZES, choices=[ShuffleBlock(3), Free()])
    first, second = space.graphs(space.parse("shuffle3 free | free shuffle3"))
    assert (first.name, second.name) == ("stage 1", "stage 2")
    assert first.nodes == ("in", "1", "out")
    assert first.edges == ((0, 1, "shuffle3"), (1, 2, "free"))
    assert second.edges == ((0, 1, "free"), (1, 2, "shuffle3"))
    assert draw_cell(first).axes


def test_restricted_spaces_share_their_architectures() -> None:
    allowed = [["shuffle3", "xception"], ["shuffle5"], ["xception", "shuffle7"], ["shuffle3"]]
    narrow = SMALL.restrict(allowed)
    assert (narrow.spec(), narrow.num_values) == (SMALL.spec(), (4,) * 4)
    found = {a.choices for a in drawn(narrow, 50)}
    assert found == set(product((0, 3), (1,), (2, 3), (0,)))
    assert {a.choices for a in narrow.neighbours(narrow.architecture((0, 1, 2, 0)))} == {(3, 1, 2, 0), (0, 1, 3, 0)}
    with torch.device("meta"):
        sizes = {c: parameters(SMALL.network(SMALL.architecture(c), **IMAGES)) for c in found}
    assert sizes[narrow.largest().choices] == max(sizes.values())
    with pytest.raises(ArchitectureError, match=r"Position 1 has block 0; it takes one of \[1\]"):
        narrow.check(SMALL.architecture((0, 0, 2, 0)))
    with pytest.raises(ConfigError, match=r"\(1, 'shuffle3'\)"):
        narrow.restrict([["shuffle3"]] * 4)
    with pytest.raises(ConfigError, match="Choices have"):
        FairPaths().draw(narrow, torch.Generator().manual_seed(0))
    assert len(FairPaths().draw(SMALL, torch.Generator().manual_seed(0))) == 4


def test_an_architecture_rebuilds_its_space() -> None:
    blocks = [Pooled(5, ("a", "b")), XceptionBlock()]
    space = SinglePathSpace([8, 12, 20], depths=[1, 2, 1], choices=blocks, stem=4, last=6, strides=[1, 1, 3])
    architecture = space.parse("pooled5 xception pooled5 xception")
    found = architecture_from_dict(json.loads(json.dumps(architecture.to_dict())))
    assert {found: 1}[architecture]
    rebuilt: Any = build_space(found.space)
    assert rebuilt.sizes == space.sizes
    assert [block.arguments() for block in rebuilt.choices] == [{"side": 5, "words": ("a", "b")}, {}]
    networks = [each.network(found, num_classes=2, image_shape=(1, 12, 12)) for each in (space, rebuilt)]
    networks[1].load_state_dict(networks[0].state_dict())
    x = torch.randn(2, 1, 12, 12)
    assert torch.equal(networks[0].eval()(x), networks[1].eval()(x))


YAML = """
space:
  class_path: lightning_nas.spaces.single_path.space.SinglePathSpace
  init_args:
    widths: [16, 32]
    depths: [1, 2]
    strides: [1, 2]
    stem_stride: 1
    choices:
      - class_path: lightning_nas.spaces.single_path.blocks.ShuffleBlock
        init_args: {kernel: 5}
      - class_path: lightning_nas.spaces.single_path.blocks.XceptionBlock
      - class_path: tests.spaces.single_path.test_space.Pooled
        init_args: {side: 7}
    allowed: [[shuffle5, xception], [shuffle5, pooled7], [pooled7]]
"""


def test_a_yaml_names_blocks_by_their_class() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--space", type=SupernetSpace)
    parser.add_argument("--config", action="config")
    Path("space.yaml").write_text(YAML)
    config = parser.parse_args(["--config", "space.yaml"])
    Path("again.yaml").write_text(parser.dump(config))
    for each in (config, parser.parse_args(["--config", "again.yaml"])):
        space = parser.instantiate(each).space
        assert repr(space.choices) == "[ShuffleBlock(kernel=5), XceptionBlock(), Pooled(side=7, words=())]"
        assert space.allowed == [[0, 1], [0, 2], [2]]
    published = parser.parse_args(["--space=lightning_nas.spaces.single_path.space.SinglePathSpace"])
    assert parser.instantiate(published).space.spec() == SinglePathSpace().spec()


# Exports.

OWN_BLOCK = '''
"""A block of a user's, with a helper of its own."""

from torch import nn

from lightning_nas.spaces.single_path.blocks import ChoiceBlock, depthwise

SLOPE = 0.1


class Leaky(ChoiceBlock):
    """A depthwise and a 1x1 convolution with a leaky ReLU."""

    def __init__(self, kernel: int) -> None:
        self.kernel = kernel

    @property
    def name(self) -> str:
        return "leaky"

    def module(self, channels_in: int, channels_out: int, stride: int) -> nn.Module:
        last = nn.Conv2d(channels_in, channels_out, 1)
        return nn.Sequential(depthwise(channels_in, self.kernel, stride), last, nn.LeakyReLU(SLOPE))
'''


def test_the_network_is_exported_also_with_blocks_of_a_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaky_block.py").write_text(OWN_BLOCK)
    monkeypatch.syspath_prepend(str(tmp_path))
    leaky = importlib.import_module("leaky_block").Leaky(5)
    space = SinglePathSpace(**SIZES, choices=[leaky, ShuffleBlock(3), XceptionBlock()])
    network = space.network(space.parse("shuffle3 leaky leaky xception"), **IMAGES, dropout=0.1)
    for _ in range(3):
        network(torch.randn(8, *SHAPE))
    description = Description(SHAPE, tuple("abcde"), (0.5,) * 3, (0.2,) * 3, "header")
    for exported in export_files(network, tmp_path / "export", description, FORMATS[:2]):
        assert exported.difference <= 1e-6
    source = (tmp_path / "export" / "network.py").read_text()
    assert "ShuffleBlock(kernel=3), Leaky(kernel=5), Leaky(kernel=5), XceptionBlock()" in source
    assert "SLOPE = 0.1" in source
    assert "lightning_nas." not in source.replace("found by lightning_nas.", "")


def test_a_block_that_is_not_plain_is_not_exported_as_a_plain_file(tmp_path: Path) -> None:
    space = SinglePathSpace(**SIZES, choices=[Pooled(), ShuffleBlock(3)])  # its module imports more than torch
    network = space.network(space.parse("pooled3 " * 4), **IMAGES)
    with pytest.raises(ConfigError, match="tests.spaces.single_path.test_space cannot be exported"):
        export_files(network, tmp_path, Description(SHAPE, tuple("abcde"), (0.5,) * 3, (0.2,) * 3, ""), [PlainFile()])


# Errors.


class Unkept(Pooled):
    """Does not keep its argument."""

    def __init__(self, size: int = 3) -> None:
        super().__init__(size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": [16]}, r"depths is \[4, 4, 8, 4\].*There are 1 widths"),
        ({"strides": [1, 2, 3]}, "strides is"),
        ({"depths": [4, 4, 0, 4]}, "depths is"),
        ({"depths": [4, 4, 400, 4]}, "412 positions"),
        ({"stem": 0}, "stem is 0"),
        ({"last": 1.5}, "last is 1.5"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"choices": [ShuffleBlock(3)]}, "at least two blocks"),
        ({"choices": [ShuffleBlock(3), ShuffleBlock(3)]}, "different single words"),
        ({"choices": [ShuffleBlock(3), "shuffle5"]}, "not a valid ChoiceBlock"),
        ({"choices": [ShuffleBlock(3), Unkept()]}, r"no attributes \['size'\]"),
        ({"choices": [ShuffleBlock(3), Pooled(3, {"a": 1})]}, r"arguments \['words'\]"),  # type: ignore[arg-type]
        ({"allowed": [["shuffle3"]] * 19 + [["pooled3"]]}, "pooled3"),
        ({"allowed": [["shuffle3"]] * 19}, "19 lists"),
        ({"allowed": [["shuffle3"]] * 19 + [[]]}, "1 empty lists"),
        ({"widths": [64, 161, 320, 640]}, r"ShuffleBlock\(kernel=3\) does not fit.*stride 1 cannot map 161"),
        ({"widths": [64, 160, 160, 640]}, "stride 2 cannot map 160 to 160"),
        ({"widths": [64, 160, 2**50, 2**60]}, "does not fit"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SinglePathSpace(**arguments)


def test_what_blocks_and_networks_lack_is_refused() -> None:
    for kernel in (1, 4, 3.0, True):
        with pytest.raises(ConfigError, match="odd integer"):
            ShuffleBlock(kernel)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="auxiliary"):
        SMALL.network(SMALL.largest(), **IMAGES, auxiliary=True)
    space = SinglePathSpace()
    smallest = space.network(space.largest(), num_classes=2, image_shape=(3, 32, 32))
    assert smallest.eval()(torch.randn(1, 3, 32, 32)).any()
    for make in (space.supernet, lambda **options: space.network(space.largest(), **options)):
        with pytest.raises(DataError, match="31x40 pixels are too small.*at least 32x32"):
            make(num_classes=2, image_shape=(3, 31, 40))
    with pytest.raises(ArchitectureError, match="3 choices"):
        SMALL.architecture((0, 1, 2))
    with pytest.raises(ArchitectureError, match="has block 4"):
        SMALL.architecture((0, 1, 2, 4))
    with pytest.raises(ArchitectureError, match="is of SpaceSpec"):
        SMALL.to_path(SinglePathSpace().largest())


def test_blocks_in_files_are_classes_that_are_imported() -> None:
    content = json.dumps(SMALL.largest().to_dict())
    home = "lightning_nas.spaces"
    for class_path in ("os.system", "absent.Block", f"{home}.SinglePathSpace"):
        with pytest.raises(ArtifactError, match="derives from ChoiceBlock"):
            architecture_from_dict(json.loads(content.replace(f"{home}.XceptionBlock", class_path)))
    for block in (None, [], "text", [f"{home}.ShuffleBlock", [["side", 3]]]):
        wrong = json.loads(content)
        wrong["space"]["arguments"]["choices"][0] = block
        with pytest.raises(ArtifactError, match="cannot be made from"):
            architecture_from_dict(wrong)
