"""The chain from images to a found network, made small: real digits, few steps."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from lightning_nas.__main__ import main
from lightning_nas.cli import lightning
from lightning_nas.data.architectures import ArchitecturesDataModule
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.distill.proxy import Proxy
from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import write_bytes
from lightning_nas.pipeline import summary as figures_of
from lightning_nas.report.screen import table
from lightning_nas.spaces.artifact import build_space, load_architecture
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from tests.conftest import ROOT
from tests.tiny import arrays

CONFIG = str(ROOT / "configs" / "pipeline" / "digits.yaml")
SMALL = {
    "stages.train.random_architectures": 1,
    "stages.train.baselines": "[]",
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


FEW = {
    "stages__fidelity__model__init_args__proxy__init_args__batch_size": 4,
    "stages__fidelity__model__init_args__reference__init_args__batch_size": 4,
    "stages__search__data__init_args__batch_size": 4,
    "stages__train__data__init_args__batch_size": 8,
}
"""Options for a pipeline on few images."""

TIMES = ("export_measured", "seconds", "seconds_total", "stages", "date", "peak_memory_mb", "command")
"""Keys of a summary that differ between equal runs."""

SCREENED = str(ROOT / "configs" / "pipeline" / "digits_screen.yaml")
SCREEN = {
    "workers": 1,
    "constraints.parameters": 3000,
    "stages.screen.model.init_args.strategy.init_args": "{initial: 4, parents: 1, rounds: 1}",
    "stages.screen.model.init_args.evaluator.init_args.images": 4,
    "stages.train.random_architectures": 2,
    "stages.train.baselines": "[{fit_to: parameters}, {class_path: ConvNet, init_args: {width: 2}}]",
    "stages.train.seeds": 2,
    "stages.train.model.init_args.channels": 2,
    "stages.train.trainer.max_epochs": 1,
    "stages.export.formats": "[py]",
    "trainer.enable_progress_bar": "false",
    "trainer.limit_train_batches": 1,
    "trainer.callbacks": "null",
}


def pairs(options: Mapping[str, object]) -> list[str]:
    return [part for key, value in options.items() for part in (f"--{key}", str(value))]


def arguments(run_dir: Path, **changes: object) -> list[str]:
    options = {**SMALL, **{key.replace("__", "."): value for key, value in changes.items()}}
    return ["--config", CONFIG, "--run_dir", str(run_dir), *pairs(options)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("pipeline") / "run"
    main(["pipeline", *arguments(run_dir)])
    return run_dir


@pytest.mark.slow
def test_the_run_folder_holds_everything(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["proxy_images"] == 80
    assert summary["source_images"] == 1294  # a tenth is held out to check the proxy
    assert 0 <= summary["test_accuracy"] <= 1
    assert summary["random_test_accuracies"] == [summary["random_test_accuracy"]]
    assert set(summary["seconds"]) == {"distill", "fidelity", "search", "train", "random_0", "export"}
    assert summary["seconds_total"] > sum(summary["seconds"].values())  # with one worker, checks come on top
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
    assert written.pop("failures") == []
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


@pytest.mark.slow
def test_running_again_goes_on_where_it_stopped(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads((finished / "summary.json").read_text())
    (finished / "train" / "done.json").unlink()  # as if killed before the test
    ran = []
    command = lightning.run
    monkeypatch.setattr(lightning, "run", lambda args: (ran.append(args), command(args))[1])
    main(["pipeline", *arguments(finished)])
    assert [args[0] for args in ran] == ["fit", "test"]
    assert all(str(finished / "train.yaml") in args and "--ckpt_path" in args for args in ran)
    after = json.loads((finished / "summary.json").read_text())
    assert after["test_accuracy"] == before["test_accuracy"]
    assert after["seconds_total"] > before["seconds_total"]
    out = capsys.readouterr().out
    assert "[1/6] distill: done before" in out
    assert "[4/6] train: TrainTask, 1,437 images, continued from its last checkpoint" in out
    assert out.index("Against random architecture 0") < out.index("test accuracy  ") < out.index("peak memory")


def test_a_folder_of_another_run_is_left_alone(finished: Path) -> None:
    before = (finished / "train.yaml").read_text()
    with pytest.raises(SystemExit, match="another configuration"):
        main(["pipeline", *arguments(finished, stages__train__trainer__max_epochs=2)])
    assert (finished / "train.yaml").read_text() == before


def test_the_report_can_be_written_again(finished: Path) -> None:
    (finished / "report.html").unlink()
    main(["report", str(finished)])
    assert (finished / "report.html").is_file()


@pytest.mark.slow
def test_cifar_pipeline_runs_on_arrays(tmp_path: Path) -> None:
    """The other shipped pipeline, with files already there."""
    path = arrays(tmp_path / "images.npz")
    small = {
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "trainer.limit_train_batches": 1,
        "data.class_path": "lightning_nas.data.images.ArrayDataModule",
        "data.path": path,
        "stages.train.random_architectures": 0,
        "stages.train.baselines": "null",
        "stages.fidelity": "null",
        "data.validation_fraction": 0,
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
    "stages.train.random_architectures": 0,
    "stages.train.baselines": "[]",
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


@pytest.mark.slow
def test_what_a_search_finds_is_refined_before_it_is_trained(tmp_path: Path) -> None:
    path, run_dir = arrays(tmp_path / "images.npz"), tmp_path / "run"
    pairs = {**SMALL_REFINEMENT, "data.path": path}
    args = ["--config", str(ROOT / "configs" / "pipeline" / "nasbench201_two_scheme.yaml"), "--run_dir", str(run_dir)]
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


def test_a_run_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(SystemExit, match="cannot write"):
        main(["pipeline", *arguments(tmp_path / "run")])


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
    smaller = {"stages__search__data__init_args__batch_size": 20}
    with pytest.raises(SystemExit, match=r"fit .*search\.yaml.* failed"):
        main(["pipeline", *arguments(tmp_path / "run", trainer__devices=2, stages__fidelity="null", **smaller)])
    assert [command[1:4] for command in ran] == [["-m", "lightning_nas", "fit"]] * 2
    assert [Path(command[5]).name for command in ran] == ["distill.yaml", "search.yaml"]
    assert (tmp_path / "run" / "distill" / "done.json").is_file()
    assert not (tmp_path / "run" / "search" / "done.json").exists()


def test_a_stage_that_has_not_begun_may_be_corrected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(args: list[str]) -> None:
        raise ConfigError(f"{Path(args[2]).stem} cannot be built")

    monkeypatch.setattr(lightning, "run", refuse)
    run_dir = tmp_path / "run"
    for epochs in (1, 2):
        with pytest.raises(SystemExit, match="distill cannot be built"):
            main(["pipeline", *arguments(run_dir, stages__train__trainer__max_epochs=epochs)])
        assert yaml.safe_load((run_dir / "train.yaml").read_text())["trainer"]["max_epochs"] == epochs
    write_bytes(run_dir / "train" / "checkpoints" / "last.ckpt", b"begun")
    with pytest.raises(SystemExit, match=r"train\.yaml is of a run with another configuration"):
        main(["pipeline", *arguments(run_dir, stages__train__trainer__max_epochs=3)])


@pytest.mark.slow
def test_a_screened_network_and_its_rivals_keep_the_constraints_with_every_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    main(["pipeline", "--config", SCREENED, "--run_dir", str(run_dir), *pairs(SCREEN)])
    summary = json.loads((run_dir / "summary.json").read_text())
    assert max(summary["parameters"], *summary["random_parameters"]) <= 3000
    assert len(summary["random_parameters"]) == 2
    logged = {name: figures_of.tested_accuracy(run_dir / name) for name in ("train", *summary["compared_stages"])}
    assert len(logged) == 2 * (1 + 2 + len(summary["baselines"]))
    assert summary["test_accuracies"] == [logged["train"], logged["train_seed_1"]]
    assert summary["test_accuracy"] == pytest.approx(sum(summary["test_accuracies"]) / 2)
    by_seed = [[logged[f"random_{i}"], logged[f"random_{i}_seed_1"]] for i in range(2)]
    assert summary["random_test_accuracies_by_seed"] == by_seed
    assert summary["random_test_accuracies"] == pytest.approx([sum(each) / 2 for each in by_seed])
    assert f"{len(logged) - 1} trainings to compare with" in table(summary)
    standard = summary["baselines"]
    assert [each["label"] for each in standard] == [standard[0]["label"], "ConvNet(width=2)"]
    for each in standard:
        assert each["test_accuracies"] == [logged[each["name"]], logged[f"{each['name']}_seed_1"]]
        assert each["label"] in table(summary)
        assert each["label"] in (run_dir / "report.html").read_text()
        assert each["label"].replace("_", r"\_") in (run_dir / "README.md").read_text()
    assert standard[0]["parameters"] <= min(summary["parameters"], 3000)
    network = json.loads((run_dir / "resnet_parameters" / "network.json").read_text())
    (run_dir / "resnet_parameters" / "done.json").unlink()  # as if killed before the test
    ran = []
    command = lightning.run
    monkeypatch.setattr(lightning, "run", lambda args: (ran.append(args[2]), command(args))[1])
    main(["pipeline", "--config", SCREENED, "--run_dir", str(run_dir), *pairs(SCREEN)])
    assert ran == [str(run_dir / "resnet_parameters.yaml")] * 2
    assert json.loads((run_dir / "resnet_parameters" / "network.json").read_text()) == network
    weights = [
        torch.load(run_dir / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("random_0", "random_0_seed_1")
    ]
    assert weights[0].keys() == weights[1].keys()
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    # workers train the same networks to the last bit
    for name in ("random_0_seed_1", "resnet_parameters_seed_1"):
        shutil.rmtree(run_dir / name)
    main(["pipeline", "--config", SCREENED, "--run_dir", str(run_dir), *pairs(SCREEN), "--workers", "2"])
    assert "comparison: 2 trainings, 2 at a time" in capsys.readouterr().out
    assert "Seed set to 1" in (run_dir / "random_0_seed_1" / "log.txt").read_text()
    again = torch.load(run_dir / "random_0_seed_1" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(again[key], weights[1][key]) for key in weights[1])
    assert {**json.loads((run_dir / "summary.json").read_text()), **dict.fromkeys(TIMES)} == {
        **summary,
        **dict.fromkeys(TIMES),
    }


def test_workers_cannot_run_trainers_that_start_processes(tmp_path: Path) -> None:
    args = ["pipeline", "--config", SCREENED, "--run_dir", str(tmp_path / "run"), *pairs(SCREEN), "--workers", "2"]
    with pytest.raises(SystemExit, match="workers is 2, but the trainer of train_seed_1 starts processes of its own"):
        main([*args, "--trainer.devices", "2"])
    with pytest.raises(SystemExit, match="workers is 0; it must be an integer of at least 1"):
        main([*args, "--workers", "0"])


def test_a_network_that_does_not_fit_the_images_is_refused_before_the_first_stage(tmp_path: Path) -> None:
    changes = {**SCREEN, "stages.train.baselines": "[{class_path: TorchvisionNetwork, init_args: {name: alexnet}}]"}
    args = ["pipeline", "--config", SCREENED, "--run_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match=r"baseline_0: TorchvisionNetwork\(name=alexnet\) cannot classify images"):
        main([*args, *pairs(changes)])
    assert not (tmp_path / "run" / "screen").exists()
    with pytest.raises(SystemExit, match=r"baseline_0\.yaml: model\.network"):
        main([*args, *pairs({**changes, "stages.train.baselines": "[NoSuchNetwork]"})])


def test_a_found_network_beyond_the_constraints_is_not_trained(tmp_path: Path) -> None:
    space = NASBench201Space()
    space.largest().save(tmp_path / "large.json")
    changes = {**SCREEN, "stages.train.model.init_args.architecture": tmp_path / "large.json"}
    with pytest.raises(SystemExit, match=r"exceed the constraints \{'parameters': 3000\.0\}"):
        main(["pipeline", "--config", SCREENED, "--run_dir", str(tmp_path / "run"), *pairs(changes)])
    assert not (tmp_path / "run" / "train").exists()
