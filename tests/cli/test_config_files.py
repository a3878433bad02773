"""Shipped configurations are found by name from any folder, and work as copies."""

from pathlib import Path

import pytest
import yaml

from lightning_nas.__main__ import main
from lightning_nas.cli.config_files import (
    copy,
    description,
    find_config,
    matching,
    shipped_names,
    with_config_paths,
    with_references,
)
from lightning_nas.cli.lightning import NASCLI
from lightning_nas.errors import ConfigError
from lightning_nas.pipeline.config import parse
from lightning_nas.pipeline.stages import resolve
from tests.tiny import CONFIGS

PIPELINES = sorted(CONFIGS.glob("pipeline/*.yaml"))


def refusal(args: list[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(args)
    return str(ended.value)


def test_every_shipped_configuration_is_found_by_its_name() -> None:
    every = sorted(CONFIGS.rglob("*.yaml"))
    assert len(shipped_names()) == len(every) > 70
    for path in every:
        name = path.relative_to(CONFIGS).as_posix()
        assert find_config(name) == find_config(name.removesuffix(".yaml")) == path
        assert description(path)


def test_the_working_directory_comes_first(tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    Path("pipeline/digits.yaml").write_text("own: 1")
    assert find_config("pipeline/digits") == find_config("pipeline/digits.yaml") == Path("pipeline/digits.yaml")
    Path("pipeline/digits").write_text("own: 2")
    assert find_config("pipeline/digits") == Path("pipeline/digits")
    assert find_config("pipeline/cifar10") == CONFIGS / "pipeline" / "cifar10.yaml"


def test_what_stands_in_a_file_is_relative_to_the_file_first(tmp_path: Path) -> None:
    for folder in ("mine", "search"):
        (tmp_path / folder).mkdir()
    Path("search/darts.yaml").write_text("working directory")
    assert find_config("search/darts.yaml", Path("mine")) == Path("search/darts.yaml")
    (tmp_path / "mine" / "search").mkdir()
    Path("mine/search/darts.yaml").write_text("file")
    assert find_config("search/darts.yaml", Path("mine")) == Path("mine/search/darts.yaml")
    assert find_config("search/s1", Path("mine")) == CONFIGS / "search" / "s1.yaml"


def test_a_shipped_pipeline_takes_no_stage_file_of_the_folder_above(tmp_path: Path) -> None:
    here = tmp_path / "runs"
    for folder in (here, tmp_path / "train"):
        folder.mkdir()
    (tmp_path / "train" / "digits.yaml").write_text("model: {class_path: Wrong}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        arguments = parse(["--config", "pipeline/digits"])
        stages = {stage.name: stage.config for stage in resolve(arguments.config, tmp_path, arguments.base)}
        assert stages["train"]["model"]["class_path"] == "TrainTask"
        # what the command line names is relative to the working directory
        Path("train.yaml").write_text("model: {class_path: TrainTask, init_args: {channels: 5}}")
        for option in ("--stages.train", "--stages.train.config"):
            arguments = parse(["--config", "pipeline/digits", option, "train.yaml"])
            stages = {stage.name: stage.config for stage in resolve(arguments.config, tmp_path, arguments.base)}
            assert stages["train"]["model"]["init_args"]["channels"] == 5


def test_a_pipeline_of_ones_own_names_shipped_stages(tmp_path: Path) -> None:
    content = yaml.safe_load((CONFIGS / "pipeline" / "digits.yaml").read_text().replace("../", ""))
    Path("mine.yaml").write_text(yaml.safe_dump(content))
    found = []
    for name in ("mine", "pipeline/digits"):
        arguments = parse(["--config", name, "--stages.search", "search/gdas"])
        found.append([stage.config for stage in resolve(arguments.config, tmp_path, arguments.base)])
    assert found[0] == found[1]


def test_stages_are_found_by_name_with_overlays() -> None:
    by_name = ["--config", "search/darts", "--config=trainer/cpu", "-c", "logger/csv.yaml"]
    by_path = [*("--config", CONFIGS / "search/darts.yaml"), *("--config", CONFIGS / "trainer/cpu.yaml")]
    by_path += ["--config", CONFIGS / "logger/csv.yaml"]
    both = [NASCLI(args=[str(arg) for arg in args], run=False).config.as_dict() for args in (by_name, by_path)]
    configs = [content.pop("config") for content in both]
    assert both[0] == both[1]
    assert [Path(str(path)).resolve() for path in configs[0]] == [Path(str(path)).resolve() for path in configs[1]]


def test_yaml_on_the_command_line_is_not_a_name() -> None:
    args = ["fit", "--config", "{model: BilevelTask}", "--config=a:\n  b", "--model", "search/darts", "--config"]
    assert with_config_paths(args) == args


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["pipeline", "--config", "pipeline/digit"], "or pipeline/digits"),
        (["pipeline", "--config", "digits"], "Did you mean train/digits or "),
        (["pipeline", "--config", "configs/pipeline/digits.yaml"], "pipeline/digits"),
        (["pipeline", "--config", "pipeline/digits", "--stages.search", "search/dart"], "Did you mean search/darts"),
        (["fit", "--config", "serch/darts.yaml"], "Did you mean search/darts"),
        (["fit", "--config=search/darts_second"], "Did you mean search/darts_second_order"),
        (["forecast", "-c", "search/darst"], "Did you mean search/darts"),
        (["configs", "darst"], "No shipped configuration matches 'darst'. Did you mean search/darts?"),
        (["config"], "'config' is not a command. Did you mean configs?"),
    ],
)
def test_the_nearest_names_are_suggested(args: list[str], said: str) -> None:
    assert said in refusal(args)


def test_a_name_that_resembles_nothing_points_to_the_list() -> None:
    assert refusal(["pipeline", "--config", "0"]) == (
        "lightning-nas: ConfigError: 0 is neither a file nor the name of a shipped configuration. "
        "'lightning-nas configs' lists the shipped ones."
    )


def test_configurations_are_listed_with_their_first_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    main(["configs"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == shipped_names()
    assert all(len(line.split()) > 2 and len(line) <= 120 for line in lines)
    main(["configs", "evolve/nsga"])
    assert capsys.readouterr().out.rstrip().endswith("the Pareto front of accuracy and multiply-accumulates")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("pipeline/digits", ["pipeline/digits"]),
        ("logger", ["logger/csv", "logger/wandb"]),
        ("search/s?", ["search/s1", "search/s2", "search/s3", "search/s4"]),
        ("train*/digits", ["train/digits"]),
    ],
)
def test_a_pattern_is_a_part_of_the_name(pattern: str, names: list[str]) -> None:
    found = matching(pattern)
    assert found == names or found[: len(names)] == names


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_copies_have_what_they_refer_to(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = path.relative_to(CONFIGS).with_suffix("").as_posix()
    main(["configs", name, "--copy", "mine"])
    copied = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert Path(f"mine/{name}.yaml") in copied
    with pytest.MonkeyPatch.context() as patch:  # without the shipped ones, from which missing files would come
        patch.setattr("lightning_nas.cli.config_files.shipped_folder", lambda: tmp_path / "nowhere")
        mine = parse(["--config", f"mine/{name}"])
        stages = resolve(mine.config, tmp_path, mine.base)
    shipped = parse(["--config", name])
    assert stages == resolve(shipped.config, tmp_path, shipped.base)


def test_copies_overwrite_nothing_that_was_changed(tmp_path: Path) -> None:
    names = with_references(["pipeline/digits"])
    copied = copy(names, tmp_path)
    assert copy(names, tmp_path) == copied
    changed = tmp_path / "search" / "two_scheme.yaml"
    changed.write_text("changed: true")
    (tmp_path / "train" / "digits.yaml").unlink()
    with pytest.raises(ConfigError, match=r"two_scheme\.yaml would be overwritten"):
        copy(names, tmp_path)
    assert not (tmp_path / "train" / "digits.yaml").exists()
    assert changed.read_text() == "changed: true"
