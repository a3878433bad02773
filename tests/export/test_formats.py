"""Networks of both spaces as network.py, network.pt2 and network.onnx, loaded from the written files."""

import copy
import importlib
import json
import random
import re
import runpy
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_nas.cli.exports import choose_formats
from lightning_nas.errors import ConfigError, ExportError, MissingDependencyError
from lightning_nas.export.formats import (
    TOLERANCE,
    Description,
    Exportable,
    Exported,
    Format,
    TorchProgram,
    difference,
)
from lightning_nas.export.network import FORMATS, PlainFile, export_files
from lightning_nas.export.onnx_models import ONNXModel
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from tests.conftest import ROOT
from tests.genotypes import TWO_NODES

pytest.importorskip("onnxruntime", reason='all formats: pip install "lightning_nas[onnx]"')

CELL = "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|skip_connect~0|avg_pool_3x3~1|none~2|"
NAMES = ("zero", 'a "quoted" name', "naïve\n")
EXACT = [each for each in FORMATS if not each.needs_images]
"""Formats that compute what the network does."""

SHAPES = {"darts": (1, 12, 16), "nasbench201": (3, 9, 7)}


def make(space: str) -> nn.Module:
    """A network with weights and statistics that an untrained one would not have."""
    torch.manual_seed(1)
    options: dict[str, Any] = {"num_classes": 3, "image_shape": SHAPES[space], "channels": 4}
    network: nn.Module
    if space == "darts":
        options["image_shape"] = (1, 32, 32)  # an auxiliary head does not fit on less
        network = DARTSSpace(nodes=2).network(DARTSSpace.parse(TWO_NODES), **options, cells=3, auxiliary=True)
    else:
        network = NASBench201Space().network(NASBench201Space.parse(CELL), **options, cells=1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
    return network


def describe(shape: Sequence[int] = (1, 4, 4)) -> Description:
    return Description(tuple(shape), NAMES, (0.5,) * shape[0], (0.25,) * shape[0], TWO_NODES)


class Written:
    """A network, its export in all formats, and what the export left of the network and of random numbers."""

    def __init__(self, space: str, folder: Path) -> None:
        self.space, self.folder = space, folder
        self.network = make(space).to(memory_format=torch.channels_last).train()
        self.before = copy.deepcopy(self.network)
        states = (torch.random.get_rng_state(), random.getstate(), str(np.random.get_state()))  # noqa: NPY002
        self.exported = export_files(self.network, folder, describe(SHAPES[space]), EXACT)
        self.random_moved = [
            not torch.equal(torch.random.get_rng_state(), states[0]),
            random.getstate() != states[1],
            str(np.random.get_state()) != states[2],  # noqa: NPY002
        ]


@pytest.fixture(scope="module", params=[pytest.param("darts", marks=pytest.mark.slow), "nasbench201"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(request.param, tmp_path_factory.mktemp(request.param))


def load_py(folder: Path) -> Callable[[Tensor], Tensor]:
    # unlike an import this leaves no __pycache__ behind, among the files that are looked at
    network: nn.Module = runpy.run_path(str(folder / "network.py"))["network"]()
    return network


def load_pt2(folder: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(folder / "network.pt2").module()


def load_onnx(folder: Path) -> Callable[[Tensor], Tensor]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])


@pytest.mark.slow
@pytest.mark.parametrize("load", [load_py, load_pt2, load_onnx])
def test_written_files_do_what_the_network_does(written: Written, load: Callable) -> None:
    original = written.before.eval()
    received = load(written.folder)
    for batch_size in (1, 2, 3, 5, 8):
        x = torch.randn(batch_size, *SHAPES[written.space])
        with torch.no_grad():
            expected, y = original(x), received(x)
        assert y.dtype == torch.float32
        assert torch.allclose(y, expected, rtol=0, atol=TOLERANCE * max(1, float(expected.abs().max())))
        # images count: this is no constant
        assert float((expected - expected.mean(0)).abs().max()) > 1e-3 or batch_size == 1


def test_all_files_are_there_and_their_differences_are_small(written: Written) -> None:
    names = ["network.onnx", "network.pt", "network.pt2", "network.py"]
    assert sorted(path.name for path in written.folder.iterdir()) == names
    assert [exported.path.name for exported in written.exported] == [each.file_name for each in EXACT]
    assert all(0 <= exported.difference <= TOLERANCE for exported in written.exported)


def test_the_callers_network_and_random_numbers_are_left_alone(written: Written) -> None:
    assert not any(written.random_moved)
    assert all(module.training for module in written.network.modules())
    after, before = written.network.state_dict(), written.before.state_dict()
    assert list(after) == list(before)
    for name, value in after.items():
        assert torch.equal(value, before[name])
        assert value.stride() == before[name].stride()
    assert all(parameter.requires_grad for parameter in written.network.parameters())


def test_files_hold_no_auxiliary_head(written: Written) -> None:
    onnx = importlib.import_module("onnx")
    kept = {name for name in written.before.state_dict() if not name.startswith("auxiliary_head")}
    assert set(torch.export.load(written.folder / "network.pt2").state_dict) == kept
    model = onnx.load(written.folder / "network.onnx")
    assert not [tensor.name for tensor in model.graph.initializer if "auxiliary" in tensor.name]
    numbers = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    assert numbers <= 1.2 * sum(written.before.state_dict()[name].numel() for name in kept)


def test_files_name_batch_inputs_and_classes(written: Written) -> None:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(written.folder / "network.onnx", providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("images", ["batch", *SHAPES[written.space]])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", ["batch", 3])]
    extra = {"description.json": ""}
    torch.export.load(written.folder / "network.pt2", extra_files=extra)
    texts = [extra["description.json"], session.get_modelmeta().custom_metadata_map["description"]]
    channels = SHAPES[written.space][0]
    for text in texts:
        assert json.loads(text) == {
            "image_shape": list(SHAPES[written.space]),
            "classes": list(NAMES),
            "mean": [0.5] * channels,
            "std": [0.25] * channels,
        }


def test_files_name_no_folder_of_this_machine(written: Written) -> None:
    with zipfile.ZipFile(written.folder / "network.pt2") as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    contents += [path.read_bytes() for path in written.folder.iterdir()]
    for folder in (ROOT, Path(torch.__file__).parent, written.folder):
        assert not any(str(folder).encode() in content for content in contents)


class Small(nn.Module):
    """A network of one layer, as plain as an export asks for."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.arguments = {"width": width}
        self.linear = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


class Branching(Small):
    """No traced program can decide by values."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class Counting(Small):
    """A trace takes one of the ways for any number of images."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (1 if x.shape[0] == 1 else 0)


class Off(TorchProgram):
    """Wrong by a little for one batch size, as a network that was traced with a constant in it."""

    def __init__(self, batch_size: int, error: float) -> None:
        self.batch_size, self.error = batch_size, error

    def run(self, path: Path, batches: Sequence[Tensor]) -> list[Tensor]:
        outputs = super().run(path, batches)
        return [y + self.error if len(y) == self.batch_size else y for y in outputs]


class OfAnotherShape(TorchProgram):
    """Leaves out a class."""

    def run(self, path: Path, batches: Sequence[Tensor]) -> list[Tensor]:
        return [y[:, :2] for y in super().run(path, batches)]


class Truncated(TorchProgram):
    """Written in part."""

    def write(self, source: Exportable, folder: Path) -> list[Path]:
        files = super().write(source, folder)
        files[-1].write_bytes(files[-1].read_bytes()[:1000])
        return files


def export(network: nn.Module, folder: Path, *formats: Format) -> list[Exported]:
    return export_files(network, folder, describe(), formats)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Off(1, 3e-5), r"network\.pt2 differ from the network's by (3|2\.9\d*)e-05"),
        (Off(5, 1e-2), r"network\.pt2 differ from the network's by 0\.01 .*'pt2'"),
        (Off(2, float("nan")), r"network\.pt2 differ from the network's by nan"),
        (OfAnotherShape(), r"network\.pt2 differ from the network's by inf"),
        (Truncated(), r"network\.pt2 cannot be written or does not run"),
    ],
)
def test_a_wrong_file_is_an_error_and_nothing_appears(tmp_path: Path, wrong: Format, message: str) -> None:
    network = Small()
    nn.init.constant_(network.linear.weight, 0.01)  # outputs below 1, so that differences are as given
    with pytest.raises(ExportError, match=message):
        export(network, tmp_path / "out", wrong)
    assert not (tmp_path / "out").exists()


def test_the_largest_difference_is_told(tmp_path: Path) -> None:
    network = Small()
    nn.init.constant_(network.linear.weight, 0.01)
    assert export(network, tmp_path, Off(2, 5e-6))[0].difference == pytest.approx(5e-6, rel=0.05)


class Amplifying(Small):
    """Rounding decides what it answers."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(1e6 * super().forward(x))


class OfOneType(Small):
    """Does not run in float64."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.flatten(1) @ torch.ones(16, 3)


def test_an_error_tells_rounding_from_a_wrong_file(tmp_path: Path) -> None:
    moved = []
    for network in (Small(), Amplifying(), OfOneType()):
        with pytest.raises(ExportError) as caught:
            export(network, tmp_path, Off(1, 1e-2))
        moved += re.findall(r"Rounding to float32 alone changes the network's outputs by (\S+)\. ", str(caught.value))
    assert float(moved[0]) < 1e-6
    assert float(moved[1]) > 1e-3
    assert moved[2] == "nan"


def test_a_failed_export_leaves_the_one_before(tmp_path: Path) -> None:
    export(Small(), tmp_path, TorchProgram())
    before = (tmp_path / "network.pt2").read_bytes()
    with pytest.raises(ExportError):
        export(Small(), tmp_path, ONNXModel(), Off(1, 1.0))
    # not even those that are right
    assert [path.name for path in tmp_path.iterdir()] == ["network.pt2"]
    assert (tmp_path / "network.pt2").read_bytes() == before


@pytest.mark.parametrize("written_format", [TorchProgram(), ONNXModel()], ids=lambda each: each.name)
@pytest.mark.parametrize("network", [Branching(), Counting()], ids=lambda each: type(each).__name__)
def test_what_cannot_be_traced_is_an_error_that_names_the_file(
    tmp_path: Path, network: nn.Module, written_format: Format
) -> None:
    with pytest.raises(ExportError, match=f"{written_format.file_name} .*leave '{written_format.name}' out"):
        export(network, tmp_path / "out", written_format)
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_one_onnx_file_go_beside_it(tmp_path: Path) -> None:
    network = Small()
    export(network, tmp_path, ONNXModel(max_bytes=16))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.onnx", "network.onnx.data"]
    x = torch.randn(2, 1, 4, 4)
    assert difference(network(x).detach(), load_onnx(tmp_path)(x)) <= TOLERANCE


def test_differences_are_relative_to_outputs_above_one() -> None:
    assert difference(torch.tensor([0.5]), torch.tensor([0.25])) == 0.25
    assert difference(torch.tensor([-50.0, 1.0]), torch.tensor([-50.0, 2.0])) == pytest.approx(0.02)
    assert difference(torch.zeros(2, 3), torch.zeros(1, 3)) == float("inf")


def test_without_the_onnx_packages_onnx_is_left_out_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # what makes an import fail
    assert [each.name for each in choose_formats(None)] == ["py", "pt2"]
    (line,) = capsys.readouterr().out.splitlines()
    assert "network.onnx is left out" in line
    assert "onnxruntime" in line
    assert 'pip install "lightning_nas[onnx]"' in line
    # by name it must be there, and nothing is written where it is not
    with pytest.raises(
        MissingDependencyError, match=r"onnxruntime.*network\.onnx.*pip install \"lightning_nas\[onnx\]"
    ):
        choose_formats(["py", "onnx"])
    with pytest.raises(MissingDependencyError, match="onnxruntime"):
        export(Small(), tmp_path / "out", PlainFile(), ONNXModel())
    assert not (tmp_path / "out").exists()


def test_formats_are_chosen_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert [each.name for each in choose_formats(["onnx", "py", "py"])] == ["py", "onnx"]
    assert [each.name for each in choose_formats(None)] == ["py", "pt2", "onnx"]
    assert capsys.readouterr().out == ""
    with pytest.raises(ConfigError, match=r"'tflite'.*\['py', 'pt2', 'onnx', 'onnx_int8'\]"):
        choose_formats(["py", "tflite"])
    with pytest.raises(ConfigError, match=r"formats are \[\]"):
        choose_formats([])
