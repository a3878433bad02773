"""Configurations of pipelines: interpolation, changes on the command line, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_nas.__main__ import main
from lightning_nas.cli.lightning import check_config
from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import write_bytes
from lightning_nas.pipeline.config import merge, parse, set_key
from lightning_nas.pipeline.stages import Stage, resolve
from tests.conftest import ROOT

FOLDER = ROOT / "configs" / "pipeline"
DIGITS = str(FOLDER / "digits.yaml")
PIPELINES = sorted(path.name for path in FOLDER.glob("*.yaml"))


def stages(args: list[str], run_dir: Path) -> dict[str, Stage]:
    """The stages of a command line without ``--config``'s value, by name."""
    given = parse(["--config", *args])
    return {stage.name: stage for stage in resolve(given.config, run_dir, given.base)}


def stage(args: list[str], name: str, run_dir: Path) -> dict[str, Any]:
    """The configuration of one stage."""
    return stages(args, run_dir)[name].config


def check(config: dict[str, Any], path: Path) -> None:
    """Parse a stage's configuration as ``fit`` does."""
    check_config(write_bytes(path, yaml.safe_dump(config).encode()))


@pytest.mark.parametrize("name", PIPELINES)
def test_every_shipped_stage_is_understood_by_fit(name: str, tmp_path: Path) -> None:
    found = stages([str(FOLDER / name)], tmp_path)
    assert [each.name for each in found.values() if each.test][0] == "train"
    seeds = sum(each.test and each.drawn_from is None and each.baseline is None for each in found.values())
    fitted = [each.name for each in found.values() if each.baseline and not each.repeat]
    assert fitted == ["resnet_macs", "resnet_parameters"]
    drawn = [each for each in found.values() if each.drawn_from]
    assert len(drawn) == (1 + max(each.draw for each in drawn)) * seeds
    for each in found.values():
        if each.repeat:
            continue  # it differs in its seeds alone
        assert "${" not in json.dumps(each.config)
        check(each.config, tmp_path / f"{each.name}.yaml")


def test_stages_have_any_names_and_a_user_adds_one(tmp_path: Path) -> None:
    config = yaml.safe_load(Path(DIGITS).read_text())
    for entry in config["stages"].values():
        if isinstance(entry.get("config"), str):
            entry["config"] = str((FOLDER / entry["config"]).resolve())
        elif entry:
            entry["config"][0] = str((FOLDER / entry["config"][0]).resolve())
    second = {
        "config": str(ROOT / "configs" / "distill" / "herding.yaml"),
        "model": {"init_args": {"output_dir": "${run_dir}/herding"}},
        "data": {"init_args": {"data": "${data}"}},
    }
    config["stages"] = {"my-herding": second, **config["stages"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    found = stages([str(tmp_path / "mine.yaml")], tmp_path / "run")
    assert list(found)[:5] == ["my-herding", "distill", "fidelity", "search", "train"]
    own = found["my-herding"].config
    assert own["model"]["init_args"]["output_dir"] == str(tmp_path / "run" / "herding")
    assert own["data"]["init_args"]["data"]["class_path"] == "DigitsDataModule"
    check(own, tmp_path / "own.yaml")


def test_another_stage_file_gets_the_pipelines_images_and_nothing_of_the_file_before(tmp_path: Path) -> None:
    other = str(ROOT / "configs" / "distill" / "random_subset.yaml")
    size = "--stages.distill.model.init_args.scheme.init_args.images_per_class"
    config = stage([DIGITS, "--stages.distill", other, size, "30"], "distill", tmp_path)
    scheme = {"class_path": "RandomSubset", "init_args": {"images_per_class": 30}}
    assert config["model"]["init_args"] == {"scheme": scheme, "seed": 0, "output_dir": str(tmp_path)}
    assert config["data"]["init_args"]["data"]["class_path"] == "DigitsDataModule"
    assert config["trainer"]["max_epochs"] == 1


def test_the_images_are_said_once(tmp_path: Path) -> None:
    args = [str(FOLDER / "cifar10.yaml"), "--data.class_path", "FolderDataModule", "--data.root", "DIR"]
    found = stages([*args, "--data.image_size", "32", "--seed_everything", "3"], tmp_path)
    images = {"root": "DIR", "image_size": 32, "seed": 3}
    held_out = {"class_path": "FolderDataModule", "init_args": {**images, "validation_fraction": 0.02}}
    assert found["distill"].config["data"]["init_args"]["data"] == held_out
    evaluators = found["fidelity"].arguments
    assert evaluators["proxy"]["init_args"]["data"]["init_args"]["held_out"] == held_out
    assert evaluators["reference"]["init_args"]["data"]["init_args"]["data"] == held_out
    trained = found["train"].config["data"]
    assert trained["class_path"] == "FolderDataModule"
    loading = {"validation_fraction": 0, "batch_size": 96, "augmentations": ["RandomCrop", "RandomFlip", "Cutout"]}
    assert trained["init_args"] == {**images, **loading}


def test_a_search_without_distillation_sees_halves_of_the_real_images(tmp_path: Path) -> None:
    halves = '{class_path: HalvesDataModule, init_args: {data: "${data}"}}'
    left_out = ["--stages.distill", "null", "--stages.fidelity", "null", "--stages.search.data", halves]
    found = stages([DIGITS, *left_out, "--data.seed", "3"], tmp_path)
    assert list(found)[:2] == ["search", "train"]
    data = found["search"].config["data"]["init_args"]["data"]
    assert (data["class_path"], data["init_args"]["seed"]) == ("DigitsDataModule", 3)
    check(found["search"].config, tmp_path / "search.yaml")


@pytest.mark.parametrize("name", ["cifar10.yaml", "cifar10_cpu.yaml", "digits.yaml"])
def test_the_check_of_the_proxy_is_a_fit_of_one_process(name: str, tmp_path: Path) -> None:
    args = [str(FOLDER / name), "--trainer.devices", "4", "--trainer.strategy", "ddp"]
    args += ["--trainer.max_epochs", "7", "--trainer.precision", "bf16-true"]
    found = stages(args, tmp_path)
    trainer = {key: found["fidelity"].config["trainer"][key] for key in ("devices", "strategy", "max_epochs")}
    assert trainer == {"devices": 1, "strategy": "auto", "max_epochs": 1}
    assert found["fidelity"].config["trainer"]["precision"] == "32-true"
    assert found["search"].config["trainer"]["devices"] == 4
    space = found["search"].arguments["space"]
    assert found["fidelity"].config["data"]["init_args"]["space"] == space
    assert "&id" not in yaml.safe_dump(found["fidelity"].config)


def test_a_control_is_made_on_one_device(tmp_path: Path) -> None:
    for name in ("random_subset", "noise", "herding", "k_center"):
        control = str(ROOT / "configs" / "distill" / f"{name}.yaml")
        found = stages([DIGITS, "--trainer.devices", "4", "--stages.distill", control], tmp_path)
        assert found["distill"].config["trainer"]["devices"] == 1
        assert found["search"].config["trainer"]["devices"] == 4


def test_the_search_half_may_be_real_images_that_were_not_distilled(tmp_path: Path) -> None:
    args = [DIGITS, "--stages.search.data.init_args.held_out", "${data}"]
    search = stage(args, "search", tmp_path)
    assert search["data"]["init_args"]["held_out"]["init_args"]["validation_fraction"] == 0.1
    check(search, tmp_path / "search.yaml")
    other = '{extends: "${data}", init_args: {split_seed: 4}}'
    with pytest.raises(ConfigError, match=r"stages\.search\.data\.init_args\.held_out has .*'split_seed': 4"):
        stages([DIGITS, "--stages.search.data.init_args.held_out", other], tmp_path)


def test_an_evaluator_that_reads_a_table_takes_the_place_of_one_that_trains(tmp_path: Path) -> None:
    table = {"class_path": "NASBench201Table", "init_args": {"path": "t.npz"}}
    reference = {"class_path": "TableLookup", "init_args": {"table": table, "column": "cifar10_val_200"}}
    args = [DIGITS, "--stages.fidelity.model.init_args.reference", json.dumps(reference)]
    fidelity = stage(args, "fidelity", tmp_path)
    assert fidelity["model"]["init_args"]["reference"] == reference
    check(fidelity, tmp_path / "fidelity.yaml")


def test_a_refinement_begins_with_what_was_found_on_the_same_images(tmp_path: Path) -> None:
    args = [str(FOLDER / "nasbench201_two_scheme.yaml"), "--stages.search.data.init_args.batch_size", "8"]
    found = stages([*args, "--seed_everything", "3"], tmp_path)
    search, refine = found["search"], found["refine"]
    assert refine.arguments["space"] == search.arguments["space"]
    strategy = refine.arguments["strategy"]["init_args"]
    assert strategy["starts"] == [str(tmp_path / "search" / "architecture.json")]
    assert strategy["order"]["init_args"]["alphas"] == [str(tmp_path / "search" / "alphas.safetensors")]
    training = refine.arguments["evaluator"]["init_args"]["evaluator"]["init_args"]["evaluator"]["init_args"]
    assert training["data"] == search.config["data"]
    assert training["data"]["init_args"]["batch_size"] == 8
    assert training["data"]["init_args"]["data"]["init_args"]["image_size"] == 16
    assert training["seed"] == 3
    assert refine.config["trainer"]["max_epochs"] == 1


def test_the_seed_reaches_every_stage(tmp_path: Path) -> None:
    found = stages([DIGITS, "--seed_everything", "7"], tmp_path)
    for name in ("distill", "fidelity", "search", "train"):
        seeds = re.findall(r'"(seed|seed_everything)": (\d+)', json.dumps(found[name].config))
        reference = {("seed", "1000")} if name == "fidelity" else set()  # the reference trains weights of its own
        assert set(seeds) == {("seed", "7"), ("seed_everything", "7")} | reference, name


def test_callbacks_of_a_stage_file_stay(tmp_path: Path, configs: Path) -> None:
    search = stage([DIGITS, "--stages.search", str(configs / "search" / "p_darts.yaml")], "search", tmp_path)
    assert [each["class_path"] for each in search["trainer"]["callbacks"]] == ["PDARTSPhases", "ModelCheckpoint"]


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["--stagess.train", "x.yaml"], "stagess"),
        (["--stages.trian", "x.yaml"], "has no stage 'trian'; it has distill"),
        (["--stages.train", "null"], r"The stages with 'test: true' are \[\];"),
        (["--stages.search.test", "true"], r"The stages with 'test: true' are \['search', 'train'\]"),
        (["--stages.search", "null"], r"stages\.search\.model\.init_args\.space' not found"),
        (["--stages.distill", "null"], r"'stages\.distill\.model\.init_args\.output_dir' not found"),
        (["--stages.train", "nowhere.yaml"], r"nowhere\.yaml"),
        (["--data", "null"], "mappings 'data'"),
        (["--data", "{root: x}"], "class_path"),
        (["--data.seed", "${seed}"], r"data\.init_args\.seed cannot be resolved: .*'seed' not found"),
        (["--data.seed", "${data.init_args.seed}"], "ecursi"),
        (["--data.seed", "${oops"], "cannot be resolved"),
        (["--stages.train.data.extends", "${run_dir}"], "extends is '.*'; it must be a mapping"),
        (["stray"], "stray"),
        (["--stages", "null"], "mappings"),
        (["--stages.search", "5"], r"stages\.search"),
        (["--stages.search.config", "5"], r"stages\.search has the config 5"),
        (["--seed_everything", "abc"], "seed_everything"),
        (["--seed_everything.x", "1"], "not a mapping"),
        (["--stages.train.random_architectures", "-1"], r"stages\.train\.random_architectures is -1"),
        (["--stages.search.random_architectures", "2"], r"stages\.search\.random_architectures is 2"),
        (
            ["--stages.train.model.init_args.architecture", "null"],
            "architecture of the stage with random_architectures",
        ),
        (["--data.root", "[a"], "YAML"),
        (["--stages.export.foo", "1"], r"stages\.export"),
        (["--stages.train.trainer.max_epochs", "0"], "at least one epoch"),
        (["--stages.train.model.init_args.chanels", "3"], r"train\.yaml: .*chanels"),
        (["--run_dr", "x"], r"Unknown keys \['run_dr'\] .* Did you mean run_dir\?"),
        (
            ["--nothing", "x"],
            r"Unknown keys \['nothing'\] .* Expected one of seed_everything, num_threads, matmul_precision, workers,",
        ),
        (["--stages.train.tset", "true"], r"train\.yaml: .*tset"),
        (["--stages.refine.model.x", "1"], "has no stage 'refine'"),
        (["--stages.distill.data.init_args.data.init_args.train_limit", "99"], "proxy was distilled from"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path, args: list[str], match: str) -> None:
    with pytest.raises(SystemExit, match=match) as stopped:
        main(["pipeline", "--config", DIGITS, "--run_dir", str(tmp_path / "run"), *args])
    assert str(stopped.value).startswith("lightning-nas: ConfigError: ")
    assert "\n" not in str(stopped.value)
    assert not list(tmp_path.glob("run/[!.]*"))  # a lock is hidden


def test_a_refinement_by_a_strategy_that_begins_with_nothing_is_refused(tmp_path: Path, configs: Path) -> None:
    path = str(FOLDER / "nasbench201_two_scheme.yaml")
    other = str(configs / "evolve" / "random_search.yaml")
    with pytest.raises(SystemExit, match=r"refine\.yaml: .*RandomSearch"):
        main(["pipeline", "--config", path, "--run_dir", str(tmp_path / "run"), "--stages.refine", other])


def test_print_config_shows_every_stage_and_runs_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["pipeline", "--config", DIGITS, "--run_dir", str(tmp_path / "run"), "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed == {name: each.config for name, each in stages([DIGITS], tmp_path / "run").items()}
    assert not (tmp_path / "run").exists()


def test_merging_starts_anew_where_the_class_changes() -> None:
    base = {"o": {"class_path": "SGD", "init_args": {"lr": 1, "momentum": 0.9}}, "x": {"y": 1, "z": 2}}
    adam = {"class_path": "Adam", "init_args": {"lr": 2}}
    assert merge(base, {"o": adam})["o"] == adam
    assert merge(base, {"o": {**adam, "class_path": "SGD"}})["o"]["init_args"] == {"lr": 2, "momentum": 0.9}
    assert merge(base, {"x": {"y": 3}})["x"] == {"y": 3, "z": 2}
    assert merge({"o": "SGD"}, {"o": {"init_args": {"lr": 2}}})["o"] == {"class_path": "SGD", "init_args": {"lr": 2}}
    assert merge({"o": "${data}"}, {"o": {"init_args": {}}})["o"] == {"extends": "${data}", "init_args": {}}
    assert merge(base, {"o": {"extends": "${data}"}})["o"] == {"extends": "${data}"}


def test_a_key_below_a_name_spells_it_out() -> None:
    config: dict[str, Any] = {"stages": {"train": "a.yaml", "search": {"config": "b.yaml", "data": "${data}"}}}
    set_key(config, "stages.train.trainer.max_epochs", 3)
    set_key(config, "stages.search.data.init_args.batch_size", 4)
    set_key(config, "stages.search", "c.yaml")
    assert config["stages"] == {
        "train": {"config": "a.yaml", "trainer": {"max_epochs": 3}},
        "search": {"config": "c.yaml", "data": {"extends": "${data}", "init_args": {"batch_size": 4}}},
    }


def test_a_missing_pipeline_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        parse(["--config", "nowhere.yaml"])


def test_every_network_is_trained_with_the_same_seeds(tmp_path: Path) -> None:
    more = ["--stages.train.random_architectures", "2", "--stages.train.seeds", "3", "--seed_everything", "5"]
    found = stages([DIGITS, *more], tmp_path)
    names = [name for name, each in found.items() if each.test]
    repeats = [
        f"{name}{seed}"
        for name in ("train", "random_0", "random_1", "resnet_macs", "resnet_parameters")
        for seed in ("", "_seed_1", "_seed_2")
    ]
    assert sorted(names) == sorted(repeats)
    for name in names:
        each = found[name]
        seed = 5 + each.repeat
        assert each.config["seed_everything"] == each.config["data"]["init_args"]["seed"] == seed
        assert each.compared == (name != "train")
        if each.baseline is not None:
            assert each.arguments["architecture"] is None
            continue
        own = tmp_path if each.drawn_from is None else tmp_path / f"random_{each.draw}"
        assert each.arguments["architecture"] == str(own / "architecture.json")


@pytest.mark.parametrize("seeds", ["0", "true", "1.5"])
def test_numbers_of_seeds_that_make_no_sense(seeds: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stages\.train\.seeds is .*; it must be an integer of at least 1"):
        stages([DIGITS, "--stages.train.seeds", seeds], tmp_path)
    with pytest.raises(ConfigError, match=r"stages\.search\.seeds is 2"):
        stages([DIGITS, "--stages.search.seeds", "2"], tmp_path)


@pytest.mark.parametrize("name", PIPELINES)
def test_constraints_reach_the_stage_that_chooses_in_every_pipeline(name: str, tmp_path: Path) -> None:
    found = stages([str(FOLDER / name), "--constraints.macs", "5e6"], tmp_path)
    chooser = [each for each in found.values() if each.arguments.get("output_dir") and "space" in each.arguments][-1]
    text = json.dumps(chooser.config)
    assert '"macs": 5000000.0' in text
    train = found["train"]
    costs = {"channels": train.arguments["channels"], "cells": train.arguments["cells"], "data": train.config["data"]}
    assert json.dumps({"class_path": "NetworkCosts", "init_args": costs}) in text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--constraints.macs", "many"], r"constraints\.macs is 'many'; it must be a number greater than 0"),
        (["--constraints.macs", "-5"], r"constraints\.macs is -5\.0; it must be greater than 0"),
        (["--constraints.watts", "5"], r"constraints names watts; the costs of a network are parameters, macs"),
        (["--constraints", "5"], r"constraints is 5; it must be a mapping"),
    ],
)
def test_constraints_that_make_no_sense(args: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        stages([DIGITS, *args], tmp_path)


def test_constraints_that_no_stage_keeps(tmp_path: Path) -> None:
    args = ["--stages.search.model.init_args.discretizer", "ProductScore", "--constraints.macs", "5"]
    with pytest.raises(ConfigError, match="no stage keeps them"):
        stages([DIGITS, *args], tmp_path)
