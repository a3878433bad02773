import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_nas.errors import ConfigError, ExportError
from lightning_nas.export.network import COLUMNS, Exported, export_network
from lightning_nas.spaces.darts.network import DARTSNetwork
from lightning_nas.spaces.darts.space import DARTSSpace
from tests.export.conftest import Build
from tests.genotypes import PDARTS

SHAPE = (1, 16, 16)
NAMES = ["zero", 'a "quoted" name', "naïve\n"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks as small as these wait for a second thread more than they gain from it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(auxiliary: bool = True) -> DARTSNetwork:
    torch.manual_seed(1)
    network = DARTSSpace().network(
        DARTSSpace.parse(PDARTS),
        num_classes=3,
        image_shape=(1, 32, 32),
        channels=4,
        cells=4,
        auxiliary=auxiliary,
    )
    for buffer in network.buffers():
        # statistics that an untrained network would not have
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return network


def export(network: nn.Module, folder: Path, names: list[str] = NAMES, shape: tuple = SHAPE) -> Exported:
    return export_network(
        network,
        folder,
        image_shape=shape,
        class_names=names,
        mean=[0.5] * shape[0],
        std=[0.25] * shape[0],
        header='Searched with seed 3. """ \\ ' + PDARTS,
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(make(), tmp_path_factory.mktemp("export")).path


def test_outputs_are_those_of_the_original(tmp_path: Path) -> None:
    network = make().train()
    state = torch.random.get_rng_state()
    written = export(network, tmp_path)
    assert written.difference <= 1e-6
    assert network.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["network.pt", "network.py"]
    # a second run over the same folder makes the same file
    before = written.path.read_bytes()
    assert export(network, tmp_path).path.read_bytes() == before


def test_weights_are_plain_and_without_auxiliary_head(exported: Path) -> None:
    weights = torch.load(exported.with_name("network.pt"), weights_only=True)
    assert set(weights) == set(make(auxiliary=False).state_dict())
    assert not [name for name in weights if "auxiliary" in name]


def test_file_runs_alone(exported: Path) -> None:
    program = (
        "import runpy, sys; sys.dont_write_bytecode = True\n"
        f"runpy.run_path({str(exported)!r}, run_name='__main__')\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('lightning_nas', 'lightning', 'torchvision')])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(1, 3)", "[]"]


def test_file_is_readable(exported: Path) -> None:
    text = exported.read_text()
    tree = ast.parse(text)
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module)
    assert {name.split(".")[0] for name in imported} <= {"torch", *sys.stdlib_module_names}
    assert max(map(len, text.splitlines())) <= COLUMNS
    docstring = ast.get_docstring(tree)
    assert 'Searched with seed 3. """ \\ Genotype(normal=' in docstring
    # the cells as the network takes them, a node a line
    assert '            [("skip_connect", 0), ("dil_conv_3x3", 1)],\n' in text
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id.isupper()
    }
    assert values == {"IMAGE_SHAPE": SHAPE, "CLASSES": tuple(NAMES), "MEAN": (0.5,), "STD": (0.25,)}


def test_what_does_not_fit_the_network(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 class names"):
        export(make(), tmp_path, names=["a", "b"])
    with pytest.raises(ConfigError, match="channels"):
        export_network(make(), tmp_path, image_shape=SHAPE, class_names=NAMES, mean=[0.5] * 3, std=[0.5], header="")
    with pytest.raises(ConfigError, match="arguments"):
        export(nn.Sequential(nn.Flatten(), nn.Linear(256, 3)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_difference_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    network = make()
    # a module that its arguments do not tell of
    network.classifier.register_forward_hook(lambda module, inputs, output: output + 1e-3)
    with pytest.raises(ExportError, match="differ from the network's"):
        export(network, tmp_path)
    network = make()
    with torch.no_grad():
        network.classifier.bias.fill_(torch.nan)
    with pytest.raises(ExportError, match="nan"):
        export(network, tmp_path)
    network = make()
    network.arguments["channels"] = 6
    with pytest.raises(ExportError):
        export(network, tmp_path)
    assert not list(tmp_path.iterdir())


def test_state_outside_parameters_is_noticed(build: Build, tmp_path: Path) -> None:
    network = build("hidden", use="+ getattr(self, 'shift', 0)")(16)
    network.shift = 1.0
    with pytest.raises(ExportError, match="parameters and buffers"):
        export(network, tmp_path / "out", shape=(1, 4, 4))


def test_relative_outputs_may_be_large(build: Build, tmp_path: Path) -> None:
    network = build("large")(16)
    with torch.no_grad():
        network.linear.weight.mul_(1e6)
    assert export(network, tmp_path / "out", shape=(1, 4, 4)).difference <= 1e-5
    assert isinstance(network(torch.zeros(1, 1, 4, 4)), Tensor)
