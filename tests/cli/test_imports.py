"""Artifacts that name classes of the user's own, in commands whose configuration names none of them."""

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lightning_nas.__main__ import COMMANDS, main
from lightning_nas.compare.config import parse as parse_study
from lightning_nas.errors import ArtifactError
from lightning_nas.files import import_modules, import_plugins
from lightning_nas.pipeline.config import parse
from lightning_nas.pipeline.stages import resolve
from lightning_nas.spaces import NASBench201Space, load_architecture

MODULE = '''
from torch import nn

from lightning_nas.spaces import Operation


class Plain(Operation):
    """A 3x3 convolution."""

    name = "plain_conv"

    def module(self, channels, stride, affine):
        return nn.Sequential(nn.Conv2d(channels, channels, 3, stride, 1), nn.BatchNorm2d(channels, affine=affine))
'''

TRAIN = """
model:
  class_path: TrainTask
  init_args: {architecture: cell.json, channels: 2, cells: 1, optimizer: torch.optim.SGD}
data: {class_path: DigitsDataModule, init_args: {train_limit: 64, batch_size: 32}}
trainer: {accelerator: cpu, max_epochs: 1, enable_progress_bar: false, enable_model_summary: false}
"""


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An architecture with an operation of a module that is in the working directory, and not imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_plain_conv.py").write_text(MODULE)
    from own_plain_conv import Plain  # type: ignore[import-not-found]  # written above

    space = NASBench201Space(("skip_connect", Plain()))
    path = space.largest().save(tmp_path / "cell.json")
    del sys.modules["own_plain_conv"]
    (tmp_path / "train.yaml").write_text(TRAIN)
    yield path
    sys.modules.pop("own_plain_conv", None)


def refusal(args: list[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(args)
    return str(ended.value)


@pytest.mark.slow
def test_a_network_of_ones_own_operation_is_trained_and_exported(cell: Path) -> None:
    fit = ["fit", "--config", "train.yaml"]
    assert "name its module, 'own_plain_conv': lightning-nas COMMAND --import own_plain_conv" in refusal(fit)
    main([*fit, "--import", "own_plain_conv"])
    (checkpoint,) = cell.parent.glob("lightning_logs/**/*.ckpt")
    (written,) = cell.parent.glob("lightning_logs/**/cli_config.yaml")
    assert yaml.safe_load(written.read_text())["imports"] == ["own_plain_conv"]
    del sys.modules["own_plain_conv"]
    export = ["export", "--ckpt_path", str(checkpoint), "--formats", "py"]
    assert refusal(export).startswith(
        "lightning-nas: UnknownClassError: 'own_plain_conv.Plain' is not an imported class"
    )
    main([*export, "--import", "own_plain_conv"])
    assert (cell.parent / "export" / "network.py").is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_imports_modules(command: str, cell: Path) -> None:
    (cell.parent / "broken_module.py").write_text("1 / 0")
    args = [command, "--import", "own_plain_conv", "x.ckpt", "--import"]
    assert "'own_plain_cnv', which cannot be imported (ModuleNotFoundError" in refusal([*args, "own_plain_cnv"])
    assert "'broken_module', which cannot be imported (ZeroDivisionError" in refusal([*args, "broken_module"])
    assert "own_plain_conv" in sys.modules
    assert "--import: expected one argument" in refusal(args)


def test_all_stages_of_a_pipeline_import_the_modules(tmp_path: Path) -> None:
    config = Path(__file__).parents[2] / "configs" / "pipeline" / "digits.yaml"
    arguments = parse(["--config", str(config), "--imports", "[json, math]"])
    assert {tuple(stage.config["imports"]) for stage in resolve(arguments.config, tmp_path, arguments.base)} == {
        ("json", "math")
    }
    study = Path(__file__).parents[2] / "configs" / "compare" / "digits.yaml"
    for given, expected in (([], ["a", "b"]), (["--imports", "json"], ["json", "a", "b"])):
        added = [*given, "--imports+", "a", "--imports+", "b"]
        assert parse(["--config", str(config), *added]).config["imports"] == expected
        assert parse_study(["--config", str(study), *added]).config["imports"] == expected
    assert "imports is 3" in refusal(["pipeline", "--config", str(config), "--imports", "3"])


@pytest.fixture
def plugin(cell: Path) -> Iterator[Path]:
    """The folder of an installed package that names the module as an entry point."""
    folder = cell.parent / "own_plain-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: own-plain\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[lightning_nas]\noperations = own_plain_conv\n")
    import_plugins.cache_clear()
    yield folder
    import_plugins.cache_clear()


def test_entry_points_of_installed_packages_are_imported(plugin: Path, cell: Path) -> None:
    assert load_architecture(cell).space.class_path.endswith("NASBench201Space")
    assert "own_plain_conv" in sys.modules


def test_an_entry_point_that_cannot_be_imported_is_named(plugin: Path, cell: Path) -> None:
    (plugin / "entry_points.txt").write_text("[lightning_nas]\noperations = own_plain_cnv\n")
    with pytest.raises(ArtifactError, match="own-plain names 'own_plain_cnv' as an entry point .* Repair or uninstall"):
        load_architecture(cell)


def test_an_architecture_takes_its_classes_along(cell: Path) -> None:
    """To worker processes, where nothing is imported that an artifact merely names."""
    import_modules("own_plain_conv")
    architecture = load_architecture(cell)
    pickled = pickle.dumps(architecture)
    del sys.modules["own_plain_conv"]
    assert pickle.loads(pickled) == architecture
    assert "own_plain_conv" in sys.modules
