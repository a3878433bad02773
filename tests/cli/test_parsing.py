"""Wrong arguments of Lightning's commands: one paragraph, and nothing that is not a class is called."""

import inspect
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_nas import tasks
from lightning_nas.__main__ import main
from lightning_nas.cli.lightning import NASCLI, run
from lightning_nas.cli.parsing import check_are_classes, given_class_paths
from lightning_nas.errors import ConfigError
from lightning_nas.pipeline.config import read_yaml
from tests.tiny import tiny


@pytest.fixture
def search(tmp_path: Path) -> Path:
    """A tiny search's configuration."""
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(tiny("search/darts.yaml", tmp_path)))
    return path


def touch(path: str) -> None:
    """What a configuration must not call."""
    Path(path).touch()


def make_logger(save_dir: str = "logs") -> CSVLogger:
    """A function that is annotated to return what an argument takes."""
    return CSVLogger(save_dir)


def make_network(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A network that is made later, when the shape of the images is known."""
    return nn.Linear(image_shape[0], classes)


def make_anything(image_shape: tuple[int, int, int], classes: int) -> object:
    """A function that does not say what it returns."""
    return make_network(image_shape, classes)


TOUCH = "tests.cli.test_parsing.touch"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--model.spaec.channels=3"], r"model\.spaec.* is not an argument of BilevelTask\. Did you mean space\?"),
        (["--model.space.node=3"], r"model\.space\.node is not an argument of DARTSSpace\. Did you mean nodes\?"),
        (
            ["--data.data.augmentation=[RandomFlip]"],
            r"data\.data\.augmentation is not .* of ArrayDataModule\.",
        ),
        (["--model.weight_optimizer.lrr=3"], r"lrr is not an argument of SGD\. Did you mean lr\?"),
        (["--trainer.max_epoch=3"], r"--trainer\.max_epoch is not an option of 'lightning-nas fit'.*--trainer\.max_ep"),
        (["--trainer.callbacks=[{class_path: ModelCheckpoint, init_args: {monitr: x}}]"], r"monitr .*mean monitor\?"),
        (["--model.warmup_epochs=soon"], r"model\.warmup_epochs is 'soon'; it must be of type int\. 'lightning-nas f"),
        (["--model.weight_clip_norm=[a]"], r"is \"\['a'\]\"; it must be of type float"),
        (["--model.weight_optimizer={class_path: SGD, init_args: {lr: abc}}"], "lr is 'abc'; it must be of type float"),
        (["--trainer.max_epochs=three"], r"trainer\.max_epochs is 'three'; it must be of type int or null\."),
        (["--trainer.precision=8"], r"it must be of type Literal\[64, 32, 16\] or .*'64-true'\] or "),
        (["--model.space=DARTSpace"], r"'DARTSpace'; it must name a class .* from Diff\w+\. Did you mean DARTSSpace\?"),
        (["--model.space=3"], r"model\.space is '3'; it must name a class .*one of .*, NASBench201Space\b"),
        (["--trainer.callbacks+=ModelCheckpont"], r"a class that derives from Callback\. Did you mean ModelCheckpoint"),
        (["--model=BilevlTask"], r"a class that derives from LightningModule\. Did you mean BilevelTask"),
        (["--model.weight_scheduler=torch.nn.Linear"], r"a class that derives from LRScheduler or ReduceLROnPlateau\."),
        (["--model.weight_optimizer.class_path=torch.optim.SGDD"], r"from Optimizer\. Did you mean SGD or ASGD\?"),
        (
            ["--config=nowhere.yaml"],
            r"nowhere\.yaml is neither a file nor the name of a shipped configuration\.",
        ),
        (["extra"], r"'extra' is not an argument of 'lightning-nas fit'\."),
        (["--num_threads"], r"--num_threads: expected one argument\."),
    ],
)
def test_what_is_wrong_is_said_with_what_is_right(search: Path, args: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match=f"^lightning-nas: ConfigError: .*{said}") as stopped:
        main(["fit", "--config", str(search), *args])
    assert "\n" not in str(stopped.value)
    assert len(str(stopped.value)) < 600


@pytest.mark.parametrize("command", ["validate", "test", "predict", "forecast"])
def test_every_command_refuses_alike(search: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"ConfigError: model\.wieght_clip_norm is .*mean weight_clip_norm\?"):
        main([command, "--config", str(search), "--model.wieght_clip_norm=1"])
    assert capsys.readouterr().err == ""


def test_what_a_task_must_have(search: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data, model must be given\. Set them in the file of --config, or"):
        run(["fit"])
    with pytest.raises(ConfigError, match=r"^model\.space, .*model\.alpha_optimizer must be given\."):
        run(["fit", "--model", "BilevelTask", "--data", "DummyDataModule"])
    with pytest.raises(ConfigError, match=r"^model\.nodes is not an argument of LightningModule, which takes none\. N"):
        run(["fit", "--model.nodes", "3", "--config", str(search)])


def test_a_wrong_key_in_a_file_is_named(search: Path) -> None:
    config = read_yaml(search)
    config["model"]["init_args"]["wieght_clip_norm"] = 1
    search.write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=r"^model\.wieght_clip_norm is not .*Did you mean weight_clip_norm\?"):
        run(["fit", "--config", str(search)])


def components() -> Iterator[tuple[str, str]]:
    """Every argument of a task that takes a class."""
    for name in tasks.__all__:
        task = getattr(tasks, name)
        if inspect.isclass(task) and not inspect.isabstract(task):
            for argument, annotation in typing.get_type_hints(task.__init__).items():
                if "." in str(annotation).replace("typing.", "").replace("collections.abc.", ""):
                    yield name, argument


COMPONENTS = sorted(components())


def test_components_of_tasks_are_found() -> None:
    assert {("BilevelTask", "weight_optimizer"), ("TrainTask", "scheduler"), ("EvolveTask", "strategy")} <= {
        *COMPONENTS
    }


@pytest.mark.parametrize(("task", "argument"), COMPONENTS)
def test_nothing_but_a_class_takes_the_place_of_a_class(task: str, argument: str, tmp_path: Path) -> None:
    place = f"--model.{argument}"
    for called in ("os.system", TOUCH):
        said = rf"^model\.{argument} has the class_path {called}, which is not a class\."
        content = {"class_path": called, "init_args": {"path": "called"}}
        Path("part.yaml").write_text(yaml.safe_dump(content))
        Path("file.yaml").write_text(yaml.safe_dump({"model": {"class_path": task, "init_args": {argument: content}}}))
        for given in (
            [f"{place}.class_path", called, f"{place}.command", "touch called"],
            [f"{place}.init_args.path=called", f"{place}.class_path={called}"],
            [place, yaml.safe_dump(content)],
            [place, "part.yaml"],
            ["--config", "file.yaml", f"{place}.path", "called"],
        ):
            with pytest.raises(ConfigError, match=said):
                check_are_classes(given_class_paths(["--model", task, *given]))
    with pytest.raises(ConfigError, match=said):
        NASCLI(args=["--config", "file.yaml", f"{place}.path", "called"], run=False)
    assert not Path("called").exists()


@pytest.mark.parametrize("task", sorted({name for name, _ in COMPONENTS}))
def test_nothing_but_a_class_stands_for_a_class_by_its_name(task: str) -> None:
    for argument in [each for name, each in COMPONENTS if name == task]:
        with pytest.raises(ConfigError, match=rf"^model\.{argument} is 'os\.system'; it must name a class") as refused:
            NASCLI(args=["--model", task, f"--model.{argument}", "os.system"], run=False)
        assert "NestedArg" not in str(refused.value)


def test_a_function_within_a_component_is_refused_too(search: Path) -> None:
    args: Any = ["--config", str(search), "--data.data.class_path", "os.system"]
    with pytest.raises(ConfigError, match=r"^data\.data has the class_path os\.system, which is not a class\."):
        NASCLI(args=args, run=False)
    with pytest.raises(ConfigError, match=r"^trainer\.logger has the class_path os\.system"):
        NASCLI(args=[*args[:2], "--trainer.logger", "{class_path: os.system}"], run=False)


HERE = "tests.cli.test_parsing"


def test_a_function_that_says_what_it_returns_makes_a_component(search: Path) -> None:
    args: Any = ["--config", str(search), "--trainer.logger"]
    for given in (f"{HERE}.make_logger", f"{{class_path: {HERE}.make_logger, init_args: {{save_dir: here}}}}"):
        logger = NASCLI(args=[*args, given], run=False).config.trainer.logger
        assert logger.class_path == f"{HERE}.make_logger"  # as a run writes it to its config.yaml


def test_a_function_that_makes_a_network_is_named_alone(search: Path) -> None:
    args: Any = ["--config", str(search), "--model", "TrainTask", "--model.network"]
    made = NASCLI(args=[*args, f"{HERE}.make_network"], run=False).config.model.init_args.network
    assert made is make_network
    with pytest.raises(ConfigError, match=r"is named alone, .*: network: tests\.cli\.test_parsing\.make_network\.$"):
        NASCLI(args=[*args, f"{{class_path: {HERE}.make_network}}"], run=False)
    with pytest.raises(ConfigError, match=r"derives from Module, or a function that is annotated to return one\."):
        NASCLI(args=[*args, f"{HERE}.make_anything"], run=False)


def test_files_of_data_are_not_searched_for_class_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("large.json").write_text(json.dumps({"class_path": "os.system", "more": " " * 2**20}))
    Path("small.csv").write_text("image,label\n")
    loaded = []
    monkeypatch.setattr("yaml.safe_load", lambda text: loaded.append(text) or text)  # type: ignore[func-returns-value]
    assert given_class_paths(["--data.path", "large.json", "--data.labels=small.csv"]) == {}
    assert loaded == ["large.json", "small.csv"]  # the values themselves
