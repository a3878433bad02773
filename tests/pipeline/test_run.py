"""The chain from images to a found network, made small: real digits, few steps."""

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from lightning_nas.__main__ import main
from lightning_nas.cli.lightning import check_config
from lightning_nas.data.architectures import ArchitecturesDataModule
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.distill.proxy import Proxy
from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import write_bytes
from lightning_nas.pipeline.config import merge, parse, set_key
from lightning_nas.pipeline.run import Pipeline
from lightning_nas.pipeline.stages import Stages
from lightning_nas.report.screen import table
from lightning_nas.spaces.artifact import build_space, load_architecture
from lightning_nas.spaces.darts.space import DARTSSpace
from tests.cli.test_configs import arrays
from tests.conftest import ROOT

CONFIG = str(ROOT / "configs" / "pipeline" / "digits.yaml")
SMALL = {
    "random_architectures": 1,
    "trainer.enable_progress_bar": "false",
    "trainer.limit_train_batches": 2,
    "trainer.callbacks": "null",
    "stages.distill.trainer.max_epochs": 1,
    "stages.distill.model.init_args.scheme.init_args.images_per_class": 8,
    "stages.fidelity.model.init_args.proxy.init_args.steps": 2,
    "stages.fidelity.model.init_args.reference.init_args.steps": 2,
    "stages.search.model.init_args.space.init_args.channels": 2,
    "stages.search.model.init_args.space.init_args.nodes": 2,
    "stages.search.model.init_args.selection_images": 16,
    "stages.search.trainer.max_epochs": 2,
    "stages.train.model.init_args.channels": 2,
    "stages.train.trainer.max_epochs": 1,
    "stages.export.formats": "[py]",
}


def arguments(run_dir: Path, **changes: object) -> list[str]:
    pairs = {**SMALL, **{key.replace("__", "."): value for key, value in changes.items()}}
    return ["--config", CONFIG, "--run_dir", str(run_dir)] + [p for k, v in pairs.items() for p in (f"--{k}", str(v))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("pipeline") / "run"
    main(["pipeline", *arguments(run_dir)])
    return run_dir


def test_the_run_folder_holds_everything(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["proxy_images"] == 80
    assert summary["source_images"] == 1294  # a tenth is held out to check the proxy
    assert 0 <= summary["test_accuracy"] <= 1
    assert summary["random_test_accuracies"] == [summary["random_test_accuracy"]]
    assert set(summary["seconds"]) == {"distill", "fidelity", "search", "train", "random_0", "export"}
    assert summary["export_difference"] < 1e-5
    assert summary["parameters"] > 0
    assert summary["macs"] > summary["parameters"]
    assert summary["selection_errors"]["edges"]["count"] == 2
    architecture = load_architecture(finished / "architecture.json")
    assert summary["genotype"] == build_space(architecture.space).text(architecture)
    assert len(Proxy.load(finished / "proxy.safetensors").images) == 80
    html = (finished / "report.html").read_text()
    assert html.count("<svg") >= 2
    assert "Can the proxy be trusted?" in html
    assert "http://" not in html.replace("http://www.w3.org", "")


def test_the_proxy_is_checked_with_architectures_of_the_searched_space(finished: Path) -> None:
    summary, written, proxy = (
        json.loads((finished / f"{name}.json").read_text()) for name in ("summary", "fidelity", "proxy")
    )
    space = DARTSSpace(nodes=2)
    results = written.pop("results")
    drawn = ArchitecturesDataModule(space, count=2).architectures
    assert [row["architecture"] for row in results] == [space.text(a) for a in drawn]
    figures = {key: value for key, value in written.items() if key not in ("schema", "lightning_nas")}
    assert summary["fidelity"] == proxy["fidelity"] == figures
    assert figures["architectures"] == 2
    assert f"{100 * figures['best_truth']:.2f}%" in (finished / "report.html").read_text()
    shown = table(summary)
    assert "2 (informative only)" in shown
    assert f"{figures['regret_points']:.2f} points" in shown


def test_the_images_that_the_proxy_is_scored_on_are_kept_from_the_distillation(finished: Path) -> None:
    distill, fidelity = (yaml.safe_load((finished / f"{name}.yaml").read_text()) for name in ("distill", "fidelity"))
    seen = DigitsDataModule(**distill["data"]["init_args"]["data"]["init_args"])
    evaluator = fidelity["model"]["init_args"]["proxy"]["init_args"]
    held_out = DigitsDataModule(**evaluator["data"]["init_args"]["held_out"]["init_args"])
    assert evaluator["data"]["init_args"]["proxy_path"] == str(finished / "proxy.safetensors")
    assert len(seen.train_set) + len(held_out.validation_set) == 1437
    assert torch.equal(seen.train_set.labels, held_out.train_set.labels)
    both = torch.cat([seen.train_set.images, held_out.validation_set.images])  # type: ignore[attr-defined]
    assert len(both.unique(dim=0)) == len(DigitsDataModule().train_set.images.unique(dim=0))  # type: ignore[attr-defined]


def test_the_exported_file_has_the_trained_network(finished: Path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("exported", finished / "network.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    checkpoint = torch.load(finished / "train" / "checkpoints" / "last.ckpt", weights_only=True)
    weights = {f"network.{name}": value for name, value in module.network().state_dict().items()}
    for name, value in weights.items():
        assert torch.equal(value, checkpoint["state_dict"][name])


def test_random_architectures_are_trained_like_the_found_one(finished: Path) -> None:
    found, random = (yaml.safe_load((finished / f"{name}.yaml").read_text()) for name in ("train", "random_0"))
    assert found["model"]["init_args"].pop("architecture") != random["model"]["init_args"].pop("architecture")
    for config in (found, random):
        config["trainer"].pop("logger")
        config["trainer"].pop("callbacks")
    assert found == random
    assert load_architecture(finished / "random_0" / "architecture.json") != load_architecture(
        finished / "architecture.json"
    )


def test_running_again_goes_on_where_it_stopped(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads((finished / "summary.json").read_text())
    (finished / "train" / "done.json").unlink()  # as if killed before the test
    ran = []
    command = Pipeline._command
    monkeypatch.setattr(
        Pipeline, "_command", lambda self, args, trainer: (ran.append(args), command(self, args, trainer))[1]
    )
    main(["pipeline", *arguments(finished)])
    assert [args[0] for args in ran] == ["fit", "test"]
    assert all(str(finished / "train.yaml") in args and "--ckpt_path" in args for args in ran)
    after = json.loads((finished / "summary.json").read_text())
    assert after["test_accuracy"] == before["test_accuracy"]
    assert "distill: done before" in capsys.readouterr().out


def test_a_folder_of_another_run_is_left_alone(finished: Path) -> None:
    before = (finished / "train.yaml").read_text()
    with pytest.raises(SystemExit, match="another configuration"):
        main(["pipeline", *arguments(finished, stages__train__trainer__max_epochs=2)])
    assert (finished / "train.yaml").read_text() == before


def test_the_report_can_be_written_again(finished: Path) -> None:
    (finished / "report.html").unlink()
    main(["report", str(finished)])
    assert (finished / "report.html").is_file()


def stage(args: list[str], name: str, base: Path, run_dir: Path) -> dict[str, object]:
    config, _, _ = parse(args)
    return Stages(config, run_dir, base).config_of(name)


def test_one_argument_swaps_the_scheme_and_nothing_of_the_other_stays(tmp_path: Path, configs: Path) -> None:
    args = ["--config", CONFIG, "--stages.distill", str(configs / "distill" / "random_subset.yaml")]
    model = stage(args, "distill", configs / "pipeline", tmp_path)["model"]
    assert model["init_args"]["scheme"]["class_path"].endswith("RandomSubset")  # type: ignore[index]
    assert "matcher" not in model["init_args"]  # type: ignore[index]


def test_without_distillation_the_search_sees_halves_of_the_real_images(tmp_path: Path, configs: Path) -> None:
    args = ["--config", CONFIG, "--stages.distill", "null", "--data.seed", "3"]
    data = stage(args, "search", configs / "pipeline", tmp_path)["data"]
    assert data["class_path"].endswith("HalvesDataModule")  # type: ignore[index]
    inner = data["init_args"]["data"]  # type: ignore[index]
    assert inner["class_path"].endswith("DigitsDataModule")
    assert inner["init_args"]["seed"] == 3


def test_without_distillation_no_proxy_is_checked(tmp_path: Path, configs: Path) -> None:
    for swaps in (["--stages.distill", "null"], ["--stages.fidelity", "null"]):
        config, _, _ = parse(["--config", CONFIG, *swaps])
        assert "fidelity" not in Stages(config, tmp_path, configs / "pipeline").fits
    distill: Any = stage(["--config", CONFIG, "--stages.fidelity", "null"], "distill", configs / "pipeline", tmp_path)
    assert distill["data"]["init_args"]["data"]["init_args"]["validation_fraction"] == 0


@pytest.mark.parametrize("name", ["cifar10.yaml", "cifar10_cpu.yaml", "digits.yaml"])
def test_the_check_of_the_proxy_is_a_fit_of_one_process(name: str, tmp_path: Path, configs: Path) -> None:
    args = ["--config", str(configs / "pipeline" / name), "--trainer.devices", "4", "--trainer.strategy", "ddp"]
    args += ["--trainer.max_epochs", "7", "--trainer.precision", "bf16-true", "--data.seed", "5"]
    fidelity: Any = stage(args, "fidelity", configs / "pipeline", tmp_path)
    search: Any = stage(args, "search", configs / "pipeline", tmp_path)
    trainer = {key: fidelity["trainer"][key] for key in ("devices", "strategy", "max_epochs", "precision")}
    assert trainer == {"devices": 1, "strategy": "auto", "max_epochs": 1, "precision": "32-true"}
    assert fidelity["data"]["init_args"]["space"] == search["model"]["init_args"]["space"]
    evaluators = [
        fidelity["model"]["init_args"][part]["init_args"]["data"]["init_args"] for part in ("proxy", "reference")
    ]
    for images in (evaluators[0]["held_out"], evaluators[1]["data"]):
        assert images["class_path"] == yaml.safe_load((configs / "pipeline" / name).read_text())["data"]["class_path"]
        assert images["init_args"]["seed"] == 5
    write_bytes(tmp_path / "fidelity.yaml", yaml.safe_dump(fidelity).encode())
    check_config(tmp_path / "fidelity.yaml")
    assert "&id" not in (tmp_path / "fidelity.yaml").read_text()


def test_the_search_half_may_be_real_images_that_were_not_distilled(tmp_path: Path, configs: Path) -> None:
    held_out = {"class_path": "x.Y", "init_args": {"validation_fraction": 0.1, "split_seed": 4, "batch_size": 9}}
    own = {"batch_size": 8, "images_per_group": 1, "proxy_path": "", "held_out": held_out}
    data = {"class_path": "lightning_nas.distill.data_module.DistilledDataModule", "init_args": own}
    args = ["--config", CONFIG, "--stages.search.data", json.dumps(data)]
    base = configs / "pipeline"
    with pytest.raises(ConfigError, match=r"stage search holds out .*'split_seed': 4.* are not those"):
        stage(args, "distill", base, tmp_path)
    args += ["--stages.fidelity", "null"]
    search: Any = stage(args, "search", base, tmp_path)
    found = search["data"]["init_args"]
    assert found["proxy_path"] == str(tmp_path / "proxy.safetensors")
    assert (found["batch_size"], found["images_per_group"]) == (8, 1)
    assert found["held_out"]["class_path"].endswith("DigitsDataModule")
    assert found["held_out"]["init_args"] == {**held_out["init_args"], "seed": 0}  # type: ignore[dict-item]
    distill: Any = stage(args, "distill", base, tmp_path)
    images = distill["data"]["init_args"]["data"]["init_args"]
    assert (images["validation_fraction"], images["split_seed"]) == (0.1, 4)
    write_bytes(tmp_path / "search.yaml", yaml.safe_dump(search).encode())
    check_config(tmp_path / "search.yaml")


def test_a_table_stays_as_it_is(tmp_path: Path, configs: Path) -> None:
    table_file = {"class_path": "lightning_nas.tables.nasbench201.NASBench201Table", "init_args": {"path": "t.npz"}}
    reference = {"class_path": "lightning_nas.evaluation.table.TableLookup", "init_args": {"table": table_file}}
    args = ["--config", CONFIG, "--stages.fidelity.model.init_args.reference", json.dumps(reference)]
    fidelity: Any = stage(args, "fidelity", configs / "pipeline", tmp_path)
    assert fidelity["model"]["init_args"]["reference"] == reference
    write_bytes(tmp_path / "fidelity.yaml", yaml.safe_dump(fidelity).encode())
    check_config(tmp_path / "fidelity.yaml")


def test_cifar_pipeline_runs_on_arrays(tmp_path: Path) -> None:
    """The other shipped pipeline, with files already there."""
    path = arrays(tmp_path / "images.npz")
    small = {
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "trainer.limit_train_batches": 1,
        "data.class_path": "lightning_nas.data.images.ArrayDataModule",
        "data.path": path,
        "random_architectures": 0,
        "stages.fidelity": "null",
        "stages.distill.trainer.max_epochs": 1,
        "stages.distill.data.init_args.steps_per_epoch": 1,
        "stages.distill.model.init_args.scheme.init_args.bases_per_class": 4,
        "stages.distill.model.init_args.matcher.init_args.width": 4,
        "stages.search.trainer.max_epochs": 1,
        "stages.search.data.init_args.batch_size": 4,
        "stages.search.model.init_args.selection_images": 0,
        "stages.search.model.init_args.space.init_args.channels": 2,
        "stages.search.model.init_args.space.init_args.cells": 2,
        "stages.train.trainer.max_epochs": 1,
        "stages.train.data.init_args.batch_size": 8,
        "stages.train.model.init_args.channels": 2,
        "stages.train.model.init_args.cells": 3,
    }
    args = [part for key, value in small.items() for part in (f"--{key}", str(value))]
    run_dir = tmp_path / "run"
    main(
        ["pipeline", "--config", str(ROOT / "configs" / "pipeline" / "cifar10.yaml"), "--run_dir", str(run_dir), *args]
    )
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["source_images"] == 48
    assert summary["random_test_accuracy"] is None
    assert summary["fidelity"] is None
    assert "fidelity" not in table(summary)


SMALL_REFINEMENT = {
    "trainer.enable_progress_bar": "false",
    "trainer.limit_train_batches": 1,
    "trainer.callbacks": "null",
    "data.class_path": "lightning_nas.data.images.ArrayDataModule",
    "random_architectures": 0,
    "stages.search.trainer.max_epochs": 1,
    "stages.search.data.init_args.batch_size": 4,
    "stages.search.data.init_args.data.init_args.image_size": 8,
    "stages.search.model.init_args.space.init_args.channels": 2,
    "stages.refine.model.init_args.strategy.init_args.neighbours": 2,
    "stages.refine.trainer.limit_train_batches": "1.0",
    "stages.train.trainer.max_epochs": 1,
    "stages.train.data.init_args.batch_size": 8,
    "stages.train.model.init_args.channels": 2,
    "stages.train.model.init_args.cells": 1,
    "stages.export.formats": "[py]",
}
SHORT = "stages.refine.model.init_args.evaluator.init_args.evaluator.init_args.evaluator.init_args"
SMALL_REFINEMENT |= {f"{SHORT}.{key}": 2 for key in ("steps", "channels", "cells", "batch_size")}
SMALL_REFINEMENT[f"{SHORT}.image_size"] = 8


def test_what_a_search_finds_is_refined_before_it_is_trained(tmp_path: Path) -> None:
    path, run_dir = arrays(tmp_path / "images.npz"), tmp_path / "run"
    pairs = {**SMALL_REFINEMENT, "data.path": path}
    args = ["--config", str(ROOT / "configs" / "pipeline" / "nasbench201_cpu.yaml"), "--run_dir", str(run_dir)]
    main(["pipeline", *args, *(part for key, value in pairs.items() for part in (f"--{key}", str(value)))])
    summary = json.loads((run_dir / "summary.json").read_text())
    assert list(summary["seconds"]) == ["search", "refine", "train", "export"]
    found, searched = (load_architecture(run_dir / at) for at in ("architecture.json", "search/architecture.json"))
    space = build_space(found.space)
    assert searched.space == found.space
    assert (summary["genotype"], summary["searched_genotype"]) == (space.text(found), space.text(searched))
    refined = yaml.safe_load((run_dir / "refine.yaml").read_text())
    search = yaml.safe_load((run_dir / "search.yaml").read_text())
    arguments = refined["model"]["init_args"]
    assert arguments["strategy"]["init_args"]["starts"] == [str(run_dir / "search" / "architecture.json")]
    order = arguments["strategy"]["init_args"]["order"]
    assert order["init_args"]["alphas"] == [str(run_dir / "search" / "alphas.safetensors")]
    training = arguments["evaluator"]["init_args"]["evaluator"]["init_args"]["evaluator"]["init_args"]
    assert training["data"] == search["data"]
    history = json.loads((run_dir / "history.json").read_text())["history"]
    # the start and its neighbours, then the finals; the start is in all of them
    assert [row["architecture"] for row in history].count(space.text(searched)) == 2
    trained = yaml.safe_load((run_dir / "train.yaml").read_text())["model"]["init_args"]["architecture"]
    assert trained == str(run_dir / "architecture.json")
    html = (run_dir / "report.html").read_text()
    assert "Weights of the operations" in html
    assert "no alphas.safetensors" not in html


def test_a_refinement_sees_the_proxy_that_the_search_has_seen(tmp_path: Path, configs: Path) -> None:
    args = ["--config", str(configs / "pipeline" / "nasbench201_cpu.yaml")]
    args += ["--stages.distill", "../distill/scheme1.yaml", "--seed_everything", "3"]
    refined: Any = stage(args, "refine", configs / "pipeline", tmp_path)
    search: Any = stage(args, "search", configs / "pipeline", tmp_path)
    training = refined["model"]["init_args"]["evaluator"]["init_args"]["evaluator"]["init_args"]["evaluator"]
    assert training["init_args"]["data"] == search["data"]
    assert search["data"]["init_args"]["proxy_path"] == str(tmp_path / "proxy.safetensors")
    assert training["init_args"]["seed"] == 3
    write_bytes(tmp_path / "refine.yaml", yaml.safe_dump(refined).encode())
    assert refined["trainer"]["max_epochs"] == 1


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["--stagess.train", "x.yaml"], "stagess"),
        (["--stages.trian", "x.yaml"], r"stages\.trian"),
        (["--stages.train", "null"], r"stages\.train"),
        (["--stages.train", "nowhere.yaml"], r"nowhere\.yaml"),
        (["--data", "null"], "class_path|data"),
        (["stray"], "stray"),
        (["--stages", "null"], "mappings"),
        (["--stages.search", "5"], r"stages\.search"),
        (["--seed_everything", "abc"], "seed_everything"),
        (["--seed_everything.x", "1"], "not a mapping"),
        (["--random_architectures", "-1"], "random_architectures"),
        (["--data.root", "[a"], "YAML"),
        (["--stages.export.foo", "1"], r"stages\.export"),
        (["--stages.train.trainer.max_epochs", "0"], "max_epochs"),
        (["--stages.distill.data.init_args.data.init_args.train_limit", "99"], "score on distilled ones"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path, args: list[str], match: str) -> None:
    with pytest.raises(SystemExit, match=match):
        main(["pipeline", "--config", CONFIG, "--run_dir", str(tmp_path / "run"), *args])
    assert not list(tmp_path.glob("run/[!.]*"))  # a lock is hidden


def test_a_misspelt_key_of_a_later_stage_is_found_before_the_first_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["pipeline", *arguments(tmp_path / "run", stages__train__model__init_args__chanels=3)])
    assert "chanels" in capsys.readouterr().err
    assert not (tmp_path / "run" / "distill").exists()


def test_a_run_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(SystemExit, match="cannot write"):
        main(["pipeline", *arguments(tmp_path / "run")])


def test_the_seed_reaches_every_stage(tmp_path: Path, configs: Path) -> None:
    args = ["--config", CONFIG, "--seed_everything", "7"]
    for name in ("distill", "fidelity", "search", "train"):
        text = json.dumps(stage(args, name, configs / "pipeline", tmp_path))
        seeds = re.findall(r'"(seed|seed_everything)": (\d+)', text)
        reference = {("seed", "1000")} if name == "fidelity" else set()  # the reference trains weights of its own
        assert set(seeds) == {("seed", "7"), ("seed_everything", "7")} | reference, name


def test_a_control_is_made_on_one_device(tmp_path: Path, configs: Path) -> None:
    control = str(configs / "distill" / "random_subset.yaml")
    args = ["--config", CONFIG, "--trainer.devices", "4", "--stages.distill", control]
    assert stage(args, "distill", configs / "pipeline", tmp_path)["trainer"]["devices"] == 1  # type: ignore[index]
    assert stage(args, "search", configs / "pipeline", tmp_path)["trainer"]["devices"] == 4  # type: ignore[index]


def test_merging_starts_anew_where_the_class_changes() -> None:
    base = {"o": {"class_path": "SGD", "init_args": {"lr": 1, "momentum": 0.9}}, "x": {"y": 1, "z": 2}}
    assert merge(base, {"o": {"class_path": "Adam", "init_args": {"lr": 2}}})["o"] == {
        "class_path": "Adam",
        "init_args": {"lr": 2},
    }
    assert merge(base, {"o": {"class_path": "SGD", "init_args": {"lr": 2}}})["o"]["init_args"] == {
        "lr": 2,
        "momentum": 0.9,
    }
    assert merge(base, {"x": {"y": 3}})["x"] == {"y": 3, "z": 2}
    config: dict[str, object] = {"stages": {"train": "a.yaml"}}
    set_key(config, "stages.train.trainer.max_epochs", 3)
    assert config == {"stages": {"train": {"config": "a.yaml", "trainer": {"max_epochs": 3}}}}


def test_a_missing_pipeline_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        parse(["--config", "nowhere.yaml"])


def test_on_several_devices_every_stage_is_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher starts the command line again on every device: it must be that of one stage."""
    ran: list[list[str]] = []

    def record(command: list[str]) -> SimpleNamespace:
        ran.append(command)
        last = tmp_path / "run" / Path(command[5]).stem / "checkpoints" / "last.ckpt"
        last.parent.mkdir(parents=True)
        last.touch()
        return SimpleNamespace(wait=lambda: 0 if "distill" in str(command) else 3)

    monkeypatch.setattr(subprocess, "Popen", record)
    with pytest.raises(SystemExit, match=r"fit .*search\.yaml.* failed"):
        main(["pipeline", *arguments(tmp_path / "run", trainer__devices=2, stages__fidelity="null")])
    assert [command[1:4] for command in ran] == [["-m", "lightning_nas", "fit"]] * 2
    assert [Path(command[5]).name for command in ran] == ["distill.yaml", "search.yaml"]
    assert (tmp_path / "run" / "distill" / "done.json").is_file()
    assert not (tmp_path / "run" / "search" / "done.json").exists()


def test_options_that_no_class_takes_are_refused(tmp_path: Path, configs: Path) -> None:
    whole = ["--config", str(configs / "pipeline" / "nasbench201_cpu.yaml")]
    whole += ["--data.class_path", "lightning_nas.data.images.ArrayDataModule", "--data.path", "x.npz"]
    proxy = ["--config", str(configs / "pipeline" / "cifar10_cpu.yaml")]
    for args, option, value, name in (
        (whole, "train.data.init_args.batchsize", "3", "CIFAR10DataModule takes no batchsize"),
        (whole, "search.data.init_args.data.init_args.augmentation", "null", "CIFAR10DataModule takes no augmentation"),
        (proxy, "search.data.init_args.searchfraction", "0.9", "HalvesDataModule takes no searchfraction"),
        (proxy, "search.data.init_args.held_out", "{class_path: x}", "HalvesDataModule takes no held_out"),
    ):
        with pytest.raises(ConfigError, match=name):
            stage([*args, f"--stages.{option}", value], option.split(".")[0], configs / "pipeline", tmp_path)


def test_a_refinement_that_cannot_begin_with_what_was_found_is_refused(tmp_path: Path, configs: Path) -> None:
    for options, reason in (
        (["--stages.refine", str(configs / "search" / "darts.yaml")], "has the strategy None; expected are class_path"),
        (["--stages.refine", str(configs / "evolve" / "random_search.yaml")], "needs one with `starts`"),
        (["--stages.refine.model.init_args.evaluator", "null"], "has the evaluator None"),
    ):
        args = ["--config", str(configs / "pipeline" / "nasbench201_cpu.yaml"), *options]
        with pytest.raises(ConfigError, match=reason):
            stage(args, "refine", configs / "pipeline", tmp_path)
    named = ["--stages.refine.model.init_args.strategy", "lightning_nas.strategies.refine.Refine"]
    args = ["--config", str(configs / "pipeline" / "nasbench201_cpu.yaml"), *named]
    refined: Any = stage(args, "refine", configs / "pipeline", tmp_path)
    assert refined["model"]["init_args"]["strategy"]["init_args"]["starts"]


def test_a_stage_that_has_not_begun_may_be_corrected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Pipeline, name: str, *, test: bool) -> None:
        raise ConfigError(f"{name} cannot be built")

    monkeypatch.setattr(Pipeline, "_stage", refuse)
    run_dir = tmp_path / "run"
    for epochs in (1, 2):
        with pytest.raises(SystemExit, match="distill cannot be built"):
            main(["pipeline", *arguments(run_dir, stages__train__trainer__max_epochs=epochs)])
        assert yaml.safe_load((run_dir / "train.yaml").read_text())["trainer"]["max_epochs"] == epochs
    write_bytes(run_dir / "train" / "checkpoints" / "last.ckpt", b"begun")
    with pytest.raises(SystemExit, match=r"train\.yaml is of a run with another configuration"):
        main(["pipeline", *arguments(run_dir, stages__train__trainer__max_epochs=3)])
